"""The sampling law: from logits to the distribution of the next token, and from a random number to a token.

Dimension letters: N nodes (rows of logits), V vocabulary, D draws, B blocks of W tokens (B x W >= V), G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from evalgen.errors import InputError
from evalgen.records import SamplingLaw

# Of a token against the most probable one. Lower weights are 0: where an exponential is 0 or denormal in float32, CPUs
# take five to forty times as long for it.
LEAST_LOG_WEIGHT = -87.0
LEAST_WEIGHT = 2e-38  # just above its exponential
NO_DRAWS = np.zeros(0, np.int64)
# Whose distributions are worked out together. A CPU's caches hold those of a chunk. On a GPU it takes up to 40 bytes a
# logit (with top-p), which is little beside what the logits of a slice take, and which `memory` does not count.
CHUNK_LOGITS = {"cpu": 2**20, "cuda": 2**24}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Some tokens, each at a node, with their log-probabilities there in nats."""

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]  # of the model itself, T=1
    law_logprobs: NDArray[np.float64]  # under the sampling law

    def select(self, chosen: NDArray[np.int64]) -> Tokens:
        return Tokens(ids=self.ids[chosen], logprobs=self.logprobs[chosen], law_logprobs=self.law_logprobs[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class Picks:
    """What D draws picked: C distinct pairs of a row and a token, rows ascending."""

    order: NDArray[np.int64]  # (D,) sorts the draws by their pair, those of one pair as they stood
    num_draws: NDArray[np.int64]  # (C,)
    rows: NDArray[np.int64]  # (C,)
    tokens: Tokens  # (C,)


class Distributions:
    """The distributions of the next token at N nodes, worked out for a few nodes at a time."""

    def __init__(self, logits: Tensor, law: SamplingLaw, undrawable: Tensor) -> None:
        """`logits` (N, V); `undrawable` has the ids that the tokenizer lacks: they are never drawn."""
        self.num_nodes, self.vocabulary = logits.shape
        self._logits, self._law, self._undrawable = logits, law, undrawable
        self._chunk_rows = max(1, CHUNK_LOGITS.get(logits.device.type, CHUNK_LOGITS["cpu"]) // self.vocabulary)

    def pick(
        self, rows: NDArray[np.int64], uniforms: NDArray[np.float64], greedy: NDArray[np.int64] = NO_DRAWS
    ) -> Picks:
        """A token for each of D draws, by inverse CDF: draw d is at node `rows[d]`, its number is `uniforms[d]`.

        `rows` ascend. A token of probability 0 is never picked. What a draw picks depends on its own row alone.
        Those of the draws that are `greedy`, ascending, take the most probable token in place of one by their number.

        Raises:
            InputError: the logits are NaN or infinite.
        """
        picks = []
        for start, distribution in self._chunks():
            first, last = np.searchsorted(rows, (start, start + len(distribution.logits)))
            here = rows[first:last] - start
            ids = distribution.pick(here, uniforms[first:last])
            if len(of_chunk := greedy[(greedy >= first) & (greedy < last)] - first):
                ids[of_chunk] = distribution.most_probable(here[of_chunk])
            order, first_of_pair = grouped(here * self.vocabulary + ids)
            chosen = order[first_of_pair]  # a draw of each pair
            picks.append(
                Picks(
                    order=order + first,
                    num_draws=np.diff(first_of_pair, append=len(order)),
                    rows=here[chosen] + start,
                    tokens=distribution.tokens(here[chosen], ids[chosen]),
                )
            )
        return _joined_picks(picks)

    def at_least(self, probabilities: NDArray[np.float64]) -> tuple[NDArray[np.int64], Tokens]:
        """Every token whose probability under the law is at least its row's: their rows, ascending, and they.

        `probabilities` has shape (N,) and is above 0.

        Raises:
            InputError: the logits are NaN or infinite.
        """
        rows, tokens = [], []
        for start, distribution in self._chunks():
            here, ids = distribution.at_least(probabilities[start : start + len(distribution.logits)])
            rows.append(here + start)
            tokens.append(distribution.tokens(here, ids))
        return np.concatenate(rows), _joined(tokens)

    def _chunks(self) -> Iterator[tuple[int, NextToken]]:
        """The first row of each chunk, and the distributions there."""
        for start in range(0, self.num_nodes, self._chunk_rows):
            yield start, next_token(self._logits[start : start + self._chunk_rows], self._law, self._undrawable)


def _first_of_largest(logits: Tensor) -> Tensor:
    """Where in each row the first of the largest logits stands."""
    on_cpu = logits.device.type == "cpu"  # where torch takes ten times as long as numpy
    return torch.from_numpy(logits.float().numpy().argmax(-1)) if on_cpu else logits.float().argmax(-1)


def _joined_picks(parts: list[Picks]) -> Picks:
    return Picks(
        order=np.concatenate([part.order for part in parts]),
        num_draws=np.concatenate([part.num_draws for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        tokens=_joined([part.tokens for part in parts]),
    )


def _joined(parts: list[Tokens]) -> Tokens:
    return Tokens(
        ids=np.concatenate([part.ids for part in parts]),
        logprobs=np.concatenate([part.logprobs for part in parts]),
        law_logprobs=np.concatenate([part.law_logprobs for part in parts]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class NextToken:
    """The distribution of the next token at N nodes, of the model itself (T=1) and under the sampling law."""

    logits: Tensor  # (N, V) float32
    log_norm: Tensor  # (N,) float32: log of the sum of exp(logits)
    law_weights: Tensor  # (N, B, W) float32, probabilities under the law but for a factor; 0 where it never goes
    law_cdf: Tensor  # (N, B) float64: the weights' sums up to the end of each block

    def tokens(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> Tokens:
        """Some tokens, each at its row; where the law never goes its log-probability is -inf.

        Raises:
            InputError: the logits of one of these rows are NaN or infinite.
        """
        at, token = torch.from_numpy(np.stack([rows, ids])).to(self.logits.device)
        logprobs = self.logits[at, token].double() - self.log_norm[at].double()
        weights = self.law_weights.view(len(self.law_weights), -1)[at, token].double()
        law_logprobs = weights.log() - self.law_cdf[at, -1].log()
        of_model, of_law = torch.stack([logprobs, law_logprobs]).cpu().numpy()
        if not np.isfinite(of_model).all():  # seen here, where all is on the host: a GPU is not waited for once more
            raise _not_finite()
        return Tokens(ids=ids, logprobs=of_model, law_logprobs=of_law)

    def pick(self, rows: NDArray[np.int64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """As `Distributions.pick`. The CDF is searched by block and then by token: no sum over the whole vocabulary."""
        # Sums are made where the weights are, and searched on the host, where the draws and their numbers are.
        num_nodes, num_blocks, width = self.law_weights.shape
        block_cdf = self.law_cdf.cpu().numpy()
        target = uniforms * block_cdf[:, -1].take(rows)
        blocks = _search(block_cdf, rows, target)
        pairs = rows * num_blocks + blocks
        target -= np.where(blocks > 0, block_cdf.take(pairs - 1), 0.0)
        # Few (node, block) pairs are distinct: only their tokens are summed up.
        is_wanted = np.zeros(num_nodes * num_blocks, bool)
        is_wanted[pairs] = True
        wanted = np.flatnonzero(is_wanted)  # (G,)
        place = np.empty(num_nodes * num_blocks, np.int64)  # of each of these pairs among them
        place[wanted] = np.arange(len(wanted))
        at = torch.from_numpy(wanted).to(self.law_weights.device)
        token_cdf = self.law_weights.view(-1, width).index_select(0, at).double().cumsum(-1).cpu().numpy()  # (G, W)
        tokens: NDArray[np.int64] = blocks * width + _search(token_cdf, place.take(pairs), target)
        return tokens

    def most_probable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """At each of some rows the model's most probable token of those that can be drawn; of several the lowest."""
        at = torch.from_numpy(rows).to(self.logits.device)
        weights = self.law_weights[at].view(len(rows), -1)[:, : self.logits.shape[1]]
        logits = self.logits[at].masked_fill_(weights == 0, -torch.inf)
        first: NDArray[np.int64] = _first_of_largest(logits).cpu().numpy()
        return first

    def at_least(self, probabilities: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `Distributions.at_least`: rows and tokens."""
        if not self.log_norm.isfinite().all():  # such a row would have none
            raise _not_finite()
        least = torch.from_numpy(probabilities).to(self.law_cdf.device) * self.law_cdf[:, -1]  # (N,)
        rows, blocks, within = (self.law_weights.double() >= least[:, None, None]).nonzero(as_tuple=True)
        return rows.cpu().numpy(), (blocks * self.law_weights.shape[2] + within).cpu().numpy()


def next_token(logits: Tensor, law: SamplingLaw, undrawable: Tensor) -> NextToken:
    """The next token's distribution at each row of `logits` (N, V).

    `undrawable` has the ids that the tokenizer lacks: they have probability 0 under the law. Logits that are NaN or
    infinite are refused when tokens are asked for.
    """
    logits = logits.float()
    log_norm = logits.logsumexp(-1)
    scores = TemperatureLogitsWarper(law.temperature if law.do_sample else 1.0)(None, logits)
    scores = scores.index_fill_(1, undrawable, -torch.inf)  # in place: the warper made a new tensor
    if law.do_sample:
        # The warpers of transformers look at scores alone; input_ids are in their signature and not used.
        scores = _warpers(law)(None, scores)  # type: ignore[arg-type]
        scores.sub_(scores.amax(-1, keepdim=True)).clamp_(min=LEAST_LOG_WEIGHT)
        weights = torch.nn.functional.threshold(scores.exp_(), LEAST_WEIGHT, 0.0, inplace=True)
    else:
        weights = torch.zeros_like(scores).scatter_(1, _first_of_largest(scores)[:, None], 1.0)
    blocks = _in_blocks(weights)
    cdf = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    return NextToken(logits=logits, log_norm=log_norm, law_weights=blocks, law_cdf=cdf)


def _not_finite() -> InputError:
    return InputError("the model's logits are not finite: it has diverged, or overflows; try another --dtype")


def _warpers(law: SamplingLaw) -> LogitsProcessorList:
    """In the order of transformers' `generate`, after the temperature: top-k, top-p, min-p."""
    warpers = LogitsProcessorList()
    if law.top_k > 0:
        warpers.append(TopKLogitsWarper(law.top_k))
    if law.top_p < 1.0:
        warpers.append(TopPLogitsWarper(law.top_p))
    if law.min_p > 0:
        warpers.append(MinPLogitsWarper(law.min_p))
    return warpers


def _in_blocks(weights: Tensor) -> Tensor:
    """`weights` (N, V) as (N, B, W): about as many blocks as tokens in a block, filled up with zeros."""
    num_nodes, vocabulary = weights.shape
    width = 2 ** math.ceil(math.log2(vocabulary) / 2)
    missing = -vocabulary % width
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    return weights.view(num_nodes, -1, width)


def grouped(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order that sorts D `keys` (0 or more), equal ones as they stand, and where in it each distinct key begins."""
    order = np.argsort(keys, kind="stable")
    return order, np.flatnonzero(np.diff(keys[order], prepend=-1) != 0)


def _search(cdf: NDArray[np.float64], rows: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of D `values` the first place in row `rows[d]` of `cdf` (G, B) that lies above it: shape (D,).

    All are searched side by side, each step halving the places that are left to every one of them.
    """
    # A value can round up to the last sum itself, beyond which there is no token.
    values = np.minimum(values, np.nextafter(cdf[:, -1], 0.0).take(rows))
    sums = cdf.reshape(-1)
    first = rows * cdf.shape[1]
    found = first.copy()
    num_left = cdf.shape[1]
    while num_left > 1:
        half = num_left // 2
        found += half * (sums[half - 1 :].take(found) <= values)
        num_left -= half
    places: NDArray[np.int64] = found - first
    return places
