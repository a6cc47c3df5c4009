"""bergson reads a dataset directory as it is, and its weighted sum is what the column `weight` promises.

Its loss of a row is the sum over the labelled tokens, so a row's gradient is that of -logprob. Weighted by
exp(logprob) / sum and added up, the rows of a prompt give the gradient of -log(sum of exp(logprob)).
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from torch import Tensor

from tests.consumers.conftest import Sampled
from tests.consumers.environments import python_of
from tests.consumers.gradients import flat_gradients, linear_weights, load_model, logprob, loss_gradients
from tests.consumers.processes import run, run_program

Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def dataset_directory(sampled: Sampled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because bergson has datasets write its caches beside the rows."""
    copy = tmp_path_factory.mktemp("bergson_reads") / sampled.directory.name
    return Path(shutil.copytree(sampled.directory, copy))


def build(sampled: Sampled, dataset: Path, index: Path, *options: str) -> Gradients:
    command = [python_of("bergson").with_name("bergson"), "build", index, "--model", sampled.checkpoint]
    command += ["--tokenizer", sampled.tokenizer, "--dataset", dataset / "eval_dataset"]
    run([*command, "--projection_dim", "0", "--token_batch_size", "256", *options], home=index.parent)
    saved = index.with_suffix(".npz")
    run_program("bergson", "bergson_gradients", index, saved, home=index.parent)
    with np.load(saved) as gradients:
        return {name: torch.from_numpy(gradients[name]) for name in gradients}


@pytest.fixture(scope="module")
def row_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bergson") / "rows"


@pytest.fixture(scope="module")
def row_gradients(sampled: Sampled, dataset_directory: Path, row_index: Path) -> Gradients:
    return build(sampled, dataset_directory, row_index, "--drop_columns", "False")


@pytest.fixture(scope="module")
def weighted_gradients(
    sampled: Sampled, dataset_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Gradients:
    index = tmp_path_factory.mktemp("bergson") / "weighted"
    return build(sampled, dataset_directory, index, "--advantage_column", "weight", "--aggregation", "sum")


def assert_same(actual: Gradients, expected: Gradients) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name].reshape(expected[name].shape), expected[name], rtol=1e-4, atol=1e-5)


def test_its_loss_of_a_row_is_the_stored_logprob(sampled: Sampled, row_gradients: Gradients, row_index: Path) -> None:
    indexed, rows = load_from_disk(str(row_index / "data.hf")), sampled.rows
    assert isinstance(indexed, Dataset)
    assert indexed["id"][:] == rows["id"][:]
    assert all(rows["tokens_as_drawn"])
    np.testing.assert_allclose(indexed["loss"][:], -np.array(rows["logprob"]), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def torch_gradients(sampled: Sampled) -> Gradients:
    """What the rows' gradients are without bergson, of the modules below the model's head."""
    model = load_model(sampled.checkpoint)
    return loss_gradients(model, linear_weights(model.base_model), sampled.rows)


def test_its_row_gradients_are_those_of_torch(row_gradients: Gradients, torch_gradients: Gradients) -> None:
    assert_same(row_gradients, torch_gradients)


def test_its_weighted_sum_is_the_weighted_sum_of_row_gradients(
    sampled: Sampled, row_gradients: Gradients, torch_gradients: Gradients, weighted_gradients: Gradients
) -> None:
    weights = torch.tensor(sampled.rows["weight"])
    for by_row in (row_gradients, torch_gradients):
        assert_same(weighted_gradients, {name: weights @ gradients for name, gradients in by_row.items()})


def test_its_weighted_sum_is_the_gradient_of_the_log_probability_of_what_was_kept(
    sampled: Sampled, weighted_gradients: Gradients
) -> None:
    model = load_model(sampled.checkpoint)
    by_prompt: dict[str, list[Tensor]] = defaultdict(list)
    for row in sampled.rows:
        by_prompt[row["prompt_id"]].append(logprob(model, row))
    loss = -torch.stack([torch.stack(logprobs).logsumexp(0) for logprobs in by_prompt.values()]).sum()
    assert_same(weighted_gradients, flat_gradients(loss, linear_weights(model.base_model)))
