"""How far a grader can be trusted: its verdicts held against the labels that people gave.

Counts where grader and people agree, and says how sure one can be of every figure. "equivalent" is the positive class.
An ungraded item is neither right nor wrong: it is reported, and enters no figure but the coverage. Intervals take the
items for independent draws, which those of a hand-made set are not quite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Literal

from evalgen.grading.labelled_items import LabelledItem
from evalgen.records import GraderSpec, Verdict, judge_of

Outcome = Literal["true_positive", "false_positive", "false_negative", "true_negative", "ungraded"]

CONFIDENCE = 0.95  # of every interval
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95% interval. None: not defined by these items, which is not the same as 0."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Items by what grader and people say of them."""

    num_true_positives: int  # both say equivalent
    num_false_positives: int  # the grader alone says equivalent
    num_false_negatives: int  # people alone say equivalent
    num_true_negatives: int
    num_ungraded: int

    @property
    def num_graded(self) -> int:
        return self.num_agreed + self.num_false_positives + self.num_false_negatives

    @property
    def num_agreed(self) -> int:
        return self.num_true_positives + self.num_true_negatives

    @property
    def num_items(self) -> int:
        return self.num_graded + self.num_ungraded

    @property
    def coverage(self) -> float | None:
        """The share of items that got a verdict."""
        return self.num_graded / self.num_items if self.num_items else None

    @property
    def accuracy(self) -> float | None:
        """The share of graded items on which grader and people agree."""
        return self.num_agreed / self.num_graded if self.num_graded else None

    @property
    def precision(self) -> Estimate:
        """Of the items that the grader calls equivalent, the share that people do."""
        return wilson(self.num_true_positives, self.num_true_positives + self.num_false_positives)

    @property
    def recall(self) -> Estimate:
        """Of the graded items that people call equivalent, the share that the grader does."""
        return wilson(self.num_true_positives, self.num_true_positives + self.num_false_negatives)

    @property
    def kappa(self) -> Estimate:
        return cohens_kappa(
            (
                (self.num_true_positives, self.num_false_negatives),
                (self.num_false_positives, self.num_true_negatives),
            )
        )


@dataclass(frozen=True, kw_only=True)
class JudgedItem:
    """An item with the grader's verdict on it."""

    item: LabelledItem
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        if self.verdict.kind == "ungraded":
            return "ungraded"
        if self.verdict.kind == "equivalent":
            return "true_positive" if self.item.equivalent else "false_positive"
        return "false_negative" if self.item.equivalent else "true_negative"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A grader's verdicts on a labelled file, in its order, on which no figure depends."""

    judged: tuple[JudgedItem, ...]

    @property
    def confusion(self) -> Confusion:
        return _confusion(self.judged)

    @property
    def by_case(self) -> dict[str, Confusion]:
        """Cases by name."""
        names = sorted({judged.item.case for judged in self.judged})
        return {name: _confusion([judged for judged in self.judged if judged.item.case == name]) for name in names}

    def having(self, outcome: Outcome) -> list[JudgedItem]:
        return [judged for judged in self.judged if judged.outcome == outcome]


def _confusion(judged: Sequence[JudgedItem]) -> Confusion:
    outcomes = [each.outcome for each in judged]
    return Confusion(
        num_true_positives=outcomes.count("true_positive"),
        num_false_positives=outcomes.count("false_positive"),
        num_false_negatives=outcomes.count("false_negative"),
        num_true_negatives=outcomes.count("true_negative"),
        num_ungraded=outcomes.count("ungraded"),
    )


