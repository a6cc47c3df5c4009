"""What the samplers ask of a model: evaluate some prompts, then evaluate prefixes that are one token longer.

Two ways, one interface: prefixes that share the keys and values of their prompt, for models whose attention goes
through transformers' interface, and whole cache rows for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from evalgen.sampling.row_copies import RowCopyPrefixes
from evalgen.sampling.shared_prompts import SharedPromptPrefixes

NUM_PROBE_TOKENS = 4
ROUNDING = 0.1  # of the logits' spread; bf16 makes about a tenth of that


class Prefixes(Protocol):
    """N token sequences that the model has read, one row each, and all it remembers of them."""

    def extend(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> tuple[Tensor, Self]:
        """Evaluates prefix `rows[n]` with `tokens[n]` behind it, rows ascending: logits (N, V) and the new prefixes.

        `self` stays as it is: other rows of it may be wanted later.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What prefixes of a model take."""

    shares_prompts: bool  # then a prompt counts once, and its prefixes by their drawn tokens
    bytes_per_token: int
    bytes_per_row: int  # of recurrent states, however long the prefix


@torch.inference_mode()
def footprint_of(model: PreTrainedModel) -> Footprint:
    """Found by reading a few tokens.

    Raises:
        InputError: the model keeps what it has read in a form that cannot be re-indexed.
    """
    ids = torch.arange(NUM_PROBE_TOKENS, device=model.device)[None]
    _, prefixes = RowCopyPrefixes.of_prompts(model, ids)
    bytes_per_token, bytes_per_row = prefixes.footprint_bytes()
    return Footprint(
        shares_prompts=_can_share_prompts(model, ids, prefixes),
        bytes_per_token=bytes_per_token,
        bytes_per_row=bytes_per_row,
    )


def _can_share_prompts(model: PreTrainedModel, ids: Tensor, whole_rows: RowCopyPrefixes) -> bool:
    """Whether attention over shared prompts says what the model's own does: of a new architecture nobody can know."""
    layers = DynamicCache(config=model.config).layers
    if not model.is_backend_compatible() or not {type(x) for x in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    first = np.zeros(1, np.int64)
    usual, _ = whole_rows.extend(first, first)
    try:
        _, prefixes = SharedPromptPrefixes.of_prompts(model, ids, torch.ones_like(ids))
        ours, _ = prefixes.extend(first, first)
    except NotImplementedError:
        return False
    difference = (ours.float() - usual.float()).abs().max()
    return bool(difference <= ROUNDING * usual.float().std())


def evaluate_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], share_prompts: bool
) -> tuple[Tensor, Prefixes]:
    """Logits (P, V) of the token after each of P prompts, and the prompts as prefixes.

    Prompts that are not shared must be of one length: padding would get into a recurrent state.
    """
    longest = max(len(prompt) for prompt in prompts)
    # Padded with id 0, which every vocabulary has and the mask hides: a pad token need not exist.
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    if not share_prompts:
        assert all(len(prompt) == longest for prompt in prompts), [len(prompt) for prompt in prompts]
        return RowCopyPrefixes.of_prompts(model, ids)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    return SharedPromptPrefixes.of_prompts(model, ids, mask)
