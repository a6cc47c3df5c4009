"""The frozen records between what is read of experiments and what the page shows of them.

Masses are probabilities. "Unique" counts distinct completions, "draws" counts every sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalgen.config import RunConfig
from evalgen.records import VerdictKind


@dataclass(frozen=True, kw_only=True)
class ShownCompletion:
    """One completion of a prompt: a kept row, a reject, or what is in `left_out.json`."""

    text: str  # as kept, so trimmed where the judge trimmed it
    raw: str  # as decoded
    verdict: VerdictKind
    draws: int | None  # None: enumerated
    mass: float | None  # at T=1, of its tokens, whatever follows; None: the ids that are stored were not drawn
    mass_sampling: float | None  # under the sampling law
    reasoning: str
    left_out: str | None = None  # why no row holds it
    weight: float | None = None  # of a kept row, among those of its prompt
    is_prefix: bool = False  # another kept row goes on where this one ends
    num_tokens: int | None = None
    finish_reason: str | None = None
    is_greedy: bool = False
    votes: tuple[VerdictKind, ...] = ()  # only where they were not unanimous

    @property
    def is_conspicuous(self) -> bool:
        """Somebody should look at it: the judge disagreed with itself, or did not judge."""
        return bool(self.votes) or self.verdict == "ungraded"

    @property
    def prevalence(self) -> float:
        return self.draws if self.draws is not None else (self.mass_sampling or 0.0)


@dataclass(frozen=True, kw_only=True)
class ShownPrompt:
    """A row of `prompts.parquet`, with some of the prompt's completions."""

    figures: Mapping[str, Any]  # the row
    completions: tuple[ShownCompletion, ...]
    num_completions: int  # there are, shown or not; after trimming, so at most as many as were drawn
    index: int  # in the dataset's order

    @property
    def num_split(self) -> int:
        return sum(bool(completion.votes) for completion in self.completions)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a dataset's draws, probability and meanings are spread: means over its prompts. None: not known of any."""

    num_prompts: int
    num_unique: float | None
    semantic_entropy: float | None  # nats, upper bound
    semantic_entropy_lower: float | None
    equivalent_mass: float | None  # at T=1
    equivalent_draw_share: float | None
    greedy_right_share: float | None  # of the prompts of which the greedy completion is known and graded
    unseen_mass: float | None


@dataclass(frozen=True, kw_only=True)
class ShownDataset:
    """One dataset of an experiment."""

    index: int  # in `datasets` of summary.json
    figures: Mapping[str, Any]  # that entry
    directory: Path | None  # None: it is not there
    grader: str  # model
    prompts_digest: str  # equal for equal prompts; "" if unknown
    settings: RunConfig | None = None  # None: of which run of the job it is, the files do not tell
    missing: tuple[Mapping[str, Any], ...] = ()  # prompts, each with its reason
    spread: Spread | None = None  # None: no prompts.parquet
    first_prompts: tuple[Mapping[str, Any], ...] = ()  # rows of prompts.parquet, in order
    shown: tuple[ShownPrompt, ...] = ()
    calibration: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return str(self.figures["name"])

    @property
    def is_partial(self) -> bool:
        return bool(self.figures.get("num_missing_prompts"))


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A question on which the judge's votes were not unanimous."""

    grader: str
    prompt: str
    reference: str
    completion: str
    kept_text: str  # as a dataset has it: trimmed, if it is equivalent
    verdict: VerdictKind
    votes: tuple[VerdictKind, ...]
    reasoning: str

    @property
    def share(self) -> float:
        """Of the votes that are as the verdict."""
        return self.votes.count(self.verdict) / len(self.votes)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What `verdicts/0000.parquet` has; its questions, not its votes, are counted."""

    num_questions: int = 0
    num_from_cache: int = 0
    num_voted: int = 0  # asked more than once
    num_split: int = 0  # of them, those whose votes were not unanimous
    split: tuple[Disagreement, ...] = ()  # the closest first; not all, if there are very many


@dataclass(frozen=True, kw_only=True)
class ShownExperiment:
    """An experiment directory."""

    directory: Path
    label: str
    config: Mapping[str, Any]
    graders: tuple[Mapping[str, Any], ...]  # as plan.json has them, each once
    planned: Mapping[str, int]  # prompts by dataset, as plan.json has them
    summary: Mapping[str, Any] | None  # None: the job has not come to results
    is_running: bool  # or was stopped: it has begun something that is not in the results
    datasets: tuple[ShownDataset, ...] = ()
    num_datasets: int = 0  # there are, shown or not
    questions: Questions | None = None
