"""What the rows of one prompt weigh, and which of them contain each other.

A row weighs the probability of some ids, whatever comes after them: all draws that begin with these ids are in it. They
are the labelled ids where these were drawn; else the shortest start of the row's draw that has its text. So where these
ids of one row begin with those of another, the other has the first one's probability in its own. Of texts that begin
with each other this need not hold: a text can be written in several tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evalgen.samples import total_count

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class UnweighedRow:
    """A row of a dataset that lacks `weight` and `is_prefix_of`, which depend on the prompt's other rows."""

    columns: dict[str, Any]
    mass_ids: Ids  # whose probability it weighs
    is_drawn: bool  # they are the labelled ones
    log_mass: float  # nats, T=1: the logarithm of what it weighs, but for a factor that is one for all of the prompt

    @property
    def text(self) -> str:
        text: str = self.columns["completion"]
        return text


def weighed(rows: Sequence[UnweighedRow], exclusive: bool) -> list[dict[str, Any]]:
    """The columns of a prompt's rows, in their order; if `exclusive`, of a prefix-free set of them."""
    if exclusive:
        rows = prefix_free(rows)
    weights = normalized([row.log_mass for row in rows])
    return [
        row.columns | {"weight": weight, "is_prefix_of": None if longer is None else rows[longer].columns["id"]}
        for row, weight, longer in zip(rows, weights, _first_longer(rows), strict=True)
    ]


def prefix_free(rows: Sequence[UnweighedRow]) -> list[UnweighedRow]:
    """Rows of which none has another's probability in its own, each with the draws of all whose probability it has.

    Of rows with one probability that stays whose labelled ids were drawn, else that with the shortest text.
    """
    of_ids = _by_ids(rows)
    kept = [min(places, key=lambda place: (not rows[place].is_drawn, len(rows[place].text))) for places in of_ids]
    merged: dict[int, list[UnweighedRow]] = {}
    for places, shortest in zip(of_ids, shortest_starts([rows[place].mass_ids for place in kept]), strict=True):
        merged.setdefault(kept[shortest], []).extend(rows[place] for place in places)
    return [
        replace(
            rows[place],
            columns=rows[place].columns
            | {"sample_count": total_count(row.columns["sample_count"] for row in merged[place])},
        )
        for place in sorted(merged)
    ]


def _by_ids(rows: Sequence[UnweighedRow]) -> list[list[int]]:
    """The places of rows with equal ids, together."""
    groups: dict[Ids, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.mass_ids, []).append(place)
    return list(groups.values())


def _first_longer(rows: Sequence[UnweighedRow]) -> list[int | None]:
    """For each row the first place of one whose probability is in its own: its ids go on, or else its text does."""
    longer = first_extensions([row.mass_ids for row in rows])
    for places in _by_ids(rows):
        texts = {rows[place].text: place for place in reversed(places)}  # the first place of each
        for place in places if len(texts) > 1 else ():
            text = rows[place].text
            others = [other for it, other in texts.items() if it != text and it.startswith(text)]
            candidates = [it for it in (longer[place], *others) if it is not None]
            longer[place] = min(candidates) if candidates else None
    return longer


def normalized(log_masses: Sequence[float]) -> list[float]:
    """exp of each over the sum of them all: against the largest, so that however small they are, they do not vanish."""
    if not log_masses:
        return []
    masses = np.exp(np.array(log_masses) - max(log_masses))
    weights: list[float] = (masses / masses.sum()).tolist()
    return weights


def first_extensions(sequences: Sequence[Ids]) -> list[int | None]:
    """For each sequence the first place of one that begins with it and is longer; None: there is none."""
    first_places = {sequence: place for place, sequence in reversed(list(enumerate(sequences)))}
    extensions: dict[Ids, int] = {}
    # From the longest to the shortest: what extends a sequence's extension extends the sequence.
    for sequence, start in reversed(_longest_starts(sequences).items()):
        if start is not None:
            first = min(first_places[sequence], extensions.get(sequence, len(sequences)))
            extensions[start] = min(first, extensions.get(start, first))
    return [extensions.get(sequence) for sequence in sequences]


def shortest_starts(sequences: Sequence[Ids]) -> list[int]:
    """For each of distinct sequences the place of the shortest one that it begins with, which may be itself."""
    places = {sequence: place for place, sequence in enumerate(sequences)}
    assert len(places) == len(sequences), "a sequence stands twice"
    shortest: dict[Ids, int] = {}
    for sequence, start in _longest_starts(sequences).items():
        shortest[sequence] = places[sequence] if start is None else shortest[start]
    return [shortest[sequence] for sequence in sequences]


def _longest_starts(sequences: Sequence[Ids]) -> dict[Ids, Ids | None]:
    """For each distinct sequence the longest other one that it begins with, which stands before it; None: none.

    In sorted order all that begin with a sequence follow it: those that are open now are the starts of the next one.
    """
    starts: dict[Ids, Ids | None] = {}
    open_starts: list[Ids] = []
    for sequence in sorted(set(sequences)):
        while open_starts and sequence[: len(open_starts[-1])] != open_starts[-1]:
            open_starts.pop()
        starts[sequence] = open_starts[-1] if open_starts else None
        open_starts.append(sequence)
    return starts
