"""Enumerates, in place of drawing: every completion that is at least so probable under the sampling law.

No other set of completions of the same size has more probability, and nothing about it is random. The probabilities of
a node's children sum to its own, so at no depth can more than 1 / `min_probability` nodes be probable enough.

The model sees every prefix that is probable enough and has not ended, also where no token after it is probable enough.
So its evaluations are more than the distinct prefixes of the completions that are found.
"""

from __future__ import annotations

import numpy as np

from evalgen.records import SamplingUnit
from evalgen.sampling.law import Distributions
from evalgen.sampling.memory import Capacity
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import Ints, Nodes, SamplingResult
from evalgen.sampling.tree import Tree


def enumerate_completions(
    loaded: LoadedModel, unit: SamplingUnit, budget_bytes: int | None = None, capacity: Capacity | None = None
) -> SamplingResult:
    """Every completion of every prompt whose probability under the law is at least `unit.min_probability`.

    By prompt, then by falling probability; equally probable ones by their tokens. No draws are attached. `budget_bytes`
    and `capacity` as in `sample_tree`.
    """
    assert unit.min_probability is not None
    result = Tree(loaded, unit, _Enumeration(unit.min_probability), budget_bytes, capacity).grow()
    prompts = {query.id: index for index, query in enumerate(unit.queries)}
    by_probability = sorted(result.sequences, key=lambda s: (prompts[s.prompt_id], -s.logprob_sampling, s.token_ids))
    return SamplingResult(
        sequences=tuple(by_probability),
        model_evaluations=result.model_evaluations,
        out_of_memory_halvings=result.out_of_memory_halvings,
        kv_bytes=result.kv_bytes,
    )


class _Enumeration:
    """Children are all tokens after which the prefix is still probable enough."""

    def __init__(self, min_probability: float) -> None:
        self._min_probability = min_probability

    def roots(self, prompts: Ints) -> Nodes:
        return Nodes.roots(prompts, np.zeros(0, np.int64))

    def children(self, nodes: Nodes, distributions: Distributions) -> Nodes:
        # Above 1 where the prefix itself is not probable enough any more, which rounding alone can bring about.
        rows, tokens = distributions.at_least(self._min_probability / np.exp(nodes.prefix_law_logprobs))
        # Where the most probable token is not probable enough, no other is.
        is_greedy = np.zeros(len(rows), bool)
        for node in np.flatnonzero(nodes.is_greedy):  # one for each prompt
            first, last = np.searchsorted(rows, (node, node + 1))
            if first < last:
                is_greedy[first + tokens.logprobs[first:last].argmax()] = True
        return nodes.children(rows, tokens, nodes.draws, np.zeros_like(rows), is_greedy)

    def most_leaves(self, nodes: Nodes) -> Ints:
        most: Ints = np.floor(np.exp(nodes.prefix_law_logprobs) / self._min_probability).astype(np.int64) + 1
        return most
