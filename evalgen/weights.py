"""What the rows of one prompt weigh, and which of them contain each other.

A row's log-probability is that of its labelled ids, whatever comes after them: all draws that begin with these ids are
in it. So where the ids of one row begin with those of another, the other has the first one's probability in its own. Of
texts that begin with each other this need not hold: a text can be written in several tokens.
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
    ids: Ids  # the labelled ones
    log_mass: float  # nats, T=1: the logarithm of what it weighs, but for a factor that is one for all of the prompt


def weighed(rows: Sequence[UnweighedRow], exclusive: bool) -> list[dict[str, Any]]:
    """The columns of a prompt's rows, in their order; if `exclusive`, of a prefix-free set of them."""
    if exclusive:
        rows = prefix_free(rows)
    weights = normalized([row.log_mass for row in rows])
    extensions = first_extensions([row.ids for row in rows])
    return [
        row.columns | {"weight": weight, "is_prefix_of": None if longer is None else rows[longer].columns["id"]}
        for row, weight, longer in zip(rows, weights, extensions, strict=True)
    ]


def prefix_free(rows: Sequence[UnweighedRow]) -> list[UnweighedRow]:
    """Those rows whose ids begin with no other row's, each with the draws of all that begin with its own."""
    merged: dict[int, list[UnweighedRow]] = {}
    for row, shortest in zip(rows, shortest_starts([row.ids for row in rows]), strict=True):
        merged.setdefault(shortest, []).append(row)
    return [
        replace(
            rows[shortest],
            columns=rows[shortest].columns
            | {"sample_count": total_count(row.columns["sample_count"] for row in merged[shortest])},
        )
        for shortest in sorted(merged)
    ]


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
