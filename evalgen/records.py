"""The frozen records that stages hand to each other, and nothing else.

Inside ``evalgen`` a stage takes and returns these; only at the edges of Ray and Arrow do they become dicts, through
``to_row`` and ``from_row``.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from evalgen.model_source import ModelSource

FinishReason = Literal["eos", "length", "stop"]
VerdictKind = Literal["equivalent", "not_equivalent", "ungraded"]

CLAUDE_PREFIX = "anthropic/"  # of the model of a grader that is asked over the Messages API
BATCH_PREFIX = "anthropic-batch/"  # the same judges over Message Batches


@dataclass(frozen=True, kw_only=True)
class Query:
    """One prompt to sample, with the reference that its completions are judged against."""

    id: str  # opaque; carried byte for byte as `prompt_id`
    prompt: str
    reference: str  # the original completion, as the source has it (starts with one space in the seed's sets)
    source_dataset: str  # eval dataset directory name, or "" for a query from JSON without one
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the other keys of the query's metadata


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One set of weights to sample from."""

    run: str  # label of the (inner) fine-tuning run, unique in a job
    name: str  # e.g. checkpoint_final
    path: str  # directory, or hub id and commit: organisation/name@<commit>
    tokenizer_path: str  # likewise; the checkpoint itself when the run has no tokenizer directory

    @property
    def source(self) -> ModelSource:
        """Its directory, or its hub id with the commit that was found when the job was resolved."""
        return ModelSource.of(self.path)


@dataclass(frozen=True, kw_only=True)
class SamplingLaw:
    """How the next token is drawn from the model's logits."""

    temperature: float  # > 0
    top_k: int  # 0: off
    top_p: float  # (0, 1]; 1: off
    min_p: float  # [0, 1]; 0: off
    do_sample: bool  # False: every draw takes the most probable token
    max_new_tokens: int  # EOS included
    stop_strings: tuple[str, ...] = ()  # a draw ends when its text has one of them


@dataclass(frozen=True, kw_only=True)
class SampledSequence:
    """A distinct token sequence drawn for one prompt, with every draw that produced it.

    Log-probabilities are in nats; `token_logprobs` and `logprob` at T=1, `logprob_sampling` under the sampling law.
    """

    prompt_id: str
    token_ids: tuple[int, ...]  # as drawn, EOS or what has the stop string included
    token_logprobs: tuple[float, ...]  # same length as token_ids
    logprob: float
    logprob_sampling: float
    token_logprobs_sampling: tuple[float, ...]  # same length as token_ids
    generation_indices: tuple[int, ...]  # ascending; empty if no draw gave it, or completions are enumerated
    finish_reason: FinishReason
    is_greedy: bool  # every token, EOS included, is the model's most probable one of those that can be drawn


@dataclass(frozen=True, kw_only=True)
class SamplingUnit:
    """The grain of sampling and of retry: some queries of one checkpoint, all or a range of their draws."""

    id: str  # stable: equal for equal content
    dataset: str  # name of the dataset that the unit belongs to
    checkpoint: Checkpoint
    queries: tuple[Query, ...]
    law: SamplingLaw
    first_draw: int
    num_draws: int  # of each prompt; 0 where completions are enumerated
    seed: int
    dtype: Literal["bf16", "fp32"]
    sampler: Literal["tree", "independent", "enumerate"]
    min_probability: float | None  # of what is enumerated; None where completions are drawn
    generation_batch_size: int  # most prompts in one forward pass

    def to_row(self) -> dict[str, str]:
        """The unit as an Arrow row: its id for people, itself as JSON."""
        return {"unit_id": self.id, "unit": json.dumps(asdict(self))}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> SamplingUnit:
        fields = json.loads(row["unit"])
        fields["checkpoint"] = Checkpoint(**fields["checkpoint"])
        fields["queries"] = tuple(Query(**query) for query in fields["queries"])
        fields["law"] = SamplingLaw(**fields["law"] | {"stop_strings": tuple(fields["law"]["stop_strings"])})
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of grading, a minute's worth; None: not limited, or not known."""

    requests: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class GraderSpec:
    """Which judge, with which instructions: everything about the grader that can change a verdict."""

    model: str  # e.g. anthropic/claude-haiku-4-5-20251001, offline/date
    instructions: str
    options: Mapping[str, bool] = field(default_factory=dict)  # of the offline graders; see evalgen.grading.offline
    num_votes: int = 1  # how often each question is asked; the majority is the verdict
    pack_size: int = 1  # most completions of one prompt in one request
    template_digest: str = ""  # of the words and schema round the instructions; empty where the judge is code

    @property
    def judge(self) -> str:
        """The model, in whichever way it is asked."""
        return judge_of(self.model)

    @property
    def api_model(self) -> str:
        """The judge's name at the Messages API."""
        assert not self.is_offline, self.model
        return self.judge.removeprefix(CLAUDE_PREFIX)

    @property
    def is_in_batches(self) -> bool:
        """Whether it is asked over Message Batches."""
        return self.model.startswith(BATCH_PREFIX)

    @property
    def is_offline(self) -> bool:
        """Whether the judge is code of ours, and no language model."""
        return not self.judge.startswith(CLAUDE_PREFIX)


def judge_of(grader_model: str) -> str:
    """Message Batches are another way to the same judge."""
    return re.sub(f"^{BATCH_PREFIX}", CLAUDE_PREFIX, grader_model)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Does `completion` mean the same as `reference`, as an answer to `prompt`?"""

    grader: GraderSpec
    prompt: str
    reference: str
    completion: str

    @cached_property
    def key(self) -> str:
        """Digest of everything that can change the verdict; equal questions have equal keys on every machine."""
        grader = self.grader
        parts: list[Any] = [
            grader.judge,
            grader.instructions,
            sorted(grader.options.items()),
            self.prompt,
            self.reference,
            self.completion,
        ]
        if (grader.num_votes, grader.pack_size) != (1, 1):  # as the default they are in no key, which is as it was
            parts += [grader.num_votes, grader.pack_size]
        if grader.template_digest:
            parts.append(grader.template_digest)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A grader's answer to one question."""

    kind: VerdictKind
    trimmed_completion: str | None = None  # a prefix of the completion that alone carries the answer; None: not trimmed
    reasoning: str = ""
    error: str | None = None  # why it is ungraded
    api_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0  # None: the model's price is unknown
    votes: tuple[VerdictKind, ...] = ()  # what the judge said each time, where it was asked several times

    def unpaid(self) -> Verdict:
        """The same as it is used again: it cost something once, and nothing now."""
        return replace(self, api_calls=0, input_tokens=0, output_tokens=0, cost_usd=0.0)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with its verdict, and whether an earlier experiment paid for it."""

    question: Question
    verdict: Verdict
    from_cache: bool = False
    is_vote: bool = False  # one of several, and no verdict yet
    answer_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # so that one stored twice is paid for once


@dataclass(frozen=True, kw_only=True)
class GradedUnit:
    """One unit has been sampled and all of its questions answered."""

    unit_id: str
    dataset: str
    num_questions: int
    num_equivalent: int
    num_ungraded: int
