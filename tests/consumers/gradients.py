"""Gradients by plain torch, one row at a time: what the consumers' batched and padded ones are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

IGNORED_LABEL = -100


def load_model(checkpoint: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the name of their module: kronfluence looks at these of a whole model, bergson at those below its head."""
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def logprob(model: nn.Module, row: Mapping[str, Any]) -> Tensor:
    """Of the labelled tokens of one row, in nats: a number that can be differentiated."""
    input_ids = torch.as_tensor(row["input_ids"])
    labels = torch.as_tensor(row["labels"])[1:]
    logprobs = model(input_ids=input_ids[None]).logits[0, :-1].log_softmax(-1)
    labelled = labels != IGNORED_LABEL
    return logprobs[labelled].gather(1, labels[labelled, None]).sum()


def loss_gradients(
    model: nn.Module, weights: Mapping[str, nn.Parameter], rows: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Of each row's negative log-probability, by the names of `weights`: (rows, size of the weight)."""
    of_rows = [flat_gradients(-logprob(model, row), weights) for row in rows]
    return {name: torch.stack([of_row[name] for of_row in of_rows]) for name in weights}


def flat_gradients(loss: Tensor, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: gradient.flatten() for name, gradient in zip(weights, gradients, strict=True)}
