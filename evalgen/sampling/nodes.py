"""The tree of drawn prefixes: a node is a distinct prefix, and knows the draws that are there.

Both samplers end in `sequences_of`, which turns finished nodes into records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalgen.records import FinishReason, SampledSequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """A distinct prefix of one prompt: the parent's tokens and one more."""

    prompt_index: int
    depth: int  # tokens drawn so far; 0 at the root
    draws: NDArray[np.int64]  # generation indices that are here, ascending
    parent: Node | None = None  # None: the root, the prompt alone
    token: int = -1  # the last three are of the token that leads here; meaningless at the root
    logprob: float = 0.0  # nats, T=1
    law_logprob: float = 0.0  # nats, under the sampling law


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A node at which every draw ended."""

    node: Node
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class SamplingResult:
    """What a sampler drew, and what it cost."""

    sequences: tuple[SampledSequence, ...]  # by prompt, then by smallest generation index
    model_evaluations: int  # rows given to the model: prompts prefilled and nodes decoded
    out_of_memory_halvings: int = 0


def sequences_of(leaves: Iterable[Leaf], prompt_ids: list[str]) -> tuple[SampledSequence, ...]:
    """The leaves as records, those with equal tokens merged, by prompt and then by smallest generation index."""
    by_tokens: dict[tuple[int, tuple[int, ...]], list[Leaf]] = defaultdict(list)
    for leaf in leaves:
        by_tokens[leaf.node.prompt_index, tuple(n.token for n in _path(leaf.node))].append(leaf)
    ordered = sorted(by_tokens.items(), key=lambda item: (item[0][0], min(leaf.node.draws[0] for leaf in item[1])))
    return tuple(_sequence(equal, tokens, prompt_ids[index]) for (index, tokens), equal in ordered)


def _sequence(leaves: list[Leaf], tokens: tuple[int, ...], prompt_id: str) -> SampledSequence:
    path = _path(leaves[0].node)
    draws = np.sort(np.concatenate([leaf.node.draws for leaf in leaves]))
    return SampledSequence(
        prompt_id=prompt_id,
        token_ids=tokens,
        token_logprobs=tuple(n.logprob for n in path),
        logprob=sum(n.logprob for n in path),
        logprob_sampling=sum(n.law_logprob for n in path),
        token_logprobs_sampling=tuple(n.law_logprob for n in path),
        generation_indices=tuple(draws.tolist()),
        finish_reason=leaves[0].finish_reason,
    )


def _path(node: Node) -> list[Node]:
    """The nodes from the first drawn token to `node`."""
    path = []
    while node.parent is not None:
        path.append(node)
        node = node.parent
    return path[::-1]


def distinct_prefixes(sequences: Iterable[SampledSequence]) -> int:
    """How many distinct prefixes some draw leaves: the fewest model evaluations any exact sampler can do.

    In sorted order, sequences that share a prefix stand together: each adds what it does not share with the one before.
    """
    count = 0
    before: tuple[str, tuple[int, ...]] = ("", ())
    for prompt_id, ids in sorted((s.prompt_id, s.token_ids) for s in sequences):
        shared = 0  # prefixes that the sequence before left too, the empty one included
        if before[0] == prompt_id and before[1]:
            equal = next((n for n, (x, y) in enumerate(zip(before[1], ids, strict=False)) if x != y), None)
            shared = min(len(ids), len(before[1]), len(ids) if equal is None else equal + 1)
        count += len(ids) - shared
        before = (prompt_id, ids)
    return count