def wilson(num_successes: int, num_trials: int) -> Estimate:
    """A share with Wilson's interval, which keeps its width where nothing or everything succeeded.

    E. B. Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    if num_trials == 0:
        return Estimate()
    share = num_successes / num_trials
    shrink = 1 + _Z**2 / num_trials
    centre = (share + _Z**2 / (2 * num_trials)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / num_trials + (_Z / (2 * num_trials)) ** 2) / shrink
    # The outer two only against rounding: the bounds are shares, and on either side of this one.
    return Estimate(value=share, low=min(max(centre - half, 0.0), share), high=max(min(centre + half, 1.0), share))


def cohens_kappa(table: Sequence[Sequence[int]]) -> Estimate:
    """Agreement beyond chance of two raters: 1 perfect, 0 as by chance. `table[i][j]`: items called i by one, j by two.

    The interval is the large-sample one of Fleiss, Cohen and Everitt (1969), Psychological Bulletin 72, 323-327, cut
    at -1 and 1, and not a bootstrap: it needs no seed, does not depend on the order of items, always contains the
    estimate, and its values are published. Neither says anything where all resamples would agree, as at a kappa of
    1: there the bounds are None. All of kappa is None where both raters give everything one and the same name.
    """
    num_items = sum(map(sum, table))
    if num_items == 0:
        return Estimate()
    shares = [[Fraction(count, num_items) for count in row] for row in table]  # exact, so that 1 and 0 are
    of_one = [sum(row, Fraction()) for row in shares]
    of_two = [sum(column, Fraction()) for column in zip(*shares, strict=True)]
    names = range(len(shares))
    by_chance = sum((of_one[i] * of_two[i] for i in names), Fraction())
    if by_chance == 1:
        return Estimate()
    kappa = (sum((shares[i][i] for i in names), Fraction()) - by_chance) / (1 - by_chance)
    agreed = sum((shares[i][i] * (1 - (of_one[i] + of_two[i]) * (1 - kappa)) ** 2 for i in names), Fraction())
    differed = sum((shares[i][j] * (of_two[i] + of_one[j]) ** 2 for i in names for j in names if i != j), Fraction())
    variance = agreed + (1 - kappa) ** 2 * differed - (kappa - by_chance * (1 - kappa)) ** 2
    assert variance >= 0, table
    if variance == 0:
        return Estimate(value=float(kappa))
    half = _Z * math.sqrt(variance / num_items) / float(1 - by_chance)
    return Estimate(value=float(kappa), low=max(float(kappa) - half, -1.0), high=min(float(kappa) + half, 1.0))


def is_calibration_of(record: Mapping[str, Any], grader: GraderSpec) -> bool:
    """Whether a `calibration_record` is of `grader`; Message Batches are the same judge."""
    return (
        judge_of(record["grader_model"]),
        record["grader_instructions_sha256"],
        record["grader_options"],
        record["grader_votes"],
        record["grader_pack_size"],
        record.get("grader_template_digest", ""),  # of before there was any
    ) == (
        grader.judge,
        instructions_sha256(grader),
        dict(grader.options),
        grader.num_votes,
        grader.pack_size,
        grader.template_digest,
    )


def calibration_record(
    calibration: Calibration, grader: GraderSpec, *, labelled_file: str, labelled_file_sha256: str, at: datetime
) -> dict[str, Any]:
    """All of a calibration as JSON values, as `grader_calibration.json` holds it beside a dataset."""
    verdicts = [judged.verdict for judged in calibration.judged]
    costs = [verdict.cost_usd for verdict in verdicts]
    return {
        "date": at.isoformat(timespec="seconds"),
        "grader_model": grader.model,
        "grader_instructions_sha256": instructions_sha256(grader),
        "grader_options": dict(grader.options),
        "grader_votes": grader.num_votes,
        "grader_pack_size": grader.pack_size,
        "grader_template_digest": grader.template_digest,
        "labelled_file": labelled_file,
        "labelled_file_sha256": labelled_file_sha256,
        "confidence": CONFIDENCE,
        **_figures(calibration.confusion),
        "cases": {name: _figures(confusion) for name, confusion in calibration.by_case.items()},
        "false_positives": list(map(_mistake, calibration.having("false_positive"))),
        "false_negatives": list(map(_mistake, calibration.having("false_negative"))),
        "ungraded": list(map(_mistake, calibration.having("ungraded"))),
        "api_calls": sum(verdict.api_calls for verdict in verdicts),
        "input_tokens": sum(verdict.input_tokens for verdict in verdicts),
        "output_tokens": sum(verdict.output_tokens for verdict in verdicts),
        "cost_usd": None if None in costs else sum(cost or 0.0 for cost in costs),
    }


def instructions_sha256(grader: GraderSpec) -> str:
    return hashlib.sha256(grader.instructions.encode()).hexdigest()


def _figures(confusion: Confusion) -> dict[str, Any]:
    return {
        "num_items": confusion.num_items,
        "num_graded": confusion.num_graded,
        "coverage": confusion.coverage,
        "confusion": asdict(confusion),
        "accuracy": confusion.accuracy,
        "precision": asdict(confusion.precision),
        "recall": asdict(confusion.recall),
        "kappa": asdict(confusion.kappa),
    }


def _mistake(judged: JudgedItem) -> dict[str, Any]:
    """An item on which grader and people differ, or that the grader left ungraded."""
    verdict = judged.verdict
    return asdict(judged.item) | {"verdict": verdict.kind, "reasoning": verdict.reasoning, "error": verdict.error}
