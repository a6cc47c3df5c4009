"""Verdicts on disk: one JSON line each, the moment it is there, and one Parquet file of them at the end.

The journal is what survives a kill; `verdicts/0000.parquet` is what people and later jobs read.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evalgen.files import write_parquet
from evalgen.records import Answer, Question, Verdict

VERDICTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # digest of the question
        ("grader", pa.string()),
        ("grader_instructions", pa.string()),
        ("grader_options", pa.string()),  # JSON
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("completion", pa.string()),
        ("verdict", pa.string()),  # equivalent | not_equivalent | ungraded
        ("trimmed_completion", pa.string()),  # null: nothing cut
        ("reasoning", pa.string()),
        ("error", pa.string()),  # why it is ungraded
        ("api_calls", pa.int64()),  # the last four: paid by this job, so 0 for a verdict from the cache
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),  # null: the model's price is unknown
        ("from_cache", pa.bool_()),  # found in an earlier experiment, not asked again
        ("graded_at", pa.float64()),  # Unix time
    ]
)
JOURNAL = "journal.jsonl"
SPENT_COLUMNS = ["api_calls", "input_tokens", "output_tokens", "cost_usd"]
CACHED_COLUMNS = ["key", "verdict", "trimmed_completion", "reasoning"]


class VerdictStore:
    """The verdicts of one experiment, and the ones of earlier experiments that may be used again."""

    def __init__(self, directory: Path, earlier: Iterable[Path] = ()) -> None:
        """`earlier` are files of other experiments' `verdicts/`; unreadable ones are passed over."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._cached = {key: verdict for path in earlier for key, verdict in _read_graded(path)}
        self._journal = (directory / JOURNAL).open("a", encoding="utf-8")
        self._rows: dict[str, dict[str, Any]] = {}

    def known(self, question: Question) -> Verdict | None:
        """The verdict that this job or an earlier experiment paid for, if there is one."""
        row = self._rows.get(question.key)
        if row is not None and row["verdict"] != "ungraded":
            return verdict_from_row(row)
        return self._cached.get(question.key)

    def add(self, answers: Sequence[Answer]) -> None:
        """Stores verdicts, durable when this returns.

        A question that was answered twice (two graders at once, or one that died) keeps its first verdict, and what
        both of them cost.
        """
        rows = [self._with_known(_row(answer)) for answer in answers]
        self._journal.writelines(json.dumps(row) + "\n" for row in rows)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._rows.update((row["key"], row) for row in rows)

    def _with_known(self, row: dict[str, Any]) -> dict[str, Any]:
        first = self._rows.get(row["key"])
        if first is None:
            return row
        kept = row if first["verdict"] == "ungraded" else first
        spent = {name: _sum(first[name], row[name]) for name in SPENT_COLUMNS}
        return kept | spent | {"from_cache": first["from_cache"] and row["from_cache"]}

    def close(self) -> None:
        """Writes `0000.parquet`, sorted by what was asked, and drops the journal, which it replaces."""
        ordered = sorted(self._rows.values(), key=lambda row: (row["prompt"], row["completion"], row["key"]))
        write_parquet(self._directory / "0000.parquet", pa.Table.from_pylist(ordered, schema=VERDICTS_SCHEMA))
        self._journal.close()
        (self._directory / JOURNAL).unlink(missing_ok=True)


def load_verdicts(directory: Path) -> dict[str, dict[str, Any]]:
    """The rows of an experiment's `verdicts/`, by question key."""
    tables = [pq.read_table(path) for path in sorted(directory.glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def verdict_from_row(row: Mapping[str, Any]) -> Verdict:
    """A row of `verdicts/*.parquet` as a record."""
    names = {field.name for field in fields(Verdict)} & set(row)
    return Verdict(kind=row["verdict"], **{name: row[name] for name in names})


def _row(answer: Answer) -> dict[str, Any]:
    question, verdict = answer.question, answer.verdict
    return {
        "key": question.key,
        "grader": question.grader.model,
        "grader_instructions": question.grader.instructions,
        "grader_options": json.dumps(dict(question.grader.options), sort_keys=True),
        "prompt": question.prompt,
        "reference": question.reference,
        "completion": question.completion,
        "verdict": verdict.kind,
        "trimmed_completion": verdict.trimmed_completion,
        "reasoning": verdict.reasoning,
        "error": verdict.error,
        "api_calls": verdict.api_calls,
        "input_tokens": verdict.input_tokens,
        "output_tokens": verdict.output_tokens,
        "cost_usd": verdict.cost_usd,
        "from_cache": answer.from_cache,
        "graded_at": time.time(),
    }


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _read_graded(path: Path) -> Iterable[tuple[str, Verdict]]:
    try:
        rows = _read_journal(path) if path.name == JOURNAL else pq.read_table(path, columns=CACHED_COLUMNS).to_pylist()
    except (OSError, ValueError, pa.ArrowException, KeyError):
        return  # another job's file, perhaps half copied: a cache may miss, it may not fail
    for row in rows:
        if isinstance(row["key"], str) and row["verdict"] in ("equivalent", "not_equivalent"):
            yield row["key"], verdict_from_row(row)


def _read_journal(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a stopped job's journal; a kill may have cut the last one."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            rows.append({name: row[name] for name in CACHED_COLUMNS})
    return rows
