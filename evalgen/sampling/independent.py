"""Samples one sequence at a time, with no cache and nothing shared: slow, and the specification of the tree sampler.

Each draw uses the same random numbers as in the tree, so the two must return the same tokens for every draw.
"""

from __future__ import annotations

import numpy as np
import torch

from evalgen.randomness import uniforms
from evalgen.records import SamplingUnit
from evalgen.sampling.law import next_token, pick
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import Leaf, Node, SamplingResult, sequences_of
from evalgen.tokenization import encode_prompt


@torch.inference_mode()
def sample_independently(loaded: LoadedModel, unit: SamplingUnit) -> SamplingResult:
    """Every draw of every prompt of `unit`, each by itself."""
    leaves: list[Leaf] = []
    evaluations = 0
    for prompt_index, query in enumerate(unit.queries):
        prompt_ids = encode_prompt(loaded.tokenizer, query.prompt)
        for draw in range(unit.first_draw, unit.first_draw + unit.num_draws):
            leaf = _sample_draw(loaded, unit, prompt_ids, prompt_index, draw)
            leaves.append(leaf)
            evaluations += leaf.node.depth
    prompt_names = [query.id for query in unit.queries]
    return SamplingResult(sequences=sequences_of(leaves, prompt_names), model_evaluations=evaluations)


def _sample_draw(loaded: LoadedModel, unit: SamplingUnit, prompt_ids: list[int], prompt_index: int, draw: int) -> Leaf:
    ids = list(prompt_ids)
    node = Node(prompt_index=prompt_index, depth=0, draws=np.array([draw]))
    while True:
        logits = loaded.model(input_ids=torch.tensor([ids], device=loaded.device)).logits[:, -1]  # (1, V)
        distribution = next_token(logits, unit.law, loaded.vocabulary_size)
        u = uniforms(unit.seed, unit.queries[prompt_index].id, node.depth, draw, 1)
        token = int(pick(distribution, torch.from_numpy(u).to(loaded.device)[None]))
        node = Node(
            prompt_index=prompt_index,
            depth=node.depth + 1,
            draws=node.draws,
            parent=node,
            token=token,
            logprob=float(distribution.logprobs[0, token]),
            law_logprob=float(distribution.law_logprobs[0, token]),
        )
        ids.append(token)
        if token in loaded.eos_ids:
            return Leaf(node=node, finish_reason="eos")
        if node.depth == unit.law.max_new_tokens:
            return Leaf(node=node, finish_reason="length")
