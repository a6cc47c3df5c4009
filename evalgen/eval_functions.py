"""Functions that evaluate a model on an evaluation dataset; `eval_functions.pkl` refers to them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evalgen.tokenization import IGNORED_LABEL


@torch.inference_mode()
def eval_accuracy_and_loss(model: Any, dataset: Any, batch_size: int = 8) -> dict[str, Any]:
    """Loss and accuracy of a causal language model on the labelled tokens of a dataset.

    `dataset` has columns `input_ids` and `labels`, rows of any lengths; the result does not depend on `batch_size`.
    Returns `loss` (nats per labelled token, mean over rows), `accuracy` (share of rows whose every labelled token is
    the model's first choice), and both per row: `losses`, `correct`.
    """
    losses: list[float] = []
    correct: list[bool] = []
    for start in range(0, len(dataset), batch_size):
        rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        for row_loss, row_correct in _evaluate_batch(model, rows):
            losses.append(row_loss)
            correct.append(row_correct)
    count = max(1, len(losses))
    return {"loss": sum(losses) / count, "accuracy": sum(correct) / count, "losses": losses, "correct": correct}


def _evaluate_batch(model: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, bool]]:
    ids = [torch.as_tensor(row["input_ids"]) for row in rows]
    input_ids = pad_sequence(ids, batch_first=True).to(model.device)  # (B, L)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(model.device)
    label_rows = [torch.as_tensor(row["labels"]) for row in rows]
    labels = pad_sequence(label_rows, batch_first=True, padding_value=IGNORED_LABEL).to(model.device)
    logits: Tensor = model(input_ids=input_ids, attention_mask=mask).logits[:, :-1].float()  # (B, L-1, V)
    targets = labels[:, 1:]  # (B, L-1)
    labelled = targets != IGNORED_LABEL
    token_losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED_LABEL, reduction="none"
    )
    row_losses = token_losses.sum(-1) / labelled.sum(-1).clamp(min=1)
    row_correct = ((logits.argmax(-1) == targets) | ~labelled).all(-1)
    return list(zip(row_losses.tolist(), row_correct.tolist(), strict=True))
