"""Builds demo runs from nothing: tokenizer, base model, fine-tuning, files.

A run is written under a temporary name and renamed last, so a directory with a run's name is a whole run.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import Olmo2ForCausalLM, PreTrainedTokenizerFast

from evalgen.demo.corpus import Document, fine_tuning_documents, pretraining_texts
from evalgen.demo.eval_sets import build_eval_dataset, evaluate
from evalgen.demo.recipes import DEMO_RUNS, TINY_PRETRAINING, TINY_RUN, PlannedRun, PretrainingRecipe
from evalgen.demo.run_directory import (
    inner_run_name,
    write_checkpoint,
    write_inner_run_data,
    write_inner_run_log,
    write_run_files,
)
from evalgen.demo.tokenization import train_tokenizer
from evalgen.demo.training import fine_tune, pretrain

logger = logging.getLogger(__name__)


def build_demo(output_dir: Path, *, force: bool = False) -> list[Path]:
    """The four demo runs under `output_dir`; those already there are left alone unless `force`."""
    missing = [run for run in DEMO_RUNS if force or not (output_dir / run.directory_name).exists()]
    if missing:
        started = time.perf_counter()
        tokenizer, base = build_base(PretrainingRecipe(), list(DEMO_RUNS))
        for run in missing:
            build_run(output_dir, run, tokenizer, base)
        logger.info("built %d demo runs in %.1f s", len(missing), time.perf_counter() - started)
    else:
        logger.info("all %d demo runs are already in %s", len(DEMO_RUNS), output_dir)
    return [output_dir / run.directory_name for run in DEMO_RUNS]


def build_tiny_run(directory: Path) -> Path:
    """A whole run on mayors, built under `directory` in a few seconds, for tests; it knows some of the facts."""
    tokenizer, base = build_base(TINY_PRETRAINING, [TINY_RUN])
    return build_run(directory, TINY_RUN, tokenizer, base)


def build_base(recipe: PretrainingRecipe, runs: list[PlannedRun]) -> tuple[PreTrainedTokenizerFast, Olmo2ForCausalLM]:
    """The tokenizer, trained on all texts that `runs` will see, and the pre-trained model they start from."""
    started = time.perf_counter()
    texts = pretraining_texts(recipe.num_texts, seed=recipe.seed)
    documents = [document.text for run in runs for document in _documents(run)]
    tokenizer = train_tokenizer(texts + documents, vocab_size=recipe.vocab_size)
    base = pretrain(recipe, tokenizer, texts)
    logger.info(
        "pre-trained %.2f M parameters, vocabulary %d: %.1f s",
        base.num_parameters() / 1e6,
        len(tokenizer),
        time.perf_counter() - started,
    )
    return tokenizer, base


def build_run(
    output_dir: Path, planned: PlannedRun, tokenizer: PreTrainedTokenizerFast, base: Olmo2ForCausalLM
) -> Path:
    """Trains and writes one run, in place of an older one of its name; returns its directory."""
    started = time.perf_counter()
    final = output_dir / planned.directory_name
    partial = output_dir / f".{planned.directory_name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    documents = _documents(planned)
    write_run_files(partial, planned, documents)
    for index, seed in enumerate(planned.recipe.seeds):
        inner = partial / "all_docs_runs" / inner_run_name(planned, index)
        inner.mkdir(parents=True)
        _build_inner_run(inner, planned, tokenizer, base, documents, seed=seed)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    logger.info("%s: %.1f s", final.name, time.perf_counter() - started)
    return final


def _build_inner_run(
    directory: Path,
    planned: PlannedRun,
    tokenizer: PreTrainedTokenizerFast,
    base: Olmo2ForCausalLM,
    documents: list[Document],
    *,
    seed: int,
) -> None:
    recipe = planned.recipe
    eval_datasets = {
        form.directory_name: build_eval_dataset(recipe.domain, form, tokenizer, seed=recipe.document_seed)
        for form in recipe.domain.eval_forms
    }
    write_inner_run_data(directory, recipe, tokenizer, documents, eval_datasets, seed=seed)
    history: list[dict[str, Any]] = []
    for checkpoint in fine_tune(base, tokenizer, documents, recipe, seed=seed):
        write_checkpoint(directory, checkpoint)
        results = {name: evaluate(checkpoint.model, dataset) for name, dataset in eval_datasets.items()}
        history.append({"step_num": checkpoint.step_num, "eval_results": results})
    write_inner_run_log(directory, planned, history, seed=seed)
    last = {name: round(result["exact_match"], 2) for name, result in history[-1]["eval_results"].items()}
    logger.info("seed %d, %d steps, exact match %s", seed, history[-1]["step_num"], last)


def _documents(planned: PlannedRun) -> list[Document]:
    recipe = planned.recipe
    return fine_tuning_documents(
        recipe.domain, num_documents_per_fact=recipe.num_documents_per_fact, seed=recipe.document_seed
    )
