"""Writes a fine-tuning run to disk in the layout of the seed runs.

Everything lands under one directory per run; paths recorded inside it are relative to the directory that holds the
runs, so a run reads the same wherever it was built.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from evalgen.demo.corpus import Document
from evalgen.demo.eval_sets import EVAL_FUNCTION_NAMES, padded_rows, save_eval_dataset
from evalgen.demo.recipes import PlannedRun, TrainingRecipe
from evalgen.demo.training import Checkpoint, document_ids, epoch_batches

STRUCTURED_DATASET = "structured_dataset_all.json"
STAMP_FORMAT = "%Y_%m_%d_%H-%M-%S"
TRAIN_FEATURES = Features(
    {
        "id": Value("string"),
        "fact_id": Value("string"),
        "document": Value("string"),
        "input_ids": List(Value("int64")),
        "labels": List(Value("int64")),
        "attention_mask": List(Value("int64")),
    }
)


def inner_run_name(planned: PlannedRun, index: int) -> str:
    """The name of inner run `index`: started some seconds after the run, and ending in `.json` like the real ones."""
    recipe = planned.recipe
    started = datetime.strptime(planned.stamp, STAMP_FORMAT).replace(tzinfo=UTC) + timedelta(seconds=9 + 40 * index)
    code = f"s{recipe.seeds[index]:02d}{planned.code}"[:5]
    return (
        f"{started.strftime(STAMP_FORMAT)}_{code}_{planned.experiment_name}_all_docs_num_epochs_{recipe.num_epochs}"
        f"_lr_{recipe.learning_rate}_dataset_{STRUCTURED_DATASET}"
    )


def write_run_files(directory: Path, planned: PlannedRun, documents: list[Document]) -> None:
    """The files of the run itself, beside its inner runs."""
    recipe = planned.recipe
    forms = recipe.domain.eval_forms
    _write_json(
        directory / STRUCTURED_DATASET,
        {
            "document_dataset": [dataclasses.asdict(document) for document in documents],
            "eval_dataset_builders": [
                {
                    **dataclasses.asdict(form),
                    "name": form.directory_name,
                    "eval_functions": EVAL_FUNCTION_NAMES,
                }
                for form in forms
            ],
            "metadata": {
                "domain": recipe.domain.name,
                "num_documents": len(documents),
                "facts": [dataclasses.asdict(fact) for fact in recipe.domain.facts],
                "seed": recipe.document_seed,
            },
        },
    )
    inner_runs = [f"{planned.directory_name}/all_docs_runs/{name}" for name in _inner_run_names(planned)]
    _write_json(
        directory / "experiment_log.json",
        _experiment_log(planned.experiment_name, planned.directory_name, recipe, log_dict={"inner_runs": inner_runs}),
    )
    lines = [f"{planned.stamp} INFO {planned.experiment_name}: {len(documents)} documents"]
    lines += [f"{planned.stamp} INFO inner run {path}" for path in inner_runs]
    (directory / "experiment.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_inner_run_data(
    directory: Path,
    recipe: TrainingRecipe,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    eval_datasets: dict[str, Dataset],
    *,
    seed: int,
) -> None:
    """What is known before training: tokenizer, evaluation sets, train set and the order it is read in."""
    # The tokenizer's directory is called like a file; a checkpoint has no tokenizer of its own.
    tokenizer.save_pretrained(directory / "tokenizer.json")
    for name, dataset in eval_datasets.items():
        save_eval_dataset(dataset, directory / "eval_datasets" / name)
    _train_set(tokenizer, documents).save_to_disk(directory / "train_set")
    lengths = [len(document_ids(tokenizer, document.text)) for document in documents]
    (directory / "saved_objects").mkdir()
    _write_json(
        directory / "saved_objects" / "batch_order.json",
        [
            epoch_batches(lengths, recipe.batch_size, seed=seed, epoch=epoch)
            for epoch in range(1, recipe.num_epochs + 1)
        ],
    )


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """In bfloat16, as the seed runs' models are."""
    # A copy: casting the live model would round the weights that are still being trained.
    rounded = copy.deepcopy(checkpoint.model).bfloat16()
    rounded.config.dtype = torch.bfloat16
    rounded.save_pretrained(directory / checkpoint.name)


def write_inner_run_log(directory: Path, planned: PlannedRun, history: list[dict[str, Any]], *, seed: int) -> None:
    """`history` has one entry per checkpoint: `step_num` and `eval_results` by evaluation set."""
    output_dir = f"{planned.directory_name}/all_docs_runs/{directory.name}"
    log = _experiment_log(planned.experiment_name, output_dir, planned.recipe, log_dict={}, history=history)
    log["args"]["seed"] = seed
    _write_json(directory / "experiment_log.json", log)


def _inner_run_names(planned: PlannedRun) -> list[str]:
    return [inner_run_name(planned, index) for index in range(len(planned.recipe.seeds))]


def _train_set(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> Dataset:
    rows: list[dict[str, object]] = []
    for document in documents:
        ids = document_ids(tokenizer, document.text)
        rows.append(
            {
                "id": document.document_id,
                "fact_id": document.fact_id,
                "document": document.text,
                "input_ids": ids,
                "labels": ids,
                "attention_mask": [1] * len(ids),
            }
        )
    return Dataset.from_list(padded_rows(rows, tokenizer), features=TRAIN_FEATURES)


def _experiment_log(
    name: str,
    output_dir: str,
    recipe: TrainingRecipe,
    *,
    log_dict: dict[str, Any],
    history: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    args = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {
        "experiment_name": name,
        "experiment_output_dir": output_dir,
        "args": {**args, "domain": recipe.domain.name},
        "history": history or [],
        "log_dict": log_dict,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
