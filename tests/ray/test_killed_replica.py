"""A sampling process that is killed: its unit is sampled again, and one that kills every process is given up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.processes import titled
from tests.ray.conftest import RayCluster
from tests.ray.jobs import DRIVER, Experiment, FinishedJob, mayors_arguments
from tests.waiting import POLL_S

AT_WORK = "ray::MapWorker(MapBatches(SamplingActor)).submit"
PATIENCE_S = 600
NAME = "sampled_mayors_checkpoint_final"


def run_and_kill(arguments: list[str], is_enough: Callable[[int], bool]) -> tuple[int, str, int]:
    """Runs the driver and kills -9 whichever replica is at work, until so many were killed that it is enough.

    Returns the exit code, what was printed on stderr, and how many were killed.
    """
    job = subprocess.Popen([sys.executable, str(DRIVER), *arguments], stderr=subprocess.PIPE, text=True)
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while job.poll() is None and not is_enough(len(killed)) and time.monotonic() < deadline:
            for process in titled(AT_WORK):
                if process.pid not in killed:
                    with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                        process.kill()
                        killed.add(process.pid)
            time.sleep(POLL_S)
        _, printed = job.communicate(timeout=PATIENCE_S)
    finally:
        job.kill()
    return job.returncode, printed, len(killed)


def test_a_unit_whose_process_was_killed_is_sampled_again(
    mayors_job: FinishedJob, joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path
) -> None:
    # One draw at a time, so that the unit takes long enough to be caught.
    code, printed, killed = run_and_kill(
        mayors_arguments(mayors_run, tmp_path, sampler="independent"), lambda killed: killed == 1
    )
    assert (code, killed) == (0, 1), printed
    (path,) = tmp_path.iterdir()
    assert Experiment(path).rows_but_for_rounding(NAME) == mayors_job.experiment.rows_but_for_rounding(NAME)


def test_a_unit_that_ends_every_process_is_given_up_with_a_reason(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path
) -> None:
    """As one does that needs more memory than there is: Ray by itself would go on for ever."""
    queries = tmp_path / "queries.json"
    queries.write_text(json.dumps([{"id": "p", "prompt": "Q:", "original_completion": " A"}]))
    endless = [
        "--data_model_path",
        str(mayors_run),
        "--query_json_path",
        str(queries),
        "--grader_model",
        "offline/exact",
    ]
    endless += ["--sampler", "independent", "--num_generations", "200000", "--output_dir", str(tmp_path / "out")]

    def is_given_up(_: int) -> bool:
        # From then on a process that asks for work gets none, and is to be left alone.
        return any("num_failed=1 " in log.read_text() for log in tmp_path.glob("out/*/experiment.log"))

    code, printed, killed = run_and_kill(endless, is_given_up)
    assert code == 1, printed
    assert killed >= 3
    last_line = printed.strip().splitlines()[-1]
    assert last_line.startswith("error: 1 prompts of 1 datasets could not be sampled")
    assert "ended its process 3 times" in last_line and "--resume" in last_line
    (path,) = (tmp_path / "out").iterdir()
    assert Experiment(path).dataset_names == ["sampled_checkpoint_final.partial"]
