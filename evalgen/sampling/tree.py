"""Grows the tree of completions of some prompts; the model sees each node (distinct prefix) once.

`sample_tree` grows it along draws: every draw at a node picks its next token with its own random number, and draws that
picked the same token share the child. One more draw is greedy, so that a prompt's most probable answer is known even if
no draw gives it. A slice is a batch of nodes of one depth with the prefixes of their parents.
Slices wait on a stack, so what is kept is bounded whatever the number of draws.

Dimension letters: N nodes of a slice, D draws at them, C children.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evalgen.randomness import uniforms
from evalgen.records import SamplingUnit
from evalgen.sampling.freed_memory import give_back_freed_memory
from evalgen.sampling.law import Distributions, Picks
from evalgen.sampling.memory import Capacity, limits_of
from evalgen.sampling.model import LoadedModel, encoded_prompts
from evalgen.sampling.nodes import GREEDY_DRAW, Floats, Ints, Leaves, Nodes, SamplingResult, sequences_of
from evalgen.sampling.out_of_memory import is_out_of_memory, out_of_memory
from evalgen.sampling.prefixes import Prefixes, evaluate_prompts, kept_bytes
from evalgen.sampling.stopping import Stopping


class Growth(Protocol):
    """Which children a node has."""

    def roots(self, prompts: Ints) -> Nodes: ...

    def children(self, nodes: Nodes, distributions: Distributions) -> Nodes:
        """The children of all `nodes`, by parent; `distributions` are those of the token after each."""
        ...

    def most_leaves(self, nodes: Nodes) -> Ints:
        """(N,) what the subtree of each node cannot have more of at any depth."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Slice:
    nodes: Nodes
    parents: Prefixes | None  # None: roots, the prompts are to be evaluated


def sample_tree(
    loaded: LoadedModel, unit: SamplingUnit, budget_bytes: int | None = None, capacity: Capacity | None = None
) -> SamplingResult:
    """Every draw of every prompt of `unit`; the same tokens, draw for draw, as `sample_independently`.

    `budget_bytes` is for all that is kept between evaluations; None: a share of the memory that is free now. `capacity`
    is kept to, and learns; None: nothing is known of it.
    """
    return Tree(loaded, unit, Drawing(unit), budget_bytes, capacity).grow()


class Drawing:
    """Children are what the draws of a unit pick."""

    def __init__(self, unit: SamplingUnit) -> None:
        self._unit = unit

    def roots(self, prompts: Ints) -> Nodes:
        return Nodes.roots(prompts, all_draws(self._unit))

    def children(self, nodes: Nodes, distributions: Distributions) -> Nodes:
        picks = pick_next(self._unit, nodes, distributions)
        draws = nodes.draws[picks.order]
        is_greedy = draws[np.cumsum(picks.num_draws) - picks.num_draws] == GREEDY_DRAW  # it is the first wherever it is
        return nodes.children(picks.rows, picks.tokens, draws, picks.num_draws, is_greedy)

    def most_leaves(self, nodes: Nodes) -> Ints:
        return nodes.num_draws


def all_draws(unit: SamplingUnit) -> Ints:
    """Those of each prompt, the greedy one first."""
    return np.concatenate([[GREEDY_DRAW], np.arange(unit.first_draw, unit.first_draw + unit.num_draws)])


def pick_next(unit: SamplingUnit, nodes: Nodes, distributions: Distributions) -> Picks:
    """What each draw at `nodes` picks."""
    greedy = np.flatnonzero(nodes.draws == GREEDY_DRAW)
    return distributions.pick(nodes.rows_of_draws, _random_numbers(unit, nodes), greedy)


def _random_numbers(unit: SamplingUnit, nodes: Nodes) -> Floats:
    """(D,) the number with which each draw at `nodes` picks its next token; for the greedy draw any."""
    first_nodes = np.flatnonzero(np.diff(nodes.prompts, prepend=-1))  # of each prompt
    num_draws = np.add.reduceat(nodes.num_draws, first_nodes)
    prompt_ids = [unit.queries[prompt].id for prompt in nodes.prompts[first_nodes]]
    of_prompts = uniforms(unit.seed, prompt_ids, nodes.depth, unit.first_draw, unit.num_draws)
    offsets = np.arange(len(of_prompts)) * unit.num_draws - unit.first_draw
    places = np.maximum(nodes.draws, unit.first_draw) + np.repeat(offsets, num_draws)
    numbers: Floats = of_prompts.take(places)
    return numbers


