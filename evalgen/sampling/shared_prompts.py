"""Prefixes that share the keys and values of their prompt: each holds only those of its own drawn tokens.

A thousand prefixes of a 2,000-token prompt take the memory of one prompt and a thousand short tails, and nothing of
the prompt is copied. Attention is computed in two parts, over the prompt (one product for all of its prefixes) and
over the drawn tokens (row by row), then joined by their softmax sums, which is exact: Juravsky et al., "Hydragen:
High-Throughput LLM Inference with Shared Prefixes", 2024.

Dimension letters: P prompts, S length of the longest, N prefixes, T tokens drawn; H heads, K of them with keys of
their own, R = H / K, E width of a head; G prompts that have prefixes here, M prefixes of the one that has most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import eager_mask

from evalgen.sampling.beginnings import Beginnings, of_prompts
from evalgen.sampling.law import LEAST_LOG_WEIGHT

ATTENTION = "evalgen_shared_prompts"  # the name under which transformers finds `_attention`
# Of prompts, attended to from empty places: cheaper than to work through several grids.
NEGLIGIBLE_TOKENS = {"cpu": 2**14, "cuda": 2**18}  # the second estimated from what it takes to start a few kernels
SMALL_GROUP = 16  # prefixes of a prompt; fewer are not worth a grid of their own


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedPromptPrefixes:
    """N prefixes, those of one prompt next to each other."""

    _model: PreTrainedModel
    _prompts: _Prompts
    _prompt_rows: NDArray[np.int64]  # (N,) which of the P prompts, ascending
    _tails: tuple[_Tail, ...]  # by layer

    @classmethod
    def of_prompts(
        cls, model: PreTrainedModel, ids: Tensor, mask: Tensor, beginnings: Beginnings | None = None
    ) -> tuple[Tensor, SharedPromptPrefixes]:
        """Evaluates P left-padded prompts, `ids` and `mask` (P, S): the next logits (P, V), and them as prefixes.

        `beginnings` are evaluated before the rest; None: all at once.
        """
        cache = DynamicCache()  # without a configuration, so that sliding layers keep the whole prompt too
        if beginnings is not None:
            heads = torch.from_numpy(beginnings.prompts).to(ids.device)
            _read(model, ids[heads, : beginnings.column], mask[heads, : beginnings.column], cache)
            places = {device: beginnings.places(device) for device in {layer.keys.device for layer in _layers(cache)}}
            for layer in _layers(cache):
                at = places[layer.keys.device]
                layer.keys, layer.values = of_prompts(layer.keys, at), of_prompts(layer.values, at)
        logits = _read(model, ids[:, cache.get_seq_length() :], mask, cache)
        layers = _layers(cache)
        prompts = _Prompts(
            keys=tuple(layer.keys for layer in layers), values=tuple(layer.values for layer in layers), mask=mask
        )
        tails = tuple(_Tail(mask.shape[1]) for _ in layers)
        return logits, cls(_model=model, _prompts=prompts, _prompt_rows=np.arange(len(ids)), _tails=tails)

    def extend(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> tuple[Tensor, SharedPromptPrefixes]:
        """Evaluates prefix `rows[n]` with `tokens[n]` behind it, rows ascending: logits (N, V) and the new prefixes."""
        prompts, device = self._prompts, self._prompts.mask.device
        prompt_rows = self._prompt_rows[rows]
        at = torch.from_numpy(rows).to(device)
        tails = tuple(tail.select(at) for tail in self._tails)
        num_drawn = tails[0].get_seq_length() - prompts.mask.shape[1] + 1
        mask = prompts.mask[torch.from_numpy(prompt_rows).to(device)]  # (N, S)
        mask = torch.nn.functional.pad(mask, (0, num_drawn), value=1)  # (N, S + T)
        with _our_attention(self._model):
            output = self._model(
                input_ids=torch.from_numpy(tokens).to(device)[:, None],
                attention_mask=mask,
                position_ids=mask.sum(-1, keepdim=True) - 1,
                past_key_values=Cache(layers=list(tails)),
                use_cache=True,
                logits_to_keep=1,
                shared_prompts=Grids(prompts, prompt_rows),
            )
        prefixes = SharedPromptPrefixes(_model=self._model, _prompts=prompts, _prompt_rows=prompt_rows, _tails=tails)
        return output.logits[:, -1], prefixes

    def tensors(self) -> Iterator[Tensor]:
        """Those of the prompts, which are the same for all of their prefixes, and those of the drawn tokens."""
        yield from (*self._prompts.keys, *self._prompts.values)
        for tail in self._tails:
            yield from (each for each in (tail.keys, tail.values) if each is not None)


def _layers(cache: DynamicCache) -> list[Any]:
    return cache.layers  # of a class that has keys and values: no other is ever in such a cache


def _read(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Has the model read `ids` (N, T) behind what is in `cache`, `mask` for all of it: the logits (N, V) after them."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prompts:
    keys: tuple[Tensor, ...]  # by layer, (P, K, S, E)
    values: tuple[Tensor, ...]
    mask: Tensor  # (P, S) int64, 0 on the left padding


class _Tail(DynamicLayer):
    """Keys and values (N, K, T, E) of the drawn tokens; it counts the prompt's too, so that masks come out right."""

    def __init__(self, num_prompt_tokens: int, parent: _Tail | None = None, rows: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._num_prompt_tokens = num_prompt_tokens
        self._parent, self._rows = parent, rows

    def get_seq_length(self) -> int:
        if self._parent is not None:
            return self._parent.get_seq_length()
        return self._num_prompt_tokens + int(super().get_seq_length())

    def select(self, rows: Tensor) -> _Tail:
        """A new tail of some rows, which can be added to without this one. They are copied when it is."""
        return _Tail(self._num_prompt_tokens, self if self.keys is not None else None, rows)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of one token (N, K, 1, E). Rows and token are copied to their place at once."""
        parent, rows, self._parent, self._rows = self._parent, self._rows, None, None
        if parent is None:
            self.keys, self.values = key_states, value_states
        else:
            assert parent.keys is not None and parent.values is not None and rows is not None
            rows = rows.to(key_states.device)  # layers may be spread over several
            self.keys = _longer(parent.keys, rows, key_states)
            self.values = _longer(parent.values, rows, value_states)
        self.is_initialized = True
        return self.keys, self.values


def _longer(drawn: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Some rows of `drawn` (N', K, T, E), with `new` (N, K, 1, E) behind them: (N, K, T + 1, E)."""
    longer = new.new_empty(*new.shape[:2], drawn.shape[2] + 1, new.shape[3])
    torch.index_select(drawn, 0, rows, out=longer[:, :, :-1])  # on a CPU a fifth of the time that `drawn[rows]` takes
    longer[:, :, -1:] = new
    return longer


class Grid:
    """Prompts with about as many prefixes each, and these laid out in a grid: G prompts, M places for each."""

    def __init__(self, prompt_rows: NDArray[np.int64], rows: NDArray[np.int64], num_prompts: int, device: Any) -> None:
        """`rows` (n,) are those of N prefixes that are in this grid, `prompt_rows` (n,) their prompts, ascending."""
        present, first, counts = np.unique(prompt_rows, return_index=True, return_counts=True)
        self.num_groups, self.num_places = len(present), int(counts.max())
        self._full = bool((counts == counts[0]).all())
        group = np.repeat(np.arange(len(present)), counts)
        places = group * self.num_places + np.arange(len(rows)) - first[group]
        self._places = torch.from_numpy(places).to(device)  # (n,)
        self._rows = torch.from_numpy(rows).to(device)
        self._first_rows = torch.from_numpy(rows[first]).to(device)  # (G,) a prefix of each prompt
        self._present = None if len(present) == num_prompts else torch.from_numpy(present).to(device)

    def of_prompts(self, tensor: Tensor) -> Tensor:
        """(P, ...) as (G, ...)."""
        return tensor if self._present is None else tensor.index_select(0, self._present.to(tensor.device))

    def bias(self, bias: Tensor) -> Tensor:
        """(N, 1, 1, S) as (G, 1, 1, S): all prefixes of a prompt are equally long, so a window begins at one place."""
        return bias[self._first_rows.to(bias.device)]

    def to_grid(self, tensor: Tensor) -> Tensor:
        """(N, K, R, E) as (G, K, M * R, E)."""
        num_all, num_kv, num_shared, width = tensor.shape
        rows = tensor if num_all == len(self._rows) else tensor.index_select(0, self._rows.to(tensor.device))
        if not self._full:
            empty = rows.new_zeros(self.num_groups * self.num_places, num_kv, num_shared, width)
            rows = empty.index_copy_(0, self._places.to(rows.device), rows)
        grid = rows.view(self.num_groups, self.num_places, num_kv, num_shared, width).transpose(1, 2)
        return grid.reshape(self.num_groups, num_kv, self.num_places * num_shared, width)

    def to_rows(self, grid: Tensor) -> Tensor:
        """(G, K, M * R, E) as (n, K, R, E)."""
        num_groups, num_kv, _, width = grid.shape
        rows = grid.view(num_groups, num_kv, self.num_places, -1, width).transpose(1, 2)
        rows = rows.reshape(num_groups * self.num_places, num_kv, -1, width)
        return rows if self._full else rows.index_select(0, self._places.to(rows.device))


class Grids:
    """N prefixes in as many grids as keep them filled: one prompt may have a thousand, and all others one."""

    def __init__(self, prompts: _Prompts, prompt_rows: NDArray[np.int64]) -> None:
        device = prompts.mask.device
        self._prompts = prompts
        counts = np.bincount(prompt_rows)
        num_empty = np.count_nonzero(counts) * counts.max() - len(prompt_rows)
        negligible = NEGLIGIBLE_TOKENS.get(device.type, NEGLIGIBLE_TOKENS["cpu"])
        if num_empty * prompts.mask.shape[1] <= negligible:
            rows = [np.arange(len(prompt_rows))]
        else:
            # Those of one grid have numbers of one power of two, so that less than half of it is empty.
            size = np.floor(np.log2(np.maximum(counts, SMALL_GROUP)))[prompt_rows]
            rows = [np.flatnonzero(size == each) for each in np.unique(size)]
        self.grids = [Grid(prompt_rows[some], some, len(prompts.mask), device) for some in rows]
        self._order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(device)

    @property
    def num_tokens(self) -> int:
        """S."""
        return self._prompts.mask.shape[1]

    def keys(self, layer: int) -> Tensor:
        """(P, K, S, E)."""
        return self._prompts.keys[layer]

    def attend(self, layer: int, query: Tensor, bias: Tensor, scaling: float, softcap: float | None) -> list[Tensor]:
        """`_attended` of all prefixes, `query` (N, K, R, E) and `bias` (N, 1, 1, S), over their prompts, by rows."""
        parts: list[list[Tensor]] = []
        for grid in self.grids:
            keys, values = grid.of_prompts(self._prompts.keys[layer]), grid.of_prompts(self._prompts.values[layer])
            scores = _scores(grid.to_grid(query), keys, scaling, softcap)  # (G, K, M * R, S)
            parts.append([grid.to_rows(part) for part in _attended(scores, grid.bias(bias), values)])
        if len(parts) == 1:
            return parts[0]
        order = self._order.to(query.device)
        return [torch.cat(of_grids).index_select(0, order) for of_grids in zip(*parts, strict=True)]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prompts: Grids | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token a row over its prompt and its own drawn tokens, as transformers calls it.

    `query` (N, H, 1, E); `key`, `value` (N, K, T, E) of the drawn tokens, the new one included; `attention_mask`
    (N, 1, 1, S + T), to be added to the scores. Returns (N, 1, H, E).
    """
    if shared_prompts is None or attention_mask is None:
        raise NotImplementedError("layers that do not hand on what they are given")
    num_rows, num_heads, _, width = query.shape
    num_kv, num_drawn = key.shape[1:3]
    is_ours = attention_mask.dtype == torch.float32  # of one in bf16 the smallest number is infinite
    if not is_ours or attention_mask.shape != (num_rows, 1, 1, shared_prompts.num_tokens + num_drawn):
        raise NotImplementedError("layers with masks of their own")
    if position_bias is not None or s_aux is not None:
        raise NotImplementedError("attention with position biases or sinks")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if shared_prompts.keys(layer).shape[1::2] != key.shape[1::2]:
        raise NotImplementedError("the cache holds something else than what attention sees")
    scaling = width**-0.5 if scaling is None else scaling
    query = query.view(num_rows, num_kv, -1, width)  # (N, K, R, E)
    over_prompt = shared_prompts.attend(layer, query, attention_mask[..., :-num_drawn], scaling, softcap)
    scores = _scores(query, key, scaling, softcap)  # (N, K, R, T)
    over_drawn = _attended(scores, attention_mask[..., -num_drawn:], value)
    mixed = _joined(over_prompt, over_drawn)
    return mixed.to(query.dtype).reshape(num_rows, 1, num_heads, -1), None


def _scores(query: Tensor, keys: Tensor, scaling: float, softcap: float | None) -> Tensor:
    scores = query @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(scaling)
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def _attended(scores: Tensor, bias: Tensor, values: Tensor) -> list[Tensor]:
    """Of each query the log of the sum of exp(scores + bias), and the values' mean with these as weights.

    Where all is masked the first is about the smallest number, and `_joined` gives the part no weight.
    """
    scores = scores.add_(bias)
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).clamp_(min=LEAST_LOG_WEIGHT).exp_()  # the least are negligible, and not slow
    total = weights.sum(-1, keepdim=True)
    return [largest.add_(total.log()), (weights.to(values.dtype) @ values).to(scores.dtype).div_(total)]


def _joined(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """The attention over two sets of keys, from what `_attended` says of each."""
    (log_sum_1, mean_1), (log_sum_2, mean_2) = one, other
    return torch.lerp(mean_1, mean_2, torch.sigmoid(log_sum_2 - log_sum_1))


def _bias(**arguments: Any) -> Tensor:
    """The usual mask as a term of the scores, never left out: (N, 1, 1, S + T)."""
    return eager_mask(**arguments | {"dtype": torch.float32})


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _bias)


@contextmanager
def _our_attention(model: PreTrainedModel) -> Iterator[None]:
    """Prompts are evaluated with the model's own attention, drawn tokens with this one."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = usual
