"""The questions on which a judge that was asked several times did not always say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.records import VerdictKind, judge_of
from evalgen.report.records import Disagreement, Questions
from evalgen.verdict_table import VOTING

MAX_SPLIT = 10_000  # the closest votes; more are counted
BATCH_ROWS = 10_000
COLUMNS = ["grader", "prompt", "reference", "completion", "verdict", "trimmed_completion", "reasoning", "votes"]

# Judge, prompt, reference and text as the dataset has it.
VotesKey = tuple[str, str, str, str]


def read_questions(path: Path, graders: Sequence[Mapping[str, Any]]) -> Questions:
    """Counts the questions of a `verdicts/0000.parquet` that were put to one of `graders`, and finds the split ones.

    Verdicts of a judge that the job was resumed without are still in the file.
    """
    num_questions = num_from_cache = num_voted = num_split = 0
    split: list[Disagreement] = []
    for batch in _batches(path, {(judge_of(grader["model"]), grader["instructions"]) for grader in graders}):
        num_questions += len(batch)
        num_from_cache += pc.sum(batch["from_cache"]).as_py() or 0
        voted = batch.filter(pc.fill_null(pc.greater(pc.list_value_length(batch["votes"]), 1), False))
        num_voted += len(voted)
        for row in voted.select(COLUMNS).to_pylist():
            if len(set(row["votes"])) > 1:
                num_split += 1
                split.append(_disagreement(row))
        split = sorted(split, key=lambda it: (it.share, it.prompt, it.completion))[:MAX_SPLIT]
    return Questions(
        num_questions=num_questions,
        num_from_cache=num_from_cache,
        num_voted=num_voted,
        num_split=num_split,
        split=tuple(split),
    )


def split_votes(questions: Questions | None) -> dict[VotesKey, tuple[VerdictKind, ...]]:
    """Votes that were not unanimous, by what finds a completion of a dataset."""
    found = questions.split if questions else ()
    return {(judge_of(it.grader), it.prompt, it.reference, it.kept_text): it.votes for it in found}


def _batches(path: Path, graders: set[tuple[str, str]]) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=[*COLUMNS, "grader_instructions", "from_cache", "error"]):
            batch = batch.filter(pc.not_equal(pc.fill_null(batch["error"], ""), VOTING))
            if graders:
                judges = map(judge_of, batch["grader"].to_pylist())
                pairs = zip(judges, batch["grader_instructions"].to_pylist(), strict=True)
                batch = batch.filter(pa.array([pair in graders for pair in pairs], type=pa.bool_()))
            yield batch


def _disagreement(row: Mapping[str, Any]) -> Disagreement:
    return Disagreement(
        grader=row["grader"],
        prompt=row["prompt"],
        reference=row["reference"],
        completion=row["completion"],
        kept_text=row["trimmed_completion"] or row["completion"],
        verdict=row["verdict"],
        votes=tuple(row["votes"]),
        reasoning=row["reasoning"] or "",
    )
