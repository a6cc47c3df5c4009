"""What the samplers ask of a model: evaluate some prompts, then evaluate prefixes that are one token longer.

Two ways, one interface: prefixes that share the keys and values of their prompt, for models whose attention goes
through transformers' interface, and whole cache rows for all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from evalgen.sampling.row_copies import RowCopyPrefixes
from evalgen.sampling.shared_prompts import SharedPromptPrefixes

log = logging.getLogger(__name__)

PROBE = (0, 1, 2, 1)  # ids that every vocabulary has, if there are so many
MOST_ROUNDING = 0.15  # of the logits' spread, both root mean square; bf16 makes 0.03, a wrong position 0.3 and more


class Prefixes(Protocol):
    """N token sequences that the model has read, one row each, and all it remembers of them."""

    def extend(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> tuple[Tensor, Self]:
        """Evaluates prefix `rows[n]` with `tokens[n]` behind it, rows ascending: logits (N, V) and the new prefixes.

        `self` stays as it is: other rows of it may be wanted later.
        """
        ...

    def tensors(self) -> Iterator[Tensor]:
        """All that it remembers; some of it may be other prefixes', too."""
        ...


def kept_bytes(prefixes: Iterable[Prefixes]) -> int:
    """What all of these take together."""
    return sum({id(tensor): tensor.nbytes for it in prefixes for tensor in it.tensors()}.values())


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What prefixes of a model take."""

    shares_prompts: bool  # then a prompt counts once, and its prefixes by their drawn tokens
    mixes_lengths: bool  # prompts of different lengths may be evaluated together
    bytes_per_token: int
    bytes_per_row: int  # of recurrent states, however long the prefix


@torch.inference_mode()
def footprint_of(model: PreTrainedModel) -> Footprint:
    """Found by reading a few tokens.

    Raises:
        InputError: the model keeps what it has read in a form that cannot be re-indexed.
    """
    num_embeddings = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    ids = torch.tensor([PROBE], device=model.device) % num_embeddings
    _, prefixes = RowCopyPrefixes.of_prompts(model, ids)
    bytes_per_token, bytes_per_row = prefixes.footprint_bytes()
    shares_prompts = _can_share_prompts(model, ids, prefixes)
    if any("dynamic" in kind for kind in _rope_types(model)):
        log.warning(
            "%s scales its positions by the longest sequence that it has read: prompts longer than it was trained for "
            "may be drawn differently from job to job",
            type(model).__name__,
        )
    return Footprint(
        shares_prompts=shares_prompts,
        # Padding would get into a recurrent state, and these rotate all of a batch by its longest sequence.
        mixes_lengths=shares_prompts and not any(k == "longrope" or "dynamic" in k for k in _rope_types(model)),
        bytes_per_token=bytes_per_token,
        bytes_per_row=bytes_per_row,
    )


def _can_share_prompts(model: PreTrainedModel, ids: Tensor, whole_rows: RowCopyPrefixes) -> bool:
    """Whether the model's attention is one that `shared_prompts` can stand in for.

    By its kind of cache first, then by trying it: nobody knows what the next architecture does between cache and
    attention. The trial is short, so it finds what is wrong in kind, not what is wrong in a corner.
    """
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
    error = (ours.float() - usual.float()).pow(2).mean().sqrt() / usual.float().std()
    log.info("%s: shared prompts and whole rows differ by %.4f of the spread", type(model).__name__, float(error))
    return bool(error <= MOST_ROUNDING)


def _rope_types(model: PreTrainedModel) -> set[str]:
    """How positions are rotated, in all layers."""
    kinds = [getattr(module, "rope_type", None) for module in model.modules()]
    return {str(kind) for each in kinds if each for kind in (each.values() if isinstance(each, dict) else [each])}


def evaluate_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], share_prompts: bool
) -> tuple[Tensor, Prefixes]:
    """Logits (P, V) of the token after each of P prompts, and the prompts as prefixes.

    Prompts that are not shared must be of one length.
    """
    longest = max(len(prompt) for prompt in prompts)
    # Padded with id 0, which every vocabulary has and the mask hides: a pad token need not exist.
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    if not share_prompts:
        assert all(len(prompt) == longest for prompt in prompts), [len(prompt) for prompt in prompts]
        return RowCopyPrefixes.of_prompts(model, ids)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    return SharedPromptPrefixes.of_prompts(model, ids, mask)
