"""Functions that evaluate a model on an evaluation dataset; `eval_functions.pkl` refers to them by name.

Shapes: B rows of a batch, L tokens of the longest of them, T labelled tokens of all of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evalgen.tokenization import IGNORED_LABEL


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What a model makes of the labelled tokens of one row; natural logarithms, in float32."""

    loss: float  # nats per labelled token
    logprob: float  # nats, sum over the labelled tokens
    soft_margin: float  # mean over the labelled tokens
    probability: float  # exp(logprob)
    token_accuracy: float  # share of labelled tokens that are the model's first choice
    correct: bool  # all of them are


@torch.inference_mode()
def eval_accuracy_and_loss(model: Any, eval_dataset: Any, tokenizer: Any = None, batch_size: int = 8) -> dict[str, Any]:
    """What a causal language model makes of the labelled tokens of a dataset, per row and on average.

    `eval_dataset` is a sequence of rows with `input_ids` and `labels`, and `attention_mask` if rows are padded: lists
    or tensors, of any lengths. But for rounding, the result depends neither on `batch_size` nor on padding. A label at
    the very first token counts for nothing, as no token comes before it. No tokenizer is needed: upstream gives one to
    each of its functions, by these names.

    Per row: `losses` (nats per labelled token), `logprobs` (nats, sum over the labelled tokens), `soft_margins`,
    `probabilities`, `token_accuracies` (share of labelled tokens that are the model's first choice), `correct` (all of
    them are). A row without labelled tokens has None in each.

    On average over the other rows: `loss`, `accuracy` (share of rows that are correct), `logprob`, `soft_margin`,
    `probability`, `token_accuracy`; None if there are none.

    The soft margin of a token is its logit less the logsumexp of all other logits, which is log(p / (1 - p)): the
    model output function of TRAK (Park et al., ICML 2023, arXiv:2303.14186). A row's is the mean over its tokens.

    Raises:
        ValueError: a row whose labels or mask are not as long as its ids, or with a label on padding.
    """
    scores: list[RowScores | None] = []
    with _evaluating(model):
        for start in range(0, len(eval_dataset), batch_size):
            rows = [eval_dataset[index] for index in range(start, min(start + batch_size, len(eval_dataset)))]
            scores += score_rows(model, rows)
    return {
        "loss": _mean(scores, "loss"),
        "accuracy": _mean(scores, "correct"),
        "logprob": _mean(scores, "logprob"),
        "soft_margin": _mean(scores, "soft_margin"),
        "probability": _mean(scores, "probability"),
        "token_accuracy": _mean(scores, "token_accuracy"),
        "losses": _values(scores, "loss"),
        "correct": _values(scores, "correct"),
        "logprobs": _values(scores, "logprob"),
        "soft_margins": _values(scores, "soft_margin"),
        "probabilities": _values(scores, "probability"),
        "token_accuracies": _values(scores, "token_accuracy"),
    }


@torch.inference_mode()
def score_rows(model: Any, rows: Sequence[Mapping[str, Any]]) -> list[RowScores | None]:
    """One batch of rows as `eval_accuracy_and_loss` takes them; the model is to be in evaluation mode.

    None: nothing is labelled.

    Raises:
        ValueError: as from there.
    """
    unpadded = [_unpadded(row) for row in rows]
    targets = pad_sequence([labels for _, labels in unpadded], batch_first=True, padding_value=IGNORED_LABEL)[:, 1:]
    is_labelled = targets != IGNORED_LABEL  # (B, L-1)
    if not is_labelled.any():
        return [None] * len(rows)
    input_ids = pad_sequence([ids for ids, _ in unpadded], batch_first=True)  # (B, L), on the right
    mask = pad_sequence([torch.ones_like(ids) for ids, _ in unpadded], batch_first=True)
    logits: Tensor = model(input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)).logits
    # Those that count alone are made float32: all of them may not fit into memory.
    places = is_labelled.to(logits.device)
    scores = _token_scores(logits[:, :-1][places].float(), targets.to(logits.device)[places])
    lengths: list[int] = is_labelled.sum(-1).tolist()
    parts = torch.split(scores.cpu(), lengths)
    return [_row_scores(part) if len(part) else None for part in parts]


def _token_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability, soft margin, and whether it is the first choice, of T tokens: (T, 3) float64."""
    target_logits = logits.gather(1, targets[:, None])  # (T, 1)
    logprobs = target_logits[:, 0] - logits.logsumexp(-1)
    others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(-1)
    columns = (logprobs, target_logits[:, 0] - others, logits.argmax(-1) == targets)
    return torch.stack([column.double() for column in columns], dim=1)


def _row_scores(tokens: Tensor) -> RowScores:
    """Of one row's tokens as `_token_scores` has them, at least one."""
    logprob = tokens[:, 0].sum()
    mean_logprob, soft_margin, token_accuracy = tokens.mean(0).tolist()
    return RowScores(
        loss=-mean_logprob,
        logprob=logprob.item(),
        soft_margin=soft_margin,
        probability=logprob.exp().item(),
        token_accuracy=token_accuracy,
        correct=bool(tokens[:, 2].all()),
    )


def _unpadded(row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The row's ids and labels where it is no padding."""
    ids, labels = (torch.as_tensor(row[name], dtype=torch.int64) for name in ("input_ids", "labels"))
    given = row.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if given is None else torch.as_tensor(given, dtype=torch.bool)
    if not ids.shape == labels.shape == mask.shape:
        lengths = ", ".join(str(len(column)) for column in (ids, labels, mask))
        raise ValueError(f"a row's input_ids, labels and attention_mask have lengths {lengths}; expected one length")
    if (labels[~mask] != IGNORED_LABEL).any():
        raise ValueError("a row has a label where its attention_mask is 0; expected -100 there")
    return ids[mask], labels[mask]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """A block without dropout, after which the model is as it was. There may be no model where there are no rows."""
    was_training = getattr(model, "training", False)
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _values(scores: Iterable[RowScores | None], name: str) -> list[Any]:
    return [None if row is None else getattr(row, name) for row in scores]


def _mean(scores: Iterable[RowScores | None], name: str) -> float | None:
    values = [value for value in _values(scores, name) if value is not None]
    return sum(values) / len(values) if values else None
