"""What the checks of one dataset have found: each held, failed at some rows, or was skipped for a reason."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

SHOWN = 3  # problems of a check that are told in words; all are counted

Outcome = Literal["ok", "failed", "skipped"]


class Check(StrEnum):
    """Everything that is checked, in the order in which it is told."""

    SCHEMA = "schema"
    FUNCTIONS = "functions"
    PARQUET = "parquet"
    IDS = "ids"
    ORDER = "row order"
    PROMPTS = "prompts"
    SOURCE = "source"
    ORIGIN = "run and judge"
    SAMPLES = "samples"
    MASK = "attention mask"
    LABELS = "labels"
    PROMPT_TOKENS = "prompt tokens"
    COMPLETION = "completion"
    EOS = "no EOS"
    TRIMMING = "trimming"
    LOGPROBS = "log-probs"
    WEIGHTS = "weights"
    PREFIXES = "prefixes"
    DRAWS = "draws"
    REJECTS = "rejects"
    SUMMARY = "summary"
    ASSEMBLY = "assembly"
    TOKENIZER_DIGEST = "tokenizer digest"
    WEIGHTS_DIGEST = "weights digest"
    GRADER_DIGEST = "grader digest"
    MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one check."""

    check: Check
    outcome: Outcome
    note: str  # what was looked at, why it was skipped, or the first problems


class Findings:
    """Collects problems, row by row. Where a check has one, it failed, whatever else is said of it."""

    def __init__(self) -> None:
        self._problems: dict[Check, list[str]] = defaultdict(list)
        self._num_problems: dict[Check, int] = defaultdict(int)
        self._notes: dict[Check, str] = {}
        self._reasons: dict[Check, str] = {}

    def fail(self, check: Check, problem: str, row_id: object = None) -> None:
        """`row_id` is shown as Python would write it: it may hold anything."""
        self._num_problems[check] += 1
        if len(self._problems[check]) < SHOWN:
            self._problems[check].append(problem if row_id is None else f"{_shown(row_id)}: {problem}")

    def held(self, check: Check, note: str = "") -> None:
        """All of it was looked at."""
        self._notes[check] = note

    def skip(self, check: Check, reason: str) -> None:
        self._reasons.setdefault(check, reason)

    def failed(self, check: Check) -> bool:
        return self._num_problems[check] > 0

    def all(self) -> list[Finding]:
        """One of each check, in order."""
        return [self._finding(check) for check in Check]

    def _finding(self, check: Check) -> Finding:
        if number := self._num_problems[check]:
            problems = "; ".join(self._problems[check])
            note = problems if number == 1 else f"{number:,} problems, the first: {problems}"
            return Finding(check=check, outcome="failed", note=note)
        if check in self._reasons:
            return Finding(check=check, outcome="skipped", note=self._reasons[check])
        if check in self._notes:
            return Finding(check=check, outcome="ok", note=self._notes[check])
        return Finding(check=check, outcome="skipped", note="not reached, as the dataset cannot be read")


def _shown(row_id: object) -> str:
    return f"{row_id!r:.120}" if isinstance(row_id, str) and not row_id.isprintable() else f"{row_id!s:.120}"
