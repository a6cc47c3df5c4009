"""The verdicts of two experiments over the same samples: which of them another judge changed, and why.

Of completions that were drawn or enumerated: that of a greedy one that no draw gave is in prompts.parquet alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from evalgen.experiment import Experiment
from evalgen.files import write_json
from evalgen.job import DatasetPlan
from evalgen.journal import journal_lines
from evalgen.printable import printable
from evalgen.records import GraderSpec, Query, Verdict, VerdictKind
from evalgen.regrading import graders_of
from evalgen.samples import Completion, distinct_completions, samples_of
from evalgen.unit_store import UnitStore
from evalgen.verdict_store import JOURNAL
from evalgen.verdict_table import BATCH_ROWS, VERDICTS_FILE, VERDICTS_SCHEMA, VerdictTable, is_intact, verdict_batches

CHANGES_FILE = "verdict_changes.json"
COMPARED_COLUMNS = ("key", "verdict", "trimmed_completion", "reasoning", "error")
NEVER_JUDGED = Verdict(kind="ungraded", error="it has no verdict in the old experiment")
Kinds = tuple[VerdictKind, VerdictKind]  # the old verdict and the new one

NUM_SHOWN = 20  # changes
MAX_SHOWN = 200  # characters of a text
# Heading and width. "rate" is of distinct completions, "per draw" of all samples (of all probability that was covered,
# where there are no draws).
COLUMNS = (
    ("unique", 8),
    ("rate was", 10),
    ("is now", 8),
    ("per draw was", 14),
    ("is now", 8),
    ("equivalent now", 16),
    ("no longer", 11),
)


@dataclass(frozen=True, kw_only=True)
class JudgedTwice:
    """A distinct completion of a prompt, with its verdicts in the old and in the new experiment."""

    dataset: str
    query: Query
    completion: str
    sample_count: int | None  # None: enumerated
    prevalence: float  # its draws, or if enumerated its probability under the law
    old: Verdict
    new: Verdict

    @property
    def is_changed(self) -> bool:
        return self.old.kind != self.new.kind

    def to_row(self) -> dict[str, Any]:
        """As `verdict_changes.json` has it."""
        return {
            "dataset": self.dataset,
            "prompt_id": self.query.id,
            "prompt": self.query.prompt,
            "reference_completion": self.query.reference,
            "completion": self.completion,
            "sample_count": self.sample_count,
            "probability": self.prevalence if self.sample_count is None else None,
            "old_verdict": self.old.kind,
            "new_verdict": self.new.kind,
            "old_reasoning": self.old.reasoning or self.old.error,
            "new_reasoning": self.new.reasoning or self.new.error,
            "old_trimmed_completion": self.old.trimmed_completion,
            "new_trimmed_completion": self.new.trimmed_completion,
        }


@dataclass(frozen=True, kw_only=True)
class DatasetComparison:
    """What another judge made of one dataset; rates are equivalent of graded, as in `summary.json`. None: none graded.

    "draw" rates are by probability where completions were enumerated.
    """

    name: str
    old_grader: GraderSpec
    new_grader: GraderSpec
    num_unique: int
    old_equivalence_rate: float | None
    new_equivalence_rate: float | None
    old_draw_equivalence_rate: float | None
    new_draw_equivalence_rate: float | None
    num_became_equivalent: int  # were not_equivalent
    num_became_not_equivalent: int  # were equivalent
    num_changed_otherwise: int  # from or to ungraded
    num_trimmed_otherwise: int  # equivalent before and now, with another end cut off


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdicts of two experiments over the same samples."""

    datasets: list[DatasetComparison]
    changes: list[JudgedTwice]  # most prevalent first

    def write(self, old: Experiment, new: Experiment) -> Path:
        """Writes `verdict_changes.json` into the new experiment."""
        path = new.directory / CHANGES_FILE
        content = {
            "old_experiment": str(old.directory),
            "datasets": [asdict(dataset) for dataset in self.datasets],
            "changes": [change.to_row() for change in self.changes],
        }
        write_json(path, content)
        return path


def compare_verdicts(old: Experiment, new: Experiment, plans: Sequence[DatasetPlan]) -> Comparison:
    """What became of each distinct completion's verdict; `new` is done, and `plans` are its.

    Raises:
        JobStopped: verdicts or samples of `new` are missing or damaged.
    """
    old_graders = graders_of(old)
    before, after = _stored_verdicts(old.verdicts), VerdictTable.of_experiment(new.verdicts)
    store = UnitStore(new.samples)
    datasets, changes = [], []
    for plan in plans:
        judged_before = replace(plan, grader=old_graders[plan.name])
        tally = _Tally()
        for query, completion in _completions(store, plan):
            judged = JudgedTwice(
                dataset=plan.name,
                query=query,
                completion=completion.text,
                sample_count=completion.sample_count,
                prevalence=completion.prevalence,
                old=before.get(judged_before.question(query, completion.text).key, NEVER_JUDGED),
                new=after[plan.question(query, completion.text).key],
            )
            tally.add(judged)
            changes += [judged] if judged.is_changed else []
        datasets.append(tally.figures(judged_before, plan))
    store.close()
    return Comparison(datasets=datasets, changes=sorted(changes, key=lambda change: -change.prevalence))


