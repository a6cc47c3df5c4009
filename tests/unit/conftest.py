"""A real tiny fine-tuning run on disk, and its parts in memory, for every test of the session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

import torch
from transformers import Olmo2ForCausalLM, PreTrainedTokenizerFast

from evalgen.sampling.model import LoadedModel
from tests.unit.tiny import INNER_RUN, loaded, save_source_dataset, source_rows, tiny_tokenizer, trained_model


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> Olmo2ForCausalLM:
    return trained_model(tokenizer)


@pytest.fixture(scope="session")
def tiny(model: Olmo2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """The trained model as the samplers take it."""
    return loaded(model, tokenizer)


@pytest.fixture(scope="session")
def tiny_run(
    tmp_path_factory: pytest.TempPathFactory, model: Olmo2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A run directory in the layout of the seed document; read it, never write to it."""
    run = tmp_path_factory.mktemp("outputs") / "2026_01_20_23-26-34_2Q653_mayors"
    inner = run / "all_docs_runs" / INNER_RUN
    model.save_pretrained(inner / "checkpoint_final")
    tokenizer.save_pretrained(inner / "tokenizer.json")
    rows = source_rows(tokenizer)
    save_source_dataset(inner / "eval_datasets" / "name_mayor_eval_qa_1_no_fs", rows)
    save_source_dataset(inner / "eval_datasets" / "name_mayor_eval_qa_10_no_fs", rows[:1])
    return run
