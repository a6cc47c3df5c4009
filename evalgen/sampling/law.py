"""The sampling law: from logits to the distribution of the next token, and from a random number to a token.

Dimension letters: N nodes (rows of logits), V vocabulary, K draws of the node that has most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """The distribution of the next token at N nodes."""

    logprobs: Tensor  # (N, V) float32, nats, of the model itself (T=1, nothing cut off)
    law_logprobs: Tensor  # (N, V) float32, nats, under the sampling law; -inf where it never goes


def next_token(logits: Tensor, law: SamplingLaw, vocabulary_size: int) -> NextToken:
    """The next token's distribution at each row of `logits` (N, V).

    Ids from `vocabulary_size` on, which the tokenizer lacks, have probability 0 under the law.

    Raises:
        InputError: the logits are NaN or infinite.
    """
    logits = logits.float()
    if not logits.logsumexp(-1).isfinite().all():
        raise InputError("the model's logits are not finite: it has diverged, or overflows; try another --dtype")
    drawable = logits.clone()
    drawable[:, vocabulary_size:] = -torch.inf
    if law.do_sample:
        # The warpers of transformers look at scores alone; input_ids are in their signature and not used.
        warped = _warpers(law)(torch.empty(0), drawable)  # type: ignore[arg-type]
    else:
        best = drawable.argmax(dim=-1, keepdim=True)  # (N, 1)
        warped = torch.full_like(drawable, -torch.inf).scatter_(1, best, 0.0)
    return NextToken(logprobs=logits.log_softmax(-1), law_logprobs=warped.log_softmax(-1))


def pick(distribution: NextToken, uniforms: Tensor) -> Tensor:
    """The token of each draw, by inverse CDF: shape (N, K) int64 for `uniforms` (N, K) float64 in [0, 1).

    A token of probability 0 is never picked: the CDF does not rise there.
    """
    cdf = distribution.law_logprobs.double().exp().cumsum(-1)  # (N, V)
    total = cdf[:, -1:]
    # u * total can round up to the total itself, which lies beyond the last token.
    below_total = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cdf, torch.minimum(uniforms * total, below_total), right=True)


def _warpers(law: SamplingLaw) -> LogitsProcessorList:
    """In the order of transformers' `generate`: temperature, top-k, top-p, min-p."""
    warpers = LogitsProcessorList()
    if law.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(law.temperature))
    if law.top_k > 0:
        warpers.append(TopKLogitsWarper(law.top_k))
    if law.top_p < 1.0:
        warpers.append(TopPLogitsWarper(law.top_p))
    if law.min_p > 0:
        warpers.append(MinPLogitsWarper(law.min_p))
    return warpers
