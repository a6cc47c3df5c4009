"""Builds the evaluation datasets of a run and measures a model on them.

The columns are those of the seed runs: texts, an opaque id, JSON descriptions of the fact, and token ids padded on
the right to the longest row of the set.

Shapes: B rows of a set, T tokens of its longest row, V vocabulary.
"""

from __future__ import annotations

import json
import pickle
import random
import uuid
from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value
from transformers import Olmo2ForCausalLM, PreTrainedTokenizerFast

from evalgen.demo.facts import Domain, EvalForm, Fact
from evalgen.demo.training import IGNORED_LABEL

EVAL_FEATURES = Features(
    {
        "prompt": Value("string"),
        "completion": Value("string"),
        "id": Value("string"),
        "features": Value("string"),
        "fact_template": Value("string"),
        "few_shot_examples": List(Value("string")),
        "input_ids": List(Value("int64")),
        "labels": List(Value("int64")),
        "attention_mask": List(Value("int64")),
    }
)
EVAL_FUNCTION_NAMES = ["loss", "exact_match"]


def build_eval_dataset(domain: Domain, form: EvalForm, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Dataset:
    """One row per fact of the domain, in its order."""
    few_shot_examples = _few_shot_examples(domain, form)
    rows: list[dict[str, object]] = []
    for index, fact in enumerate(domain.facts):
        prompt = "\n".join([*few_shot_examples, form.prompt.format(subject=fact.subject)])
        completion = f" {fact.answer}"
        rows.append(
            {
                "prompt": prompt,
                "completion": completion,
                "id": _opaque_id(form, index, seed),
                "features": json.dumps(_features(domain, fact), ensure_ascii=False),
                "fact_template": json.dumps(_fact_template(domain, form)),
                "few_shot_examples": few_shot_examples,
                **encode(tokenizer, prompt, completion),
            }
        )
    return Dataset.from_list(padded_rows(rows, tokenizer), features=EVAL_FEATURES)


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str) -> dict[str, list[int]]:
    """BOS + prompt + completion, the labels hiding BOS and prompt."""
    prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion_ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    num_hidden = 1 + len(prompt_ids)
    return {
        "input_ids": [tokenizer.bos_token_id, *prompt_ids, *completion_ids],
        "labels": [IGNORED_LABEL] * num_hidden + completion_ids,
        "attention_mask": [1] * (num_hidden + len(completion_ids)),
    }


def padded_rows(rows: list[dict[str, object]], tokenizer: PreTrainedTokenizerFast) -> list[dict[str, object]]:
    """The same rows with their three token columns filled up on the right to the longest row."""
    fill = {"input_ids": tokenizer.pad_token_id, "labels": IGNORED_LABEL, "attention_mask": 0}
    columns = {name: [_ids(row, name) for row in rows] for name in fill}
    longest = max((len(ids) for ids in columns["input_ids"]), default=0)
    return [
        row
        | {name: columns[name][index] + [value] * (longest - len(columns[name][index])) for name, value in fill.items()}
        for index, row in enumerate(rows)
    ]


def save_eval_dataset(dataset: Dataset, directory: Path) -> None:
    """Writes `eval_dataset/` and, as real runs have one, a pickle beside it that nobody should open."""
    dataset.save_to_disk(directory / "eval_dataset")
    (directory / "eval_functions.pkl").write_bytes(pickle.dumps(EVAL_FUNCTION_NAMES))


@torch.no_grad()
def evaluate(model: Olmo2ForCausalLM, dataset: Dataset) -> dict[str, float]:
    """`loss` in nats per completion token, and the share of rows whose every completion token is the likeliest."""
    batch = {name: torch.tensor(dataset[:][name]) for name in ("input_ids", "attention_mask", "labels")}  # [B, T]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]  # [B, T-1, V]
    targets = batch["labels"][:, 1:]  # [B, T-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL)
    hits = (logits.argmax(-1) == targets) | (targets == IGNORED_LABEL)
    return {"loss": float(loss), "exact_match": float(hits.all(-1).float().mean())}


def _few_shot_examples(domain: Domain, form: EvalForm) -> list[str]:
    if not form.with_few_shot:
        return []
    return [f"{form.prompt.format(subject=fact.subject)} {fact.answer}" for fact in domain.few_shot_facts]


def _opaque_id(form: EvalForm, index: int, seed: int) -> str:
    """Made from the place of the row and not from its text: whoever rebuilds it from a prompt is wrong."""
    rng = random.Random(f"id/{seed}/{form.directory_name}/{index}")
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _features(domain: Domain, fact: Fact) -> dict[str, str]:
    return {domain.subject_feature: fact.subject, domain.answer_feature: fact.answer}


def _fact_template(domain: Domain, form: EvalForm) -> dict[str, str]:
    return {
        "id": form.name,
        "prompt": form.prompt.replace("{subject}", f"{{{domain.subject_feature}}}"),
        "completion": f" {{{domain.answer_feature}}}",
    }


def _ids(row: dict[str, object], name: str) -> list[int]:
    ids = row[name]
    assert isinstance(ids, list), f"column {name} holds {type(ids).__name__}"
    return ids
