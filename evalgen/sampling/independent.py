"""Samples with a row for every draw and nothing shared but the prompt: what the tree must equal, and its baseline.

Each draw uses the same random numbers as in the tree, so the two must return the same tokens for every draw. The cache
is the model's own, whole rows of it, and so is the attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from evalgen.records import SamplingUnit
from evalgen.sampling.law import Distributions
from evalgen.sampling.memory import Capacity, limits_of
from evalgen.sampling.model import LoadedModel, encoded_prompts
from evalgen.sampling.nodes import GREEDY_DRAW, Ints, Leaves, Nodes, SamplingResult, sequences_of
from evalgen.sampling.out_of_memory import is_out_of_memory, out_of_memory
from evalgen.sampling.prefixes import evaluate_prompts
from evalgen.sampling.stopping import Stopping
from evalgen.sampling.tree import all_draws, pick_next


@torch.inference_mode()
def sample_independently(
    loaded: LoadedModel, unit: SamplingUnit, budget_bytes: int | None = None, capacity: Capacity | None = None
) -> SamplingResult:
    """Every draw of every prompt of `unit`, as many side by side as `budget_bytes` allows (None: as memory does).

    `capacity` as in `sample_tree`.
    """
    capacity = capacity or Capacity()
    unshared = replace(loaded, footprint=replace(loaded.footprint, shares_prompts=False))
    leaves: list[Leaves] = []
    evaluations = halvings = 0
    for prompt_index, prompt in enumerate(encoded_prompts(loaded, unit)):
        side_by_side = limits_of(unshared, unit.law, len(prompt), budget_bytes).max_leaves
        to_do = all_draws(unit)
        while len(to_do):
            draws = to_do[: min(side_by_side, capacity.max_rows)]
            rounds = _rounds_or_none(unshared, unit, prompt_index, prompt, draws)
            if rounds is None:
                capacity.halve(len(draws), are_prompts=False)
                halvings += 1
                continue
            evaluations += sum(evaluated for evaluated, _ in rounds)
            leaves += [some for _, ended in rounds for some in ended]
            to_do = to_do[len(draws) :]
    prompt_ids = [query.id for query in unit.queries]
    return SamplingResult(
        sequences=sequences_of(leaves, prompt_ids), model_evaluations=evaluations, out_of_memory_halvings=halvings
    )


def _rounds_or_none(
    loaded: LoadedModel, unit: SamplingUnit, prompt_index: int, prompt: list[int], draws: Ints
) -> list[tuple[int, list[Leaves]]] | None:
    """What `_rounds` yields; None: memory did not suffice for so many draws.

    Raises:
        SequenceTooLarge, RuntimeError: it does not suffice for one; see `out_of_memory`.
    """
    try:
        return list(_rounds(loaded, unit, prompt_index, prompt, draws))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(draws) == 1:
            raise out_of_memory(loaded.device, len(prompt) + unit.law.max_new_tokens, str(error)) from None
        return None


def _rounds(
    loaded: LoadedModel, unit: SamplingUnit, prompt_index: int, prompt: list[int], draws: Ints
) -> Iterator[tuple[int, list[Leaves]]]:
    """One token a round for every draw that goes on: rows evaluated, and the draws that ended."""
    stopping = Stopping(loaded, unit.law)
    logits, prefixes = evaluate_prompts(loaded.model, [prompt], share_prompts=False)
    nodes = Nodes.roots(np.array([prompt_index]), draws)
    evaluated = 1
    while True:
        rows = nodes.rows_of_draws  # at the root every draw is at row 0, later each has a row of its own
        distributions = Distributions(logits, unit.law, loaded.undrawable)
        picks = pick_next(unit, nodes, distributions)
        # Draws that picked the same token stay apart.
        picked = picks.tokens.select(np.repeat(np.arange(len(picks.rows)), picks.num_draws))
        draws = nodes.draws[picks.order]
        children = nodes.children(rows, picked, draws, np.ones_like(rows), draws == GREEDY_DRAW)
        ended, nodes = stopping.apart(children)
        yield evaluated, ended
        if not len(nodes):
            return
        logits, prefixes = prefixes.extend(nodes.parent_rows, nodes.tokens)
        evaluated = len(nodes)