class Tree:
    """Grows the trees of all prompts of a unit."""

    def __init__(
        self,
        loaded: LoadedModel,
        unit: SamplingUnit,
        growth: Growth,
        budget_bytes: int | None,
        capacity: Capacity | None = None,
    ) -> None:
        self._loaded = loaded
        self._unit = unit
        self._growth = growth
        self._stopping = Stopping(loaded, unit.law)
        self._prompts = encoded_prompts(loaded, unit)
        self._limits = limits_of(loaded, unit.law, max(map(len, self._prompts)), budget_bytes)
        self._capacity = capacity or Capacity()
        self._evaluations = 0
        self._halvings = 0
        self._failed: Nodes | None = None  # for which memory did not suffice the last time that it did not
        self._kv_bytes = 0

    @torch.inference_mode()
    def grow(self) -> SamplingResult:
        leaves: list[Leaves] = []
        stack = [_Slice(nodes=self._growth.roots(batch), parents=None) for batch in self._prompt_batches()]
        while stack:
            self._step(stack, leaves)
        return SamplingResult(
            sequences=sequences_of(leaves, [query.id for query in self._unit.queries]),
            model_evaluations=self._evaluations,
            out_of_memory_halvings=self._halvings,
            kv_bytes=self._kv_bytes,
        )

    def _step(self, stack: list[_Slice], leaves: list[Leaves]) -> None:
        """Expands the slice on top of the stack. A method of its own, so that nothing of it outlives it."""
        waiting = stack.pop()
        if len(waiting.nodes) > self._most_nodes(waiting):  # since it was cut memory has run out
            stack.extend(self._cut(waiting))
            return
        try:
            children = self._expanded(waiting)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # What the failed evaluation holds is let go when this block ends, and not before.
            children, reason = None, str(error)
        if children is None:
            self._note_failure(waiting, reason)
            stack.extend(self._cut(waiting))
            return
        self._evaluations += len(waiting.nodes)
        parents = {id(each.parents): each.parents for each in (*stack, waiting, children)}
        self._kv_bytes = max(self._kv_bytes, kept_bytes(it for it in parents.values() if it is not None))
        ended, going_on = self._stopping.apart(children.nodes)
        leaves.extend(ended)
        stack.extend(self._cut(_Slice(nodes=going_on, parents=children.parents)))

    def _expanded(self, waiting: _Slice) -> _Slice:
        """The children of all nodes of a slice."""
        logits, prefixes = self._evaluate(waiting)
        distributions = Distributions(logits, self._unit.law, self._loaded.undrawable)
        return _Slice(nodes=self._growth.children(waiting.nodes, distributions), parents=prefixes)

    def _prompt_batches(self) -> Iterator[Ints]:
        """Batches of prompts, those of like length together: what is padded is little, and what may not be is not."""
        may_pad = self._loaded.footprint.mixes_lengths
        batch: list[int] = []
        for index in sorted(range(len(self._prompts)), key=lambda index: len(self._prompts[index])):
            length = len(self._prompts[index])
            if batch and (
                len(batch) == self._unit.generation_batch_size
                or (len(batch) + 1) * length > self._limits.max_prompt_tokens
                or (not may_pad and length != len(self._prompts[batch[0]]))
            ):
                yield np.array(batch)
                batch = []
            batch.append(index)
        yield np.array(batch)

    def _evaluate(self, waiting: _Slice) -> tuple[Tensor, Prefixes]:
        """The logits after each node (N, V), and the nodes as prefixes."""
        nodes = waiting.nodes
        if waiting.parents is not None:
            return waiting.parents.extend(nodes.parent_rows, nodes.tokens)
        prompts = [self._prompts[index] for index in nodes.prompts]
        return evaluate_prompts(
            self._loaded.model,
            prompts,
            share_prompts=self._loaded.footprint.shares_prompts,
            share_beginnings=self._loaded.footprint.shares_beginnings,
        )

    def _cut(self, whole: _Slice) -> Iterator[_Slice]:
        """Slices, or batches of prompts, that the limits allow, each with as many nodes as they do."""
        most = self._most_nodes(whole)
        leaves = self._growth.most_leaves(whole.nodes)
        start = 0
        while start < len(whole.nodes):
            stop = start + most
            if whole.parents is not None:
                # Of a slice that may yet grow, what it may grow to counts.
                by_leaves = int(np.searchsorted(leaves[start:].cumsum(), min(self._limits.max_leaves, most), "right"))
                stop = start + max(by_leaves, min(self._limits.max_nodes, most))
            yield _Slice(nodes=whole.nodes.part(start, stop), parents=whole.parents)
            start = stop

    def _most_nodes(self, waiting: _Slice) -> int:
        """What memory suffices for, as far as is known."""
        return self._capacity.max_prompts if waiting.parents is None else self._capacity.max_rows

    def _note_failure(self, failed: _Slice, reason: str) -> None:
        """Memory did not suffice. A single node is tried once more, with what allocators kept given back.

        Raises:
            SequenceTooLarge, RuntimeError: it did not for that either; see `out_of_memory`.
        """
        num_nodes = len(failed.nodes)
        if num_nodes == 1 and failed.nodes is self._failed:
            prompt = self._prompts[int(failed.nodes.prompts[0])]
            raise out_of_memory(self._loaded.device, len(prompt) + failed.nodes.depth, reason)
        self._failed = failed.nodes
        self._halvings += 1
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            give_back_freed_memory()
        if num_nodes > 1:
            self._capacity.halve(num_nodes, are_prompts=failed.parents is None)
