"""The verdicts of one experiment on disk: each durable the moment it is there, and one Parquet file of them at the end.

The journal is what survives a kill; `0000.parquet` is what people and later jobs read. In memory there is only where in
the journal each verdict stands.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.files import durable_file, remove_unfinished, set_aside, sync
from evalgen.journal import Journal, Record, journal_lines
from evalgen.records import Answer, Question, Verdict, VerdictKind
from evalgen.verdict_table import (
    BATCH_ROWS,
    VERDICTS_FILE,
    VERDICTS_SCHEMA,
    VOTING,
    VerdictTable,
    checksum_file,
    is_intact,
    verdict_batches,
    verdict_from_row,
    write_checksum,
)

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
SPENT_COLUMNS = ("api_calls", "input_tokens", "output_tokens", "cost_usd")
GRADED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "verdict", "trimmed_completion", "reasoning")),
        ("votes", pa.list_(pa.string())),
    ]
)
ORDER_SCHEMA = pa.schema(
    [
        ("prompt", pa.dictionary(pa.int32(), pa.string())),  # may be long, and there are few
        ("completion", pa.string()),
        ("key", pa.string()),
        ("place", pa.int64()),
    ]
)


class VerdictStore:
    """The verdicts of one experiment, and the ones of earlier experiments that may be used again.

    Goes on with what a killed job left in the directory. Damaged verdicts count as absent.
    """

    def __init__(self, directory: Path, earlier: Iterable[Path] = ()) -> None:
        """`earlier` are files of other experiments' `verdicts/`; unreadable and damaged ones are passed over."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._earlier = VerdictTable(chain.from_iterable(map(_graded_batches, earlier)))
        self._places: dict[bytes, int] = {}  # in the journal, of the line with all about a question, by its key
        self._journal: Journal | None = None
        self._opened()

    def known(self, question: Question) -> Verdict | None:
        """The verdict that this job or an earlier experiment paid for, if there is one."""
        row = self._row(question.key)
        if row is not None and row["verdict"] != "ungraded":
            return verdict_from_row(row)
        return self._earlier.get(question.key)

    def kind(self, question: Question) -> VerdictKind | None:
        """Of the verdict that this job has, ungraded or not; None: it has none, votes perhaps."""
        row = self._row(question.key)
        return None if row is None or row["error"] == VOTING else row["verdict"]

    def votes(self, question: Question) -> list[Verdict]:
        """Those that the judge has given without a majority so far; the cost of them is in the store already."""
        row = self._row(question.key)
        return [] if row is None else [Verdict(**json.loads(ballot)) for ballot in _ballots(row)]

    def add(self, answers: Sequence[Answer]) -> None:
        """Stores verdicts, durable when this returns.

        A question that was answered twice (two graders at once, or one that died) keeps its first verdict, and what
        both of them cost. An answer that is added again, because the reply to the first call was lost, changes nothing.
        Votes are kept until a majority of them is there, and change no verdict by themselves.

        Raises:
            OSError: none of them was stored, and all may be added again.
        """
        journal = self._opened()
        changed: dict[str, Record] = {}
        for answer in answers:
            key = answer.question.key
            row = _with_answer(changed.get(key) or self._row(key), answer)
            if row is not None:
                changed[key] = row
        if changed:
            places = journal.append(list(changed.values()))
            self._places.update(zip(map(bytes.fromhex, changed), places, strict=True))

    def close(self) -> None:
        """Writes `0000.parquet`, sorted by what was asked, and drops the journal, which it replaces.

        More may be added later: then there is a journal again.
        """
        if self._journal is None:
            return
        path = self._directory / VERDICTS_FILE
        places = iter(self._places_in_order())
        with durable_file(path) as file, pq.ParquetWriter(file, VERDICTS_SCHEMA) as writer:
            while some := list(islice(places, BATCH_ROWS)):
                rows = [row for place in some if (row := self._journal.read(place)) is not None]
                writer.write_table(pa.Table.from_pylist(rows, schema=VERDICTS_SCHEMA))
        write_checksum(path)
        self._journal.close()
        self._journal = None
        (self._directory / JOURNAL).unlink()
        sync(self._directory)

    def _opened(self) -> Journal:
        if self._journal is None:
            for files in (JOURNAL, f"{VERDICTS_FILE}*"):  # the limiter may be writing its ledger here
                remove_unfinished(self._directory, files)
            self._places = _places_of(self._directory / JOURNAL)
            self._journal = Journal(self._directory / JOURNAL)
            self._copy_file(self._journal)
        return self._journal

    def _copy_file(self, journal: Journal) -> None:
        """Takes over the verdicts of a job that had ended, as far as the journal does not have them yet."""
        path = self._directory / VERDICTS_FILE
        if not path.exists():
            return
        if not is_intact(path):
            set_aside(path)
            checksum_file(path).unlink(missing_ok=True)
            log.warning("%s was damaged and is set aside; what only it had is asked again", path)
            return
        for batch in verdict_batches(path):
            rows = {
                bytes.fromhex(row["key"]): row | {name: row.get(name) or [] for name in ("answer_ids", "ballots")}
                for row in batch.to_pylist()
            }
            missing = {key: row for key, row in rows.items() if key not in self._places}
            self._places.update(zip(missing, journal.append(list(missing.values())), strict=True))

    def _row(self, key: str) -> Record | None:
        journal = self._opened()
        place = self._places.get(bytes.fromhex(key))
        return None if place is None else journal.read(place)

    def _places_in_order(self) -> Sequence[int]:
        """Of every verdict, sorted by prompt, completion and key."""
        rows = self._current_rows()
        tables = [ORDER_SCHEMA.empty_table()]
        while some := list(islice(rows, BATCH_ROWS)):
            tables.append(pa.Table.from_pylist(some, schema=ORDER_SCHEMA))
        table = pa.concat_tables(tables).unify_dictionaries()
        prompts = table["prompt"].combine_chunks()  # Arrow does not sort by what is encoded: by its rank instead
        ranks = pc.rank(prompts.dictionary).take(prompts.indices)
        columns = [(name, "ascending") for name in ("prompt", "completion", "key")]
        places: list[int] = table.set_column(0, "prompt", ranks).sort_by(columns)["place"].to_pylist()
        return places

    def _current_rows(self) -> Iterator[Record]:
        for place, row in journal_lines(self._directory / JOURNAL):
            if row is not None and self._places.get(bytes.fromhex(row["key"])) == place:
                yield row | {"place": place}


