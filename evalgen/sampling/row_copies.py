"""Prefixes that each hold a whole cache row, prompt included, in whatever form transformers keeps it.

Larger and slower than shared prompts, but right for every cache that transformers can re-index: the recurrent states
of state-space and hybrid models, layers that share keys, attention with sinks.

Dimension letters: P prompts, S their length, N prefixes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, PreTrainedModel

from evalgen.errors import InputError

CACHE_NAMES = ("past_key_values", "cache_params")  # the second in purely state-space models


@dataclass(frozen=True, kw_only=True, eq=False)
class RowCopyPrefixes:
    """N prefixes of one length, a cache row each."""

    _model: PreTrainedModel
    _cache: Cache
    _cache_name: str

    @classmethod
    def of_prompts(cls, model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, RowCopyPrefixes]:
        """Evaluates P prompts of one length, `ids` (P, S): the next token's logits (P, V), and the prefixes.

        Raises:
            InputError: the model keeps what it has read in a form that cannot be re-indexed.
        """
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for name in CACHE_NAMES:
            cache = getattr(output, name, None)
            if isinstance(cache, Cache):
                return output.logits[:, -1], cls(_model=model, _cache=cache, _cache_name=name)
        raise cannot_be_reindexed(model)

    def extend(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> tuple[Tensor, RowCopyPrefixes]:
        """Evaluates prefix `rows[n]` with `tokens[n]` behind it: the logits (N, V) and the new prefixes."""
        new = replace(self, _cache=_select_rows(self._cache, torch.from_numpy(rows).to(self._model.device)))
        return new.lengthen(tokens), new

    def lengthen(self, tokens: NDArray[np.int64]) -> Tensor:
        """Evaluates each of these prefixes with its token behind it: the logits (N, V). They have changed then."""
        arguments: dict[str, Any] = {self._cache_name: self._cache}
        ids = torch.from_numpy(tokens).to(self._model.device)[:, None]
        logits: Tensor = self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **arguments).logits
        return logits[:, -1]

    def footprint_bytes(self) -> tuple[int, int]:
        """What the cache takes for each token of each row, and what it takes for each row however long."""
        tokens = sum(
            each.nbytes // (each.shape[0] * each.shape[-2]) for each in self._keys_and_values() if each.numel()
        )
        return tokens, sum(state.nbytes // state.shape[0] for state in self._states())

    def tensors(self) -> Iterator[Tensor]:
        """All that it remembers: of N rows each."""
        yield from self._keys_and_values()
        yield from self._states()

    def _keys_and_values(self) -> Iterator[Tensor]:
        for layer in self._cache.layers:
            found = (getattr(layer, name, None) for name in ("keys", "values"))
            yield from (each for each in found if each is not None)

    def _states(self) -> Iterator[Tensor]:
        for layer in self._cache.layers:
            for name in ("conv_states", "recurrent_states"):
                yield from (state for state in getattr(layer, name, {}).values() if state is not None)


def cannot_be_reindexed(model: PreTrainedModel) -> InputError:
    """Why a model is refused that keeps what it has read in a form of its own."""
    return InputError(
        f"{type(model).__name__} cannot be sampled: its cache is none of those that transformers can re-index; "
        "expected an attention, state-space or hybrid model with a transformers.Cache"
    )


def _select_rows(cache: Cache, rows: Tensor) -> Cache:
    """A new cache with `rows` of the old, which stays as it is: other slices may still come from it."""
    selected = copy.copy(cache)
    selected.layers = [_copied(layer) for layer in cache.layers]
    selected.reorder_cache(rows)  # type: ignore[arg-type]
    return selected


def _copied(layer: Any) -> Any:
    """The layer with dictionaries of its own: `reorder_cache` puts other tensors into them."""
    copied = copy.copy(layer)
    copied.__dict__.update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    return copied