class _Tally:
    """Adds up one dataset's completions by both of their verdicts."""

    def __init__(self) -> None:
        self._num_unique: Counter[Kinds] = Counter()
        self._prevalence: dict[Kinds, float] = defaultdict(float)
        self._num_trimmed_otherwise = 0

    def add(self, judged: JudgedTwice) -> None:
        kinds = judged.old.kind, judged.new.kind
        self._num_unique[kinds] += 1
        self._prevalence[kinds] += judged.prevalence
        is_kept = kinds == ("equivalent", "equivalent")
        self._num_trimmed_otherwise += is_kept and judged.old.trimmed_completion != judged.new.trimmed_completion

    def figures(self, before: DatasetPlan, after: DatasetPlan) -> DatasetComparison:
        return DatasetComparison(
            name=after.name,
            old_grader=before.grader,
            new_grader=after.grader,
            num_unique=self._num_unique.total(),
            old_equivalence_rate=_rate(self._num_unique, 0),
            new_equivalence_rate=_rate(self._num_unique, 1),
            old_draw_equivalence_rate=_rate(self._prevalence, 0),
            new_draw_equivalence_rate=_rate(self._prevalence, 1),
            num_became_equivalent=self._num_unique["not_equivalent", "equivalent"],
            num_became_not_equivalent=self._num_unique["equivalent", "not_equivalent"],
            num_changed_otherwise=sum(
                count for kinds, count in self._num_unique.items() if kinds[0] != kinds[1] and "ungraded" in kinds
            ),
            num_trimmed_otherwise=self._num_trimmed_otherwise,
        )


def _rate(amounts: Mapping[Kinds, float], side: int) -> float | None:
    """Equivalent of graded, by the old verdict (side 0) or the new one (side 1)."""
    graded = sum(amount for kinds, amount in amounts.items() if kinds[side] != "ungraded")
    equivalent = sum(amount for kinds, amount in amounts.items() if kinds[side] == "equivalent")
    return equivalent / graded if graded else None


def _completions(store: UnitStore, plan: DatasetPlan) -> Iterator[tuple[Query, Completion]]:
    tables = store.samples_of_prompts(plan.name, [query.id for query in plan.queries])
    for query, table in zip(plan.queries, tables, strict=True):
        for completion in distinct_completions(samples_of(table)):
            yield query, completion


def _stored_verdicts(directory: Path) -> VerdictTable:
    """What an experiment has, its job ended or stopped. Damaged verdicts count as absent."""
    return VerdictTable(_batches(directory))


def _batches(directory: Path) -> Iterator[pa.Table]:
    if is_intact(directory / VERDICTS_FILE):
        yield from verdict_batches(directory / VERDICTS_FILE, COMPARED_COLUMNS)
    schema = pa.schema([VERDICTS_SCHEMA.field(name) for name in COMPARED_COLUMNS])
    rows = (row for _, row in journal_lines(directory / JOURNAL) if row is not None)
    while some := list(islice(rows, BATCH_ROWS)):  # of a stopped job; later than the file, where there are both
        yield pa.Table.from_pylist(some, schema=schema)


def comparison_lines(comparison: Comparison) -> list[str]:
    """For a terminal or a log: each dataset's figures under its name, then the most prevalent changes.

    Completions and reasonings are someone else's text: what is not printable is escaped.
    """
    lines = ["", "Verdicts, old and new", "".join(heading.rjust(width) for heading, width in COLUMNS)]
    for dataset in comparison.datasets:
        lines += _dataset_lines(dataset)
    num_changes = len(comparison.changes)
    if not num_changes:
        return [*lines, "", "No verdict changed."]
    shown = f"the {NUM_SHOWN} most frequent" if num_changes > NUM_SHOWN else "the most frequent first"
    lines += ["", f"{num_changes:,} verdict{'' if num_changes == 1 else 's'} changed; {shown}:"]
    return lines + [line for change in comparison.changes[:NUM_SHOWN] for line in _change_lines(change)]


def _dataset_lines(dataset: DatasetComparison) -> list[str]:
    figures = (
        f"{dataset.num_unique:,}",
        _percent(dataset.old_equivalence_rate),
        _percent(dataset.new_equivalence_rate),
        _percent(dataset.old_draw_equivalence_rate),
        _percent(dataset.new_draw_equivalence_rate),
        f"{dataset.num_became_equivalent:,}",
        f"{dataset.num_became_not_equivalent:,}",
    )
    lines = [dataset.name, "".join(figure.rjust(width) for figure, (_, width) in zip(figures, COLUMNS, strict=True))]
    if dataset.num_changed_otherwise:
        lines.append(f"    and {dataset.num_changed_otherwise:,} changed from or to ungraded")
    if dataset.num_trimmed_otherwise:
        lines.append(f"    and {dataset.num_trimmed_otherwise:,} are equivalent as before, but trimmed otherwise")
    return lines


def _change_lines(change: JudgedTwice) -> list[str]:
    row = change.to_row()
    count = change.sample_count
    if count is None:
        weight = f"{change.prevalence:.2%} of the probability"
    else:
        weight = f"{count:,} draw{'' if count == 1 else 's'}"
    prompt, completion, reference = (
        repr(row[name][:MAX_SHOWN]) for name in ("prompt", "completion", "reference_completion")
    )
    return [
        f"  {weight}: {change.old.kind} -> {change.new.kind} in {change.dataset}",
        f"    {prompt} -> {completion}, reference {reference}",
        f"    old: {_shown(row['old_reasoning'] or '')}",
        f"    new: {_shown(row['new_reasoning'] or '')}",
    ]


def _shown(text: str) -> str:
    return printable(text[:MAX_SHOWN])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
