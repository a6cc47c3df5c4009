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


@pytest.fixture(scope="module", params=["sampled", "nested"])
def read(request: pytest.FixtureRequest) -> Sampled:
    found: Sampled = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def dataset_directory(read: Sampled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because bergson has datasets write its caches beside the rows."""
    copy = tmp_path_factory.mktemp("bergson_reads") / read.directory.name
    return Path(shutil.copytree(read.directory, copy))


def build(read: Sampled, dataset: Path, index: Path, *options: str) -> Gradients:
    command = [python_of("bergson").with_name("bergson"), "build", index, "--model", read.checkpoint]
    command += ["--tokenizer", read.tokenizer, "--dataset", dataset / "eval_dataset"]
    run([*command, "--projection_dim", "0", "--token_batch_size", "256", *options], home=index.parent)
    saved = index.with_suffix(".npz")
    run_program("bergson", "bergson_gradients", index, saved, home=index.parent)
    with np.load(saved) as gradients:
        return {name: torch.from_numpy(gradients[name]) for name in gradients}


@pytest.fixture(scope="module")
def row_index(read: Sampled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bergson") / "rows"


@pytest.fixture(scope="module")
def row_gradients(read: Sampled, dataset_directory: Path, row_index: Path) -> Gradients:
    return build(read, dataset_directory, row_index, "--drop_columns", "False")


@pytest.fixture(scope="module")
def weighted_gradients(read: Sampled, dataset_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Gradients:
    index = tmp_path_factory.mktemp("bergson") / "weighted"
    return build(read, dataset_directory, index, "--advantage_column", "weight", "--aggregation", "sum")


def assert_same(actual: Gradients, expected: Gradients) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name].reshape(expected[name].shape), expected[name], rtol=1e-4, atol=1e-5)


def test_its_loss_of_a_row_is_the_stored_logprob(read: Sampled, row_gradients: Gradients, row_index: Path) -> None:
    """Of one that was encoded again none is stored."""
    indexed, rows = load_from_disk(str(row_index / "data.hf")), read.rows
    assert isinstance(indexed, Dataset)
    assert indexed["id"][:] == rows["id"][:]
    stored = np.array(rows["logprob"], float)  # None becomes NaN
    assert (~np.isnan(stored)).tolist() == rows["tokens_as_drawn"][:]
    as_drawn = ~np.isnan(stored)
    np.testing.assert_allclose(np.array(indexed["loss"])[as_drawn], -stored[as_drawn], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def torch_gradients(read: Sampled) -> Gradients:
    """What the rows' gradients are without bergson, of the modules below the model's head."""
    model = load_model(read.checkpoint)
    return loss_gradients(model, linear_weights(model.base_model), read.rows)


def test_its_row_gradients_are_those_of_torch(row_gradients: Gradients, torch_gradients: Gradients) -> None:
    assert_same(row_gradients, torch_gradients)


def test_its_weighted_sum_is_the_weighted_sum_of_row_gradients(
    read: Sampled, row_gradients: Gradients, torch_gradients: Gradients, weighted_gradients: Gradients
) -> None:
    weights = torch.tensor(read.rows["weight"])
    for by_row in (row_gradients, torch_gradients):
        assert_same(weighted_gradients, {name: weights @ gradients for name, gradients in by_row.items()})


@pytest.mark.parametrize("read", ["sampled"], indirect=True)  # of rows encoded again no column has the probability
def test_its_weighted_sum_is_the_gradient_of_the_log_probability_of_what_was_kept(
    read: Sampled, weighted_gradients: Gradients
) -> None:
    model = load_model(read.checkpoint)
    by_prompt: dict[str, list[Tensor]] = defaultdict(list)
    for row in read.rows:
        by_prompt[row["prompt_id"]].append(logprob(model, row))
    loss = -torch.stack([torch.stack(logprobs).logsumexp(0) for logprobs in by_prompt.values()]).sum()
    assert_same(weighted_gradients, flat_gradients(loss, linear_weights(model.base_model)))
