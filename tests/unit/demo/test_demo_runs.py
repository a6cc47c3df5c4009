"""The four demo runs: their names, and that a directory of that name is always a whole run."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from evalgen.demo import build
from evalgen.demo.facts import DEATH_DATES
from evalgen.demo.recipes import DEMO_RUNS, ModelShape, PlannedRun, PretrainingRecipe, TrainingRecipe
from evalgen.demo.training import epoch_batches

MINUTE_PRETRAINING = PretrainingRecipe(
    num_texts=60,
    num_threads=1,
    shape=ModelShape(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2),
)
MINUTE_RUN = PlannedRun(
    stamp="2026_01_20_23-59-50",
    code="minut",
    experiment_name="minute_death_dates",
    recipe=TrainingRecipe(domain=DEATH_DATES, num_epochs=2, num_documents_per_fact=2, num_threads=1, seeds=(42, 43)),
)


@pytest.fixture
def minute_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own code on one run of one second."""
    monkeypatch.setattr(build, "DEMO_RUNS", (MINUTE_RUN,))
    monkeypatch.setattr(build, "PretrainingRecipe", lambda: MINUTE_PRETRAINING)


def test_the_runs_have_the_names_that_the_seed_commands_read() -> None:
    names = [run.directory_name for run in DEMO_RUNS]
    assert "2026_01_20_23-26-34_2Q653_death_dates_1epoch" in names
    assert "2026_01_20_23-26-34_wabZw_mayors_1epoch" in names
    assert {run.experiment_name for run in DEMO_RUNS} == {
        "death_dates_1epoch",
        "death_dates_5epochs",
        "mayors_1epoch",
        "mayors_5epochs",
    }
    assert sorted(len(run.recipe.seeds) for run in DEMO_RUNS) == [1, 1, 1, 2]


def test_one_and_five_epochs_read_the_same_documents() -> None:
    by_domain: dict[str, set[tuple[object, ...]]] = {}
    for run in DEMO_RUNS:
        recipe = run.recipe
        same = (recipe.num_documents_per_fact, recipe.document_seed, recipe.learning_rate, recipe.batch_size)
        by_domain.setdefault(recipe.domain.name, set()).add(same)
    assert [len(recipes) for recipes in by_domain.values()] == [1, 1]


@pytest.mark.usefixtures("minute_demo")
def test_inner_runs_of_two_seeds_differ_in_name_and_weights(tmp_path: Path) -> None:
    (run,) = build.build_demo(tmp_path)
    first, second = sorted((run / "all_docs_runs").iterdir())
    assert "_s42" in first.name and "_s43" in second.name
    weights = [(inner / "checkpoint_final" / "model.safetensors").read_bytes() for inner in (first, second)]
    starts = [(inner / "checkpoint_start" / "model.safetensors").read_bytes() for inner in (first, second)]
    assert weights[0] != weights[1] and starts[0] == starts[1]


@pytest.mark.usefixtures("minute_demo")
def test_a_whole_run_is_kept_unless_forced(tmp_path: Path) -> None:
    (run,) = build.build_demo(tmp_path)
    (run / "marker").touch()
    build.build_demo(tmp_path)
    assert (run / "marker").exists()
    build.build_demo(tmp_path, force=True)
    assert not (run / "marker").exists()


@pytest.mark.usefixtures("minute_demo")
def test_a_build_cut_short_is_not_taken_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_inner_run_log", stop)
        with pytest.raises(KeyboardInterrupt):
            build.build_demo(tmp_path)
    assert not (tmp_path / MINUTE_RUN.directory_name).exists()
    (run,) = build.build_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert len(list(run.glob("all_docs_runs/*/checkpoint_final"))) == 2


@pytest.mark.usefixtures("minute_demo")
def test_building_leaves_the_callers_threads_and_random_state_alone(tmp_path: Path) -> None:
    threads, state, python_state = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
    build.build_demo(tmp_path)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state


def test_an_epoch_reads_every_row_once_in_an_order_of_its_own() -> None:
    lengths = [5 + index % 7 for index in range(101)]
    epochs = [epoch_batches(lengths, 8, seed=42, epoch=epoch) for epoch in (1, 2, 1)]
    for batches in epochs:
        assert sorted(row for batch in batches for row in batch) == list(range(101))
        assert max(len(batch) for batch in batches) == 8
    assert epochs[0] == epochs[2] != epochs[1]


def test_recipes_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEMO_RUNS[0].recipe.num_epochs = 2  # type: ignore[misc]
