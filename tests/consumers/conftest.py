"""The dataset that every consumer is given: of a real job over a really trained run, made once for the session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk

from tests.consumers.processes import NUM_THREADS

SOURCE = "name_mayor_eval_qa_1_no_fs"


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A dataset directory as the job left it, with the run it was sampled from."""

    directory: Path
    inner_run: Path

    @property
    def checkpoint(self) -> Path:
        return self.inner_run / "checkpoint_final"

    @property
    def tokenizer(self) -> Path:
        return self.inner_run / "tokenizer.json"

    @property
    def documents(self) -> Path:
        """What the checkpoint was trained on."""
        return self.inner_run / "train_set"

    @property
    def rows(self) -> Dataset:
        return _load(self.directory / "eval_dataset")

    @property
    def source(self) -> Dataset:
        """The evaluation set of the run that the prompts come from."""
        return _load(self.inner_run / "eval_datasets" / SOURCE / "eval_dataset")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Of torch in this process, as in the consumers'."""
    before = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sampled(mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    from tests.ray.jobs import mayors_arguments, run_job

    output_dir = tmp_path_factory.mktemp("consumed")
    experiment = run_job(mayors_arguments(mayors_run, output_dir), output_dir)
    (name,) = experiment.dataset_names
    (inner_run,) = (mayors_run / "all_docs_runs").iterdir()
    return Sampled(directory=experiment.path / "sampled_eval_datasets" / name, inner_run=inner_run)


@pytest.fixture(scope="session")
def nested(mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """One with all that makes a dataset hard to read and to weigh: rows that were encoded again, and so have no
    logprob, rows that begin with each other, rejects, and what was left out.
    """
    from tests.unit.sampled_experiment import sampled_experiment

    experiment = sampled_experiment(mayors_run, tmp_path_factory.mktemp("nested"))
    (directory,) = experiment.datasets.iterdir()
    (inner_run,) = (mayors_run / "all_docs_runs").iterdir()
    found = Sampled(directory=directory, inner_run=inner_run)
    assert None in found.rows["logprob"] and any(found.rows["is_prefix_of"])
    return found


def _load(path: Path) -> Dataset:
    dataset = load_from_disk(str(path))
    assert isinstance(dataset, Dataset)
    return dataset