def graded_keys(directory: Path) -> set[str]:
    """Keys of the questions that have a verdict in an experiment's `verdicts/`, whether its job ended or was killed."""
    paths = (directory / VERDICTS_FILE, directory / JOURNAL)
    return {key for path in paths for batch in _graded_batches(path) for key in batch["key"].to_pylist()}


def spent_usd(directory: Path) -> float:
    """What the verdicts in an experiment's `verdicts/` cost, whether its job ended or was killed."""
    costs: dict[str, float | None] = {}
    if is_intact(directory / VERDICTS_FILE):
        for batch in verdict_batches(directory / VERDICTS_FILE, ["key", "cost_usd"]):
            costs.update(zip(batch["key"].to_pylist(), batch["cost_usd"].to_pylist(), strict=True))
    costs |= {row["key"]: row["cost_usd"] for _, row in journal_lines(directory / JOURNAL) if row is not None}
    return sum(cost or 0.0 for cost in costs.values())


def _places_of(path: Path) -> dict[bytes, int]:
    """The last intact line of every question in a journal: each line has all that is known of its question."""
    places: dict[bytes, int] = {}
    num_damaged = 0
    for place, row in journal_lines(path):
        if row is None:
            num_damaged += 1
        else:
            places[bytes.fromhex(row["key"])] = place
    if num_damaged:
        log.warning("%s: %d lines are torn or damaged; what only they had is asked again", path, num_damaged)
    return places


def _graded_batches(path: Path) -> Iterator[pa.Table]:
    """What was judged, in `GRADED_SCHEMA`. Nothing where the file is damaged or none of ours: a cache may not fail."""
    try:
        if path.name == JOURNAL:
            batches = _journal_batches(path)
        elif path.suffix == ".parquet" and is_intact(path):
            batches = verdict_batches(path, GRADED_SCHEMA.names)
        else:
            return
        for batch in batches:
            rows = batch.cast(GRADED_SCHEMA)
            is_graded = pc.is_in(rows["verdict"], pa.array(["equivalent", "not_equivalent"]))
            yield rows.filter(pc.and_(is_graded, pc.match_substring_regex(rows["key"], "^[0-9a-f]{64}$")))
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return


def _journal_batches(path: Path) -> Iterator[pa.Table]:
    rows = (row for _, row in journal_lines(path) if row is not None)
    while some := list(islice(rows, BATCH_ROWS)):
        yield pa.Table.from_pylist(some, schema=GRADED_SCHEMA)


def _with_answer(known: Mapping[str, Any] | None, answer: Answer) -> Record | None:
    """The row of a question, `known` so far, after one more answer; None: the answer changes nothing."""
    row = _row_of(answer)
    if known is None:
        return row | {"answer_ids": [answer.answer_id]}
    if answer.answer_id in known["answer_ids"]:
        return None
    kept = known if known["verdict"] != "ungraded" or answer.is_vote else row
    spent = {name: _sum(known[name], row[name]) for name in SPENT_COLUMNS}
    merged = {**kept, **spent, "from_cache": known["from_cache"] and row["from_cache"]}
    merged["ballots"] = _ballots(known) + row["ballots"] if merged["verdict"] == "ungraded" else []
    return None if merged == known else merged | {"answer_ids": [*known["answer_ids"], answer.answer_id]}


def _ballots(row: Mapping[str, Any]) -> list[str]:
    return list(row.get("ballots") or ())  # older journals have none


def _row_of(answer: Answer) -> Record:
    question, verdict = answer.question, answer.verdict
    ballots = []
    if answer.is_vote:
        ballots = [_ballot(verdict)] if verdict.kind != "ungraded" else []
        verdict = replace(verdict, kind="ungraded", trimmed_completion=None, reasoning="", error=VOTING)
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
        "reasoning": _storable(verdict.reasoning),
        "error": None if verdict.error is None else _storable(verdict.error),
        "api_calls": verdict.api_calls,
        "input_tokens": verdict.input_tokens,
        "output_tokens": verdict.output_tokens,
        "cost_usd": verdict.cost_usd,
        "votes": list(verdict.votes),
        "ballots": ballots,
        "from_cache": answer.from_cache,
        "graded_at": time.time(),
    }


def _ballot(vote: Verdict) -> str:
    """A vote without what it cost, which the row of its question has."""
    kept = ("kind", "trimmed_completion", "reasoning")
    return json.dumps({name: getattr(vote, name) for name in kept})  # ASCII, whatever the judge says


def _storable(text: str) -> str:
    """What a server said may have half a surrogate pair in it, which no file of text takes."""
    return text.encode(errors="backslashreplace").decode()


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
