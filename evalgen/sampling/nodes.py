"""The tree of drawn prefixes: a node is a distinct prefix, and knows the draws that are there.

Nodes of one depth stand together in arrays. All samplers end in `sequences_of`, which turns leaves into records.

Dimension letters: N nodes, D draws at these nodes, T tokens drawn (the depth).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evalgen.records import FinishReason, SampledSequence
from evalgen.sampling.beginnings import num_equal_first
from evalgen.sampling.law import Tokens

GREEDY_DRAW = -1  # not one of those asked for: it takes the most probable token everywhere

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Nodes:
    """N distinct prefixes of equal depth, those of one prompt next to each other. At depth 0 the prompts themselves."""

    depth: int  # tokens drawn so far
    prompts: Ints  # (N,) index of each node's prompt in its unit
    draws: Ints  # (D,) generation indices, and `GREEDY_DRAW`: those at node 0, ascending, then those at node 1, ...
    num_draws: Ints  # (N,) how many of them are at each node; all 0 where nothing is drawn but all is enumerated
    prefix_law_logprobs: Floats  # (N,) log-probability in nats of all drawn tokens, under the sampling law
    is_greedy: Bools  # (N,) every drawn token is the model's most probable one of those that can be drawn
    parents: Nodes | None  # without their draws; None: depth 0, and the four arrays below mean nothing
    parent_rows: Ints  # (N,)
    tokens: Ints  # (N,) the last token of each
    logprobs: Floats  # (N,) its log-probability in nats, T=1
    law_logprobs: Floats  # (N,) and under the sampling law

    @classmethod
    def roots(cls, prompts: Ints, draws: Ints) -> Nodes:
        """The prompts themselves, every draw at each of them."""
        return cls(
            depth=0,
            prompts=prompts,
            draws=np.tile(draws, len(prompts)),
            num_draws=np.full(len(prompts), len(draws)),
            prefix_law_logprobs=np.zeros(len(prompts)),
            is_greedy=np.ones(len(prompts), bool),
            parents=None,
            parent_rows=np.zeros(len(prompts), np.int64),
            tokens=np.zeros(len(prompts), np.int64),
            logprobs=np.zeros(len(prompts)),
            law_logprobs=np.zeros(len(prompts)),
        )

    def children(self, rows: Ints, tokens: Tokens, draws: Ints, num_draws: Ints, is_greedy: Bools) -> Nodes:
        """Nodes one token deeper: child c is node `rows[c]` and token c, rows ascending."""
        return Nodes(
            depth=self.depth + 1,
            prompts=self.prompts[rows],
            draws=draws,
            num_draws=num_draws,
            prefix_law_logprobs=self.prefix_law_logprobs[rows] + tokens.law_logprobs,
            is_greedy=is_greedy,
            parents=replace(self, draws=np.zeros(0, np.int64)),  # paths are read from it, and draws take memory
            parent_rows=rows,
            tokens=tokens.ids,
            logprobs=tokens.logprobs,
            law_logprobs=tokens.law_logprobs,
        )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def rows_of_draws(self) -> Ints:
        """(D,) the node at which each draw is."""
        return np.repeat(np.arange(len(self)), self.num_draws)

    def part(self, start: int, stop: int) -> Nodes:
        """Nodes `start` to `stop`, the latter not included."""
        place = np.arange(len(self))
        return self.select((place >= start) & (place < stop))

    def select(self, chosen: Bools) -> Nodes:
        """The chosen nodes with their draws; `chosen` has shape (N,)."""
        if chosen.all():
            return self
        return replace(
            self,
            prompts=self.prompts[chosen],
            draws=self.draws[np.repeat(chosen, self.num_draws)],
            num_draws=self.num_draws[chosen],
            prefix_law_logprobs=self.prefix_law_logprobs[chosen],
            is_greedy=self.is_greedy[chosen],
            parent_rows=self.parent_rows[chosen],
            tokens=self.tokens[chosen],
            logprobs=self.logprobs[chosen],
            law_logprobs=self.law_logprobs[chosen],
        )

    def paths(self, column: Literal["tokens", "logprobs", "law_logprobs"]) -> list[list[Any]]:
        """Of each node the values of a column from its first token to its last: N lists of T."""
        values, rows, level = [], np.arange(len(self)), self
        while level.parents is not None:
            values.append(getattr(level, column)[rows])
            rows = level.parent_rows[rows]
            level = level.parents
        paths: list[list[Any]] = np.stack(values[::-1], axis=1).tolist()
        return paths


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaves:
    """Nodes at which every draw ended, all for the same reason."""

    nodes: Nodes
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class SamplingResult:
    """What a sampler drew, and what it cost."""

    sequences: tuple[SampledSequence, ...]  # by prompt, then by smallest generation index
    model_evaluations: int  # rows given to the model: prompts prefilled and nodes decoded
    out_of_memory_halvings: int = 0
    kv_bytes: int = 0  # most of keys, values and recurrent states that were kept at once; 0: nobody looked


def sequences_of(leaves: Iterable[Leaves], prompt_ids: Sequence[str]) -> tuple[SampledSequence, ...]:
    """The leaves as records, those with equal tokens merged, by prompt and then by smallest generation index.

    The greedy one is among them even if it has none.
    """
    equal: dict[tuple[int, tuple[int, ...]], list[SampledSequence]] = defaultdict(list)
    for some in leaves:
        for prompt, sequence in zip(some.nodes.prompts.tolist(), _sequences(some, prompt_ids), strict=True):
            equal[prompt, sequence.token_ids].append(sequence)
    merged = [(prompt, _merged(sequences)) for (prompt, _), sequences in equal.items()]
    merged.sort(key=lambda item: (item[0], item[1].generation_indices[:1] or (math.inf,)))
    return tuple(sequence for _, sequence in merged)


def _sequences(leaves: Leaves, prompt_ids: Sequence[str]) -> list[SampledSequence]:
    nodes = leaves.nodes
    tokens, logprobs, law_logprobs = (nodes.paths(column) for column in ("tokens", "logprobs", "law_logprobs"))
    is_asked_for = nodes.draws != GREEDY_DRAW
    num_draws = np.bincount(nodes.rows_of_draws[is_asked_for], minlength=len(nodes))
    draws = np.split(nodes.draws[is_asked_for], np.cumsum(num_draws)[:-1])
    return [
        SampledSequence(
            prompt_id=prompt_ids[prompt],
            token_ids=tuple(tokens[row]),
            token_logprobs=tuple(logprobs[row]),
            logprob=sum(logprobs[row]),
            logprob_sampling=sum(law_logprobs[row]),
            token_logprobs_sampling=tuple(law_logprobs[row]),
            generation_indices=tuple(draws[row].tolist()),
            finish_reason=leaves.finish_reason,
            is_greedy=bool(nodes.is_greedy[row]),
        )
        for row, prompt in enumerate(nodes.prompts.tolist())
    ]


def _merged(equal: list[SampledSequence]) -> SampledSequence:
    if len(equal) == 1:
        return equal[0]
    draws = sorted(draw for sequence in equal for draw in sequence.generation_indices)
    is_greedy = any(sequence.is_greedy for sequence in equal)  # rounding goes by batch, and may break a tie both ways
    return replace(equal[0], generation_indices=tuple(draws), is_greedy=is_greedy)


def distinct_prefixes(sequences: Iterable[SampledSequence]) -> int:
    """How many distinct prefixes the sequences leave: the fewest model evaluations with which they can be drawn.

    To enumerate takes more: that a prefix leads to no sequence is known once it has been evaluated.
    In sorted order, sequences that share a prefix stand together: each adds what it does not share with the one before.
    """
    keys = sorted((sequence.prompt_id, sequence.token_ids) for sequence in sequences)
    count = sum(len(ids) for _, ids in keys)
    for (prompt_before, before), (prompt, ids) in pairwise(keys):
        if prompt == prompt_before:
            # The empty prefix is shared, too.
            count -= min(num_equal_first(before, ids) + 1, len(before), len(ids))
    return count
