"""Samples all draws of some prompts at the cost of their distinct prefixes.

The model sees each node (distinct prefix) once; every draw at the node picks its next token with its own random number,
and draws that picked the same token share the child. A slice is a batch of nodes of equal depth, with the KV cache of
its parents; slices wait on a stack, so memory is bounded by depth times the slice, whatever the number of draws.

Dimension letters: N nodes of a slice (one row each), L length of the padded prefix, V vocabulary, K draws of the node
that has most, D draws of the slice.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache

from evalgen.randomness import uniforms
from evalgen.records import SamplingUnit
from evalgen.sampling.law import NextToken, next_token, pick
from evalgen.sampling.memory import BYTES_PER_LOGIT, cache_budget_bytes, cache_bytes
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import Leaf, Node, SamplingResult, sequences_of
from evalgen.tokenization import encode_prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """Nodes to evaluate next, all at one depth, and where their parents' keys and values are."""

    nodes: list[Node]
    parent_cache: Cache | None  # None: roots, the whole prompt is to be evaluated
    parent_mask: Tensor | None  # (parents, L) int64, 0 on the left padding
    parent_rows: NDArray[np.int64]  # (N,) row of each node's parent in the cache

    def parts(self, max_nodes: int) -> Iterator[_Slice]:
        for start in range(0, len(self.nodes), max_nodes):
            stop = start + max_nodes
            yield _Slice(
                nodes=self.nodes[start:stop],
                parent_cache=self.parent_cache,
                parent_mask=self.parent_mask,
                parent_rows=self.parent_rows[start:stop],
            )


@torch.inference_mode()
def sample_tree(loaded: LoadedModel, unit: SamplingUnit) -> SamplingResult:
    """Every draw of every prompt of `unit`; the same tokens, draw for draw, as `sample_independently`."""
    return _TreeSampler(loaded, unit).run()


