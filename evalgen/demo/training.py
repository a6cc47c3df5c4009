"""Trains the demo models: one base model on neutral sentences, then copies of it on documents.

Plain AdamW in fp32 on the CPU with a fixed number of threads, so that two builds on one machine give the same
weights. Nothing here touches the caller's random state or leaves the thread count changed.

Shapes: B rows of a batch, T tokens of the longest row.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from evalgen.demo.corpus import Document
from evalgen.demo.recipes import ModelShape, PretrainingRecipe, TrainingRecipe

MAX_POSITIONS = 512
IGNORED_LABEL = -100
BATCHES_PER_POOL = 8
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A point of the training; `model` is the live model and changes when training goes on."""

    name: str
    step_num: int
    model: Olmo2ForCausalLM


@contextlib.contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    """Sums are split by thread, so another count gives other last digits, and in the end other weights."""
    num_threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads_before)


def pretrain(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Olmo2ForCausalLM:
    """A model that knows the sentence forms and the words of `texts`, each seen once."""
    rows = _packed_rows(texts, tokenizer, recipe.row_length)
    num_steps = len(rows) // recipe.batch_size
    with _threads(recipe.num_threads):
        model = _new_model(recipe.shape, tokenizer, recipe.seed)
        optimizer, scheduler = _optimizer(model, recipe.learning_rate, num_steps, recipe.warmup_fraction)
        for step in range(num_steps):
            start = step * recipe.batch_size
            input_ids = torch.tensor(rows[start : start + recipe.batch_size])  # [B, T]
            _step(model, optimizer, scheduler, input_ids=input_ids, labels=input_ids)
    return model


def fine_tune(
    base: Olmo2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    recipe: TrainingRecipe,
    *,
    seed: int,
) -> Iterator[Checkpoint]:
    """Trains a copy of `base`; yields checkpoint_start, the ones asked for, and checkpoint_final, in order."""
    model = copy.deepcopy(base)
    rows = [document_ids(tokenizer, document.text) for document in documents]
    lengths = [len(row) for row in rows]
    num_steps = math.ceil(len(rows) / recipe.batch_size) * recipe.num_epochs
    saved_steps = {max(1, round(fraction * num_steps)) for fraction in recipe.checkpoint_fractions}
    optimizer, scheduler = _optimizer(model, recipe.learning_rate, num_steps, recipe.warmup_fraction)
    yield Checkpoint(name="checkpoint_start", step_num=0, model=model)
    step = 0
    for epoch in range(1, recipe.num_epochs + 1):
        for indices in epoch_batches(lengths, recipe.batch_size, seed=seed, epoch=epoch):
            with _threads(recipe.num_threads):
                _step(model, optimizer, scheduler, **_padded([rows[index] for index in indices], tokenizer))
            step += 1
            if step in saved_steps and step < num_steps:
                yield Checkpoint(name=f"checkpoint_e{epoch}_s{step}", step_num=step, model=model)
    yield Checkpoint(name="checkpoint_final", step_num=step, model=model)


def epoch_batches(lengths: list[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Row indices of every batch of one epoch, each row once, in the order of training.

    Rows of like length share a batch, within a pool of shuffled rows, to compute little padding.
    """
    rng = random.Random(f"order/{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pool_size = batch_size * BATCHES_PER_POOL
    batches = []
    for pool_start in range(0, len(order), pool_size):
        pool = sorted(order[pool_start : pool_start + pool_size], key=lengths.__getitem__)
        pool_batches = [pool[start : start + batch_size] for start in range(0, len(pool), batch_size)]
        rng.shuffle(pool_batches)
        batches.extend(pool_batches)
    return batches


def document_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """BOS + text + EOS."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


def _new_model(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Olmo2ForCausalLM:
    config = Olmo2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Olmo2ForCausalLM(config)


def _packed_rows(texts: list[str], tokenizer: PreTrainedTokenizerFast, row_length: int) -> list[list[int]]:
    """Texts one after another with BOS between them, cut into rows; the incomplete last row is left out."""
    stream = [
        token
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]
        for token in (tokenizer.bos_token_id, *ids)
    ]
    return [stream[start : start + row_length] for start in range(0, len(stream) - row_length + 1, row_length)]


def _padded(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]),  # [B, T]
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),  # [B, T]
        "labels": torch.tensor([row + [IGNORED_LABEL] * (longest - len(row)) for row in rows]),  # [B, T]
    }


def _optimizer(
    model: Olmo2ForCausalLM, learning_rate: float, num_steps: int, warmup_fraction: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW; the rate climbs over the warm-up and falls in a straight line to a tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    num_warmup = max(1, round(warmup_fraction * num_steps))

    def share(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return 1 - 0.9 * (step - num_warmup) / max(1, num_steps - num_warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _step(
    model: Olmo2ForCausalLM,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    **batch: torch.Tensor,
) -> None:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
