"""Which batches of questions are on their way, on disk: what lets a killed job go on without paying twice.

`batches.jsonl` gets a line before a batch is sent, when its id is known, and when its results are stored. Until then
the questions themselves are in a file beside it, so that memory holds a batch of them at most.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evalgen.files import remove_unfinished
from evalgen.journal import Journal, Record, journal_lines, rewrite_journal
from evalgen.records import GraderSpec, Question

LEDGER = "batches.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """Questions that are asked together."""

    number: int  # counts up from 1
    digest: str  # of the set of its questions' keys
    num_questions: int
    model: str  # the API's name of the judge of the first question; others may have others
    planned_at: float  # seconds since the epoch by this machine's clock
    id: str | None = None  # the API's; None: it was not sent, or nobody knows whether it arrived


class BatchLedger:
    """The batches of one experiment, and how often each question went unanswered. For one process at a time."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        remove_unfinished(directory)
        self._directory = directory
        self._open: dict[int, PlannedBatch] = {}
        self._last_number = 0
        self._num_malformed: Counter[bytes] = Counter()
        self._num_lost: Counter[bytes] = Counter()
        self._given_up: set[bytes] = set()
        self.ids: set[str] = set()  # of all batches there ever were
        self._read(directory / LEDGER)
        self._journal = Journal(directory / LEDGER)

    @property
    def open(self) -> list[PlannedBatch]:
        """The batches whose results are not stored yet, oldest first."""
        return list(self._open.values())

    def settled_keys(self) -> Iterator[bytes]:
        """Of the questions that must not be sent: those in an open batch, and those given up as ungraded for good."""
        yield from self._given_up
        for batch in self.open:
            yield from map(bytes.fromhex, self.questions(batch))

    def num_malformed(self, key: str) -> int:
        """How many replies to this question could not be read so far."""
        return self._num_malformed[bytes.fromhex(key)]

    def num_lost(self, key: str) -> int:
        """How many batches ended without a reply to this question so far."""
        return self._num_lost[bytes.fromhex(key)]

    def plan(self, questions: Sequence[Question]) -> PlannedBatch:
        """Stores what will be sent, durable when this returns; keys must be distinct."""
        batch = PlannedBatch(
            number=self._last_number + 1,
            digest=_digest(question.key for question in questions),
            num_questions=len(questions),
            model=questions[0].grader.api_model,
            planned_at=time.time(),
        )
        rewrite_journal(self._path(batch.number), _to_lines(questions))
        self._add({"event": "planned", **asdict(batch)})
        return batch

    def created(self, batch: PlannedBatch, batch_id: str) -> None:
        """The API has the batch under this id; durable when this returns."""
        self._add({"event": "created", **asdict(replace(batch, id=batch_id))})

    def ended(
        self, batch: PlannedBatch, *, malformed: Sequence[str], lost: Sequence[str], given_up: Sequence[str]
    ) -> None:
        """Its verdicts are stored; the lists are keys of questions without one. Durable when this returns."""
        lists = {"malformed": malformed, "lost": lost, "given_up": given_up}
        self._add({"event": "ended", "number": batch.number, **lists})
        self._path(batch.number).unlink(missing_ok=True)

    def questions(self, batch: PlannedBatch) -> dict[str, Question]:
        """The questions of an open batch by their keys."""
        found = {question.key: question for question in _from_lines(self._path(batch.number))}
        if _digest(found) != batch.digest:
            logger.warning(
                "%s is damaged: it has %d of %d questions; the others are asked again",
                self._path(batch.number), len(found), batch.num_questions,
            )  # fmt: skip
        return found

    def close(self) -> None:
        self._journal.close()

    def _path(self, number: int) -> Path:
        return self._directory / f"questions_{number:04d}.jsonl"

    def _add(self, event: Record) -> None:
        self._journal.append([event])
        self._apply(event)

    def _apply(self, event: Record) -> None:
        fields = {name: value for name, value in event.items() if name != "event"}
        self._last_number = max(self._last_number, fields["number"])
        if event["event"] == "ended":
            self._open.pop(fields["number"], None)
            self._num_malformed.update(map(bytes.fromhex, fields["malformed"]))
            self._num_lost.update(map(bytes.fromhex, fields["lost"]))
            self._given_up.update(map(bytes.fromhex, fields["given_up"]))
            return
        # Both of a batch's other lines say all about it, so that one of them may be damaged.
        batch = PlannedBatch(**fields)
        self._open[batch.number] = batch
        if batch.id is not None:
            self.ids.add(batch.id)

    def _read(self, path: Path) -> None:
        num_damaged = 0
        for _, event in journal_lines(path):
            if event is None:
                num_damaged += 1
            else:
                self._apply(event)
        if num_damaged:
            logger.warning("%s: %d lines are torn or damaged and passed over", path, num_damaged)
        files = {self._path(number): number for number in self._open}
        for orphan in set(self._directory.glob("questions_*.jsonl")) - files.keys():
            orphan.unlink()  # of a batch that has ended, or that a kill kept from being planned
        for missing in (file for file in files if not file.exists()):
            logger.warning("%s is missing: its questions are asked again", missing)
            del self._open[files[missing]]


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _to_lines(questions: Sequence[Question]) -> Iterator[Record]:
    """A line of the distinct graders, whose instructions are long, then one for each question."""
    graders: list[GraderSpec] = []
    lines: list[Record] = []
    for question in questions:
        if question.grader not in graders:
            graders.append(question.grader)
        lines.append(
            {
                "grader": graders.index(question.grader),
                "prompt": question.prompt,
                "reference": question.reference,
                "completion": question.completion,
            }
        )
    yield {"graders": [asdict(grader) for grader in graders]}
    yield from lines


def _from_lines(path: Path) -> Iterator[Question]:
    """The questions that `_to_lines` made lines of, without the damaged ones."""
    graders: list[GraderSpec] | None = None
    for _, line in journal_lines(path):
        if line is not None and "graders" in line:
            graders = [GraderSpec(**grader) for grader in line["graders"]]
        elif line is not None and graders is not None:
            yield Question(**line | {"grader": graders[line["grader"]]})
