"""Sampling by definition: draw after draw with `model(...)` alone, no cache, no batch; only u is the product's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evalgen.randomness import uniforms
from evalgen.records import SamplingUnit
from evalgen.sampling.model import LoadedModel
from evalgen.tokenization import encode_prompt

Draws = dict[tuple[str, int], tuple[tuple[int, ...], str]]


def plain_draws(it: LoadedModel, unit: SamplingUnit) -> Draws:
    """(prompt id, generation index) -> token ids and finish reason, under a law of temperature and length alone."""
    draws: Draws = {}
    for query in unit.queries:
        prompt = encode_prompt(it.tokenizer, query.prompt)
        for g in range(unit.first_draw, unit.first_draw + unit.num_draws):
            tokens: list[int] = []
            while len(tokens) < unit.law.max_new_tokens and not set(tokens) & it.eos_ids:
                with torch.no_grad():
                    logits = it.model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1].double()
                logits[it.undrawable] = -torch.inf
                cdf = torch.softmax(logits / unit.law.temperature, -1).cumsum(-1)
                u = uniforms(unit.seed, [query.id], len(tokens), g, 1).item()
                tokens.append(int((cdf > u).nonzero()[0]))
            draws[query.id, g] = (tuple(tokens), "eos" if tokens[-1] in it.eos_ids else "length")
    return draws


def plain_greedy(it: LoadedModel, prompt: str, token_ids: Sequence[int]) -> bool:
    """Whether each token is the first of the most probable ones that can be drawn after those before it."""
    encoded = encode_prompt(it.tokenizer, prompt)
    for depth, token in enumerate(token_ids):
        with torch.no_grad():
            logits = it.model(torch.tensor([[*encoded, *token_ids[:depth]]]), use_cache=False).logits[0, -1]
        drawable = sorted(set(range(len(logits))) - set(it.undrawable.tolist()))
        if token != max(drawable, key=logits.tolist().__getitem__):
            return False
    return True