class _TreeSampler:
    def __init__(self, loaded: LoadedModel, unit: SamplingUnit) -> None:
        self._loaded = loaded
        self._unit = unit
        self._prompts = [encode_prompt(loaded.tokenizer, query.prompt) for query in unit.queries]
        self._most_that_fitted = sys.maxsize  # halved when memory runs out, in spite of the budget
        self._budget_bytes = cache_budget_bytes(loaded.device)
        self._evaluations = 0
        self._halvings = 0

    def run(self) -> SamplingResult:
        leaves: list[Leaf] = []
        stack = self._root_slices()
        while stack:
            waiting = stack.pop()
            if len(waiting.nodes) > self._most_that_fitted:
                stack.extend(waiting.parts(self._most_that_fitted))
                continue
            try:
                children, ended, max_nodes = self._expand(waiting)
            except torch.OutOfMemoryError:
                if len(waiting.nodes) == 1:
                    raise
                self._note_out_of_memory(len(waiting.nodes))
                stack.append(waiting)
                continue
            leaves.extend(ended)
            stack.extend(children.parts(max_nodes))
        return SamplingResult(
            sequences=sequences_of(leaves, [query.id for query in self._unit.queries]),
            model_evaluations=self._evaluations,
            out_of_memory_halvings=self._halvings,
        )

    def _root_slices(self) -> list[_Slice]:
        """One slice for each batch of prompts, prompts of like length together, so that little is padding."""
        draws = np.arange(self._unit.first_draw, self._unit.first_draw + self._unit.num_draws)
        by_length = sorted(range(len(self._prompts)), key=lambda index: len(self._prompts[index]))
        roots = [Node(prompt_index=index, depth=0, draws=draws) for index in by_length]
        whole = _Slice(nodes=roots, parent_cache=None, parent_mask=None, parent_rows=np.arange(len(roots)))
        return list(whole.parts(self._unit.generation_batch_size))

    def _expand(self, waiting: _Slice) -> tuple[_Slice, list[Leaf], int]:
        """Evaluates a slice and lets its draws pick: the children, the leaves, and how many children fit a slice."""
        logits, cache, mask = self._evaluate(waiting)
        distribution = next_token(logits, self._unit.law, self._loaded.vocabulary_size)
        tokens = self._pick_tokens(waiting.nodes, distribution)
        self._evaluations += len(waiting.nodes)
        children, rows, leaves = [], [], []
        for row, child in self._split(waiting.nodes, tokens, distribution):
            if child.token in self._loaded.eos_ids:
                leaves.append(Leaf(node=child, finish_reason="eos"))
            elif child.depth == self._unit.law.max_new_tokens:
                leaves.append(Leaf(node=child, finish_reason="length"))
            else:
                children.append(child)
                rows.append(row)
        next_slice = _Slice(nodes=children, parent_cache=cache, parent_mask=mask, parent_rows=np.array(rows, int))
        return next_slice, leaves, self._slice_size(cache, *logits.shape)

    def _evaluate(self, waiting: _Slice) -> tuple[Tensor, Cache, Tensor]:
        """Logits of the next token (N, V), the cache and the mask (N, L) with the nodes' own tokens in them."""
        device = self._loaded.device
        if waiting.parent_cache is None:
            input_ids, mask = _left_padded([self._prompts[node.prompt_index] for node in waiting.nodes], device)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (N, L)
            cache = None
        else:
            assert waiting.parent_mask is not None
            rows = torch.from_numpy(waiting.parent_rows).to(device)
            cache = _select_rows(waiting.parent_cache, rows)
            mask = torch.nn.functional.pad(waiting.parent_mask[rows], (0, 1), value=1)  # (N, L)
            input_ids = torch.tensor([[node.token] for node in waiting.nodes], device=device)
            positions = mask.sum(-1, keepdim=True) - 1  # (N, 1)
        output = self._loaded.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1], output.past_key_values, mask

    def _pick_tokens(self, nodes: list[Node], distribution: NextToken) -> list[NDArray[np.int64]]:
        """For each node, the next token of each of its draws."""
        most = max(len(node.draws) for node in nodes)
        u = np.zeros((len(nodes), most))  # (N, K), padded with numbers that nobody uses
        numbers: dict[int, NDArray[np.float64]] = {}
        for row, node in enumerate(nodes):
            if node.prompt_index not in numbers:
                numbers[node.prompt_index] = self._uniforms(node)
            u[row, : len(node.draws)] = numbers[node.prompt_index][node.draws - self._unit.first_draw]
        picked = pick(distribution, torch.from_numpy(u).to(self._loaded.device)).cpu().numpy()  # (N, K)
        return [picked[row, : len(node.draws)] for row, node in enumerate(nodes)]

    def _uniforms(self, node: Node) -> NDArray[np.float64]:
        unit = self._unit
        return uniforms(unit.seed, unit.queries[node.prompt_index].id, node.depth, unit.first_draw, unit.num_draws)

    def _split(
        self, nodes: list[Node], tokens: list[NDArray[np.int64]], distribution: NextToken
    ) -> list[tuple[int, Node]]:
        """The children, each with its parent's row: draws of a node that picked the same token go on together."""
        branches = [(row, int(token)) for row, picked in enumerate(tokens) for token in np.unique(picked)]
        index = torch.tensor(branches, device=self._loaded.device).T
        logprobs = distribution.logprobs[index[0], index[1]].tolist()
        law_logprobs = distribution.law_logprobs[index[0], index[1]].tolist()
        return [
            (
                row,
                Node(
                    prompt_index=nodes[row].prompt_index,
                    depth=nodes[row].depth + 1,
                    draws=nodes[row].draws[tokens[row] == token],
                    parent=nodes[row],
                    token=token,
                    logprob=logprob,
                    law_logprob=law_logprob,
                ),
            )
            for (row, token), logprob, law_logprob in zip(branches, logprobs, law_logprobs, strict=True)
        ]

    def _slice_size(self, cache: Cache, num_nodes: int, vocabulary_size: int) -> int:
        """Most nodes a slice may have: the stack holds the cache of one slice for every depth, plus the one at work."""
        caches = cache_bytes(cache) // num_nodes * (self._unit.law.max_new_tokens + 1)
        return max(1, self._budget_bytes // (caches + vocabulary_size * BYTES_PER_LOGIT))

    def _note_out_of_memory(self, num_nodes: int) -> None:
        self._halvings += 1
        self._most_that_fitted = num_nodes // 2
        if self._halvings == 1:
            log.warning("out of memory with %d nodes in one slice; going on with half as many", num_nodes)
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()


def _left_padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (N, L) int64; padded with id 0, which the mask hides."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _select_rows(cache: Cache, rows: Tensor) -> Cache:
    """A new cache with `rows` of the old, which stays as it is: other slices may still come from it."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.batch_select_indices(rows)
    return selected
