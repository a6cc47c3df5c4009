"""What the processes of a job load: most of what a small job takes is their start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("anthropic", "datasets", "torch", "transformers")


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        ("ray_jobs.store, ray_jobs.limiter, ray_jobs.grading, ray_jobs.stages", set()),
        ("ray_jobs.sampling, ray_jobs.replicas, evalgen.sampling.replica", {"torch", "transformers"}),
    ],
    ids=["store, limiter, grading by rule", "sampling"],
)
def test_a_process_loads_nothing_heavy_that_it_does_not_need(modules: str, needed: set[str]) -> None:
    code = f"import sys, {modules}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == needed


def test_a_command_that_ends_leaves_no_garbage_to_be_looked_for() -> None:
    code = (  # what is registered first is called last
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0));"
        "from ray_jobs.exit_codes import exit_code_of; exit_code_of(lambda: None, if_interrupted='')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
