"""Which prompts and completions of a dataset are shown: some of each, whatever there is, read batch by batch.

Those that somebody should look at come first: votes that were not unanimous, and what was not judged. The rest is an
even spread over the dataset's prompts, and of each prompt the most frequent completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.dataset_files import LEFT_OUT_FILE, PROMPTS_FILE, REJECTS_FILE, SPANS_BOUNDARY
from evalgen.records import VerdictKind, judge_of
from evalgen.report.records import ShownCompletion, ShownPrompt
from evalgen.report.votes import VotesKey
from evalgen.verification.json_lists import json_list

BATCH_ROWS = 2_000
MAX_COMPLETIONS = 24  # shown of a prompt
ROWS_FILE = Path("eval_dataset", "data", "0000.parquet")
COLUMNS = [
    *("prompt_id", "prompt", "reference_completion", "completion", "raw_completion", "sample_count"),
    *("logprob", "logprob_sampling", "grader_reasoning", "grader_model", "weight", "is_prefix_of"),
    *("num_completion_tokens", "finish_reason"),
]

Votes = Mapping[VotesKey, tuple[VerdictKind, ...]]
TextKey = tuple[str, VerdictKind]  # text and verdict


@dataclass
class _Collected:
    """The completions of one prompt so far: a few times what will be shown, and of the others their texts."""

    prompt: Mapping[str, Any]
    index: int
    by_text: dict[TextKey, ShownCompletion] = field(default_factory=dict)
    dropped: set[TextKey] = field(default_factory=set)
    greedy: TextKey | None = None  # which of them the greedy completion is, or became
    greedy_rank: tuple[bool, int] = (False, -1)

    def add(self, completion: ShownCompletion) -> None:
        """Rows of one text are one completion: there is one a draw under `--deduplicate false`."""
        key = (completion.text, completion.verdict)
        self._look_for_greedy(key, completion)
        if key in self.dropped:
            return
        known = self.by_text.get(key)
        if known is not None:
            draws = None if None in (known.draws, completion.draws) else (known.draws or 0) + (completion.draws or 0)
            weight = None if known.weight is None else known.weight + (completion.weight or 0.0)
            completion = replace(known, draws=draws, weight=weight)
        self.by_text[key] = completion
        if len(self.by_text) > 50 * MAX_COMPLETIONS:
            self._cut(25 * MAX_COMPLETIONS)

    def shown(self) -> ShownPrompt:
        self._cut(MAX_COMPLETIONS)
        return ShownPrompt(
            figures=self.prompt,
            completions=tuple(replace(it, is_greedy=key == self.greedy) for key, it in self.by_text.items()),
            num_completions=len(self.by_text) + len(self.dropped),
            index=self.index,
        )

    def _cut(self, size: int) -> None:
        """Keeps the first `size`: the conspicuous ones, then the most frequent ones."""
        ordered = sorted(self.by_text.items(), key=lambda item: (not item[1].is_conspicuous, -item[1].prevalence))
        self.dropped.update(key for key, _ in ordered[size:])
        self.by_text = dict(ordered[:size])

    def _look_for_greedy(self, key: TextKey, completion: ShownCompletion) -> None:
        """A row that others were merged into has the text of one of them before it was cut, so that of a greedy
        completion that was cut the longest row is taken that it begins with. One that no draw gave is none of them."""
        greedy = self.prompt.get("greedy_completion")
        if greedy is None or self.prompt.get("greedy_draws") == 0:
            return
        is_it = completion.raw == greedy
        may_be_cut = self.prompt["greedy_verdict"] == completion.verdict == "equivalent"
        rank = (is_it, len(completion.text))
        if (is_it or (may_be_cut and greedy.startswith(completion.text))) and rank > self.greedy_rank:
            self.greedy, self.greedy_rank = key, rank


def shown_prompts(directory: Path, votes: Votes, max_prompts: int) -> tuple[ShownPrompt, ...]:
    """Some prompts of the dataset in `directory`, in its order, with some completions of each."""
    split_prompts = {(prompt, reference) for _, prompt, reference, _ in votes}
    chosen = {
        row["prompt_id"]: _Collected(prompt=row, index=index)
        for index, row in _rows_at(directory / PROMPTS_FILE, _chosen(directory, split_prompts, max_prompts))
    }
    for file, verdict in ((directory / ROWS_FILE, "equivalent"), (directory / REJECTS_FILE, "not_equivalent")):
        for row in _rows_of(file, list(chosen)):
            chosen[row["prompt_id"]].add(_completion(row, verdict, votes))  # type: ignore[arg-type]
    for row in listed(directory / LEFT_OUT_FILE):
        if row["prompt_id"] in chosen:
            chosen[row["prompt_id"]].add(_left_out(row))
    return tuple(collected.shown() for collected in chosen.values())


def first_prompts(directory: Path, number: int) -> tuple[Mapping[str, Any], ...]:
    """The first rows of the dataset's prompts.parquet."""
    return tuple(row for _, row in _rows_at(directory / PROMPTS_FILE, range(number)))


