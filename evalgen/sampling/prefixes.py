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

from evalgen.rotations import rope_parameters, rotation_changes
from evalgen.sampling.beginnings import Beginnings, shared_beginnings
from evalgen.sampling.out_of_memory import is_out_of_memory
from evalgen.sampling.row_copies import RowCopyPrefixes, cannot_be_reindexed
from evalgen.sampling.shared_prompts import SharedPromptPrefixes

log = logging.getLogger(__name__)

# Prompts of ids that every vocabulary has, if there are so many.
PROBES = torch.tensor([(0, 1, 2, 1), (2, 2, 0, 1), (1, 0, 1, 2)])
PROBE_ROWS, PROBE_TOKENS = np.array([0, 0, 1]), np.array([1, 2, 0])  # with which they are extended
# Each in two parts, as prompts are read that begin alike.
PROBE_BEGINNINGS = Beginnings(column=2, prompts=np.arange(3), head_of=np.arange(3), shift=np.zeros(3, np.int64))
REFUSALS = (RuntimeError, ValueError, IndexError, AttributeError, TypeError)  # of models that were not made for it
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
    shares_beginnings: bool  # where they begin alike, that is evaluated once
    bytes_per_token: int
    bytes_per_row: int  # of recurrent states, however long the prefix
    rotation_changes: tuple[int, ...]  # lengths in tokens beyond which LongRoPE rotates all positions otherwise


@torch.inference_mode()
def footprint_of(model: PreTrainedModel) -> Footprint:
    """Found by reading a few tokens.

    Raises:
        InputError: the model keeps what it has read in a form that cannot be re-indexed.
    """
    num_embeddings = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    # Without the pad token, which models of RoBERTa's kind give no position of its own.
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    known = torch.tensor([token for token in range(4) if token != pad]) % num_embeddings
    ids, tokens = known[PROBES].to(model.device), known.numpy()[PROBE_TOKENS]
    _, whole_rows = RowCopyPrefixes.of_prompts(model, ids)
    usual = _extended_by_rows(model, ids, tokens, whole_rows)
    bytes_per_token, bytes_per_row = whole_rows.footprint_bytes()
    shares_prompts = _can_share_prompts(model, ids, tokens, usual)
    is_dynamic = any("dynamic" in rope["rope_type"] for rope in rope_parameters(model.config))
    if is_dynamic:
        log.warning(
            "%s scales its positions by the longest sequence that it has read: prompts longer than it was trained for "
            "may be drawn differently from job to job",
            type(model).__name__,
        )
    changes = rotation_changes(model.config)
    # Padding would get into a recurrent state, and these rotate all of a batch by its longest sequence.
    mixes_lengths = shares_prompts and not changes and not is_dynamic
    return Footprint(
        shares_prompts=shares_prompts,
        mixes_lengths=mixes_lengths,
        shares_beginnings=mixes_lengths and _can_share_prompts(model, ids, tokens, usual, PROBE_BEGINNINGS),
        bytes_per_token=bytes_per_token,
        bytes_per_row=bytes_per_row,
        rotation_changes=changes,
    )


def _extended_by_rows(
    model: PreTrainedModel, ids: Tensor, tokens: NDArray[np.int64], whole_rows: RowCopyPrefixes
) -> Tensor:
    """The logits behind `PROBE_ROWS` of the probes `ids`, extended with `tokens`.

    Tried before anything is sampled: a cache may keep more than transformers re-indexes, or change in place.

    Raises:
        InputError: they are not what the model says where nothing is re-indexed, or not a second time.
    """
    expected = []
    if model.dtype == torch.float32:  # else rounding may move tokens to other experts in batches of another shape
        read_anew = torch.cat([ids[PROBE_ROWS], torch.from_numpy(tokens).to(ids.device)[:, None]], 1)
        expected.append(model(input_ids=read_anew, use_cache=False, logits_to_keep=1).logits[:, -1])
    try:
        _, in_their_order = RowCopyPrefixes.of_prompts(model, ids[PROBE_ROWS])
        expected.append(in_their_order.lengthen(tokens))
        first, second = (whole_rows.extend(PROBE_ROWS, tokens)[0] for _ in range(2))
    except REFUSALS as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise cannot_be_reindexed(model) from error
    # Where logits are not finite, neither is the difference: the samplers say so.
    if any(_difference(ours, usual) > MOST_ROUNDING for ours in (first, second) for usual in expected):
        raise cannot_be_reindexed(model)
    return first


def _can_share_prompts(
    model: PreTrainedModel,
    ids: Tensor,
    tokens: NDArray[np.int64],
    usual: Tensor,
    beginnings: Beginnings | None = None,
) -> bool:
    """Whether the model's attention is one that `shared_prompts` can stand in for, and may be given `beginnings` first.

    By its kind of cache first, then by trying it: nobody knows what the next architecture does between cache and
    attention. The trial is short, so it finds what is wrong in kind, not what is wrong in a corner.
    """
    layers = DynamicCache(config=model.config).layers
    if not model.is_backend_compatible() or not {type(x) for x in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    try:
        _, prefixes = SharedPromptPrefixes.of_prompts(model, ids, torch.ones_like(ids), beginnings)
        ours, _ = prefixes.extend(PROBE_ROWS, tokens)
    except NotImplementedError:
        return False
    except REFUSALS as error:
        if beginnings is None or is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        return False  # a model that reads one token behind its cache, and not several
    difference = _difference(ours, usual)
    if beginnings is None:
        log.info("%s: shared prompts and whole rows differ by %.4f of the spread", type(model).__name__, difference)
    return difference <= MOST_ROUNDING


def _difference(ours: Tensor, usual: Tensor) -> float:
    """Of logits (N, V), as a part of their spread."""
    return float((ours.float() - usual.float()).pow(2).mean().sqrt() / usual.float().std())


def evaluate_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, share_prompts: bool, share_beginnings: bool = False
) -> tuple[Tensor, Prefixes]:
    """Logits (P, V) of the token after each of P prompts, and the prompts as prefixes.

    Prompts that are not shared must be of one length; `share_beginnings` is for those that are.
    """
    longest = max(len(prompt) for prompt in prompts)
    # Padded with id 0, which every vocabulary has and the mask hides: a pad token need not exist.
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    if not share_prompts:
        assert all(len(prompt) == longest for prompt in prompts), [len(prompt) for prompt in prompts]
        return RowCopyPrefixes.of_prompts(model, ids)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    beginnings = shared_beginnings(prompts) if share_beginnings else None
    return SharedPromptPrefixes.of_prompts(model, ids, mask, beginnings)
