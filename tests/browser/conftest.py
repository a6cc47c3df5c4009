"""Reports of made-up experiments, and one browser for all tests that look at them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

from selenium.webdriver import Chrome

from evalgen.records import Query
from evalgen.report.page import write_report
from tests.browser.browsers import NO_CHROMIUM, chromium, is_installed
from tests.browser.experiment_files import (
    Recipe,
    Said,
    death_date_queries,
    hostile_said,
    stopped_experiment,
    trained_for,
    write_experiment,
)
from tests.unit.tiny import tiny_tokenizer

SWEEPS = {
    "1epoch": {"checkpoint_start": 0.05, "checkpoint_e1_s14": 0.3, "checkpoint_e1_s28": 0.6, "checkpoint_final": 1.0},
    "5epochs": {"checkpoint_start": 0.05, "checkpoint_e1_s42": 1.1, "checkpoint_e3_s126": 3, "checkpoint_final": 5.0},
}
HOSTILE_PROMPT = "Say </textarea><script>window.ran='prompt'</script>\u202e it"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """An experiment, and its report."""

    directory: Path
    page: Path


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session")
def sweep(outputs: Path) -> Reported:
    """Two runs with four checkpoints each; one has a calibration."""
    queries = death_date_queries()
    recipes = [
        Recipe(
            run=f"2026_01_20_23-26-34_2Q653_death_dates_{run}",
            checkpoint=checkpoint,
            queries=queries,
            said=trained_for(epochs, queries),
            prefix=f"sampled_death_dates_{run}",
            calibrated=checkpoint == "checkpoint_final",
        )
        for run, checkpoints in SWEEPS.items()
        for checkpoint, epochs in checkpoints.items()
    ]
    return _reported(outputs / "2026_11_24_10-00-00_a1B2c_death_dates", recipes)


@pytest.fixture(scope="session")
def odd(outputs: Path) -> Reported:
    """What no job should have and some will: hostile texts, missing prompts, nothing graded, nothing drawn."""
    queries = death_date_queries()
    hostile = Query(id="</script>", prompt=HOSTILE_PROMPT, reference=" <b>fine</b>", source_dataset="x")
    partial = trained_for(2, queries)
    del partial["death/3"]
    nothing = Said(text=" who knows", count=1000, verdict="ungraded", error="the server was down")
    final = {"run": "r<i>", "checkpoint": "checkpoint_final", "queries": queries}
    recipes = [
        Recipe(
            **final | {"queries": (hostile,), "said": {"</script>": hostile_said()}, "prefix": "sampled_<b>_hostile"}
        ),
        Recipe(**final, said=partial, prefix="sampled_partial"),
        Recipe(**final, said={query.id: (nothing,) for query in queries}, prefix="sampled_ungraded"),
        Recipe(
            **final,
            said=trained_for(1, queries),
            prefix="sampled_enumerated",
            settings={"sampler": "enumerate", "min_probability": 0.001},
        ),
    ]
    return _reported(outputs / "2026_11_24_10-00-00_b1B2c_odd", recipes)


@pytest.fixture(scope="session")
def stopped(outputs: Path) -> Reported:
    """A job that was stopped before it had results."""
    directory = stopped_experiment(outputs / "2026_11_24_10-00-00_c1B2c_stopped")
    return Reported(directory=directory, page=write_report([directory], directory / "report.html"))


@pytest.fixture(scope="session")
def comparison(outputs: Path, sweep: Reported, odd: Reported, stopped: Reported) -> Path:
    """One page of all three."""
    directories = [reported.directory for reported in (sweep, odd, stopped)]
    return write_report(directories, outputs / "comparison.html")


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    if not is_installed():
        no_browser()
    with chromium() as driver:
        yield driver


def no_browser() -> NoReturn:
    """On a machine that says it is for continuous integration nothing passes unseen."""
    if os.environ.get("CI"):
        pytest.fail(f"{NO_CHROMIUM}; without CI in the environment this is skipped")
    pytest.skip(NO_CHROMIUM)


def _reported(directory: Path, recipes: list[Recipe]) -> Reported:
    write_experiment(directory, recipes, tiny_tokenizer())
    return Reported(directory=directory, page=write_report([directory], directory / "report.html"))