def listed(path: Path) -> Iterable[dict[str, Any]]:
    """The items of a JSON list, one at a time; none without a file."""
    return json_list(path) if path.exists() else ()


def _chosen(directory: Path, split_prompts: set[tuple[str, str]], number: int) -> Sequence[int]:
    """Which rows of prompts.parquet are shown, ascending."""
    split: list[int] = []
    ungraded: list[int] = []
    offset = 0
    columns = ["prompt", "reference_completion", "num_ungraded"]
    with pq.ParquetFile(directory / PROMPTS_FILE) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            if split_prompts and len(split) < number:
                pairs = zip(batch["prompt"].to_pylist(), batch["reference_completion"].to_pylist(), strict=True)
                split += [offset + place for place, pair in enumerate(pairs) if pair in split_prompts]
            if len(ungraded) < number:
                ungraded += (offset + np.flatnonzero(batch["num_ungraded"].to_numpy())).tolist()
            offset += len(batch)
    first = list(dict.fromkeys([*split, *ungraded]))[:number]
    rest = np.setdiff1d(np.arange(offset), first)
    even = np.linspace(0, len(rest) - 1, min(number - len(first), len(rest))).round().astype(int)
    return sorted({*first, *rest[even].tolist()})


def _rows_at(path: Path, places: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = np.asarray(places, dtype=np.int64)
    offset = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            if not len(wanted) or offset > wanted[-1]:
                return
            here = wanted[(wanted >= offset) & (wanted < offset + len(batch))]
            yield from zip(here.tolist(), batch.take(pa.array(here - offset)).to_pylist(), strict=True)
            offset += len(batch)


def _rows_of(path: Path, prompt_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    ids = pa.array(prompt_ids, type=pa.string())
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=COLUMNS):
            yield from batch.filter(pc.is_in(batch["prompt_id"], value_set=ids)).to_pylist()


def _completion(row: Mapping[str, Any], verdict: VerdictKind, votes: Votes) -> ShownCompletion:
    key = (judge_of(row["grader_model"]), row["prompt"], row["reference_completion"], row["completion"])
    return ShownCompletion(
        text=row["completion"],
        raw=row["raw_completion"],
        verdict=verdict,
        draws=row["sample_count"],
        mass=_mass(row["logprob"]),
        mass_sampling=_mass(row["logprob_sampling"]),
        reasoning=row["grader_reasoning"],
        weight=row["weight"],
        is_prefix=row["is_prefix_of"] is not None,
        num_tokens=row["num_completion_tokens"],
        finish_reason=row["finish_reason"],
        votes=votes.get(key, ()),
    )


def _left_out(row: Mapping[str, Any]) -> ShownCompletion:
    is_equivalent = row["reason"] == SPANS_BOUNDARY
    return ShownCompletion(
        text=row["generated_completion"],
        raw=row["generated_completion"],
        verdict="equivalent" if is_equivalent else "ungraded",
        draws=row["sample_count"],
        mass=_mass(row["logprob"]),
        mass_sampling=_mass(row.get("logprob_sampling")),
        reasoning=row["reasoning"] or "",
        left_out=row["reason"] or "",
    )


def _mass(logprob: float | None) -> float | None:
    return None if logprob is None else min(1.0, math.exp(logprob))
