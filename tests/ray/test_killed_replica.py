"""A sampling process that is killed: its unit is sampled again, and one that kills every process is given up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments, run_job
from tests.waiting import POLL_S

AT_WORK = "ray::MapWorker(MapBatches(SamplingActor)).submit"
PATIENCE_S = 600
NAME = "sampled_mayors_checkpoint_final"


def run_and_kill(arguments: list[str], max_kills: int) -> tuple[int, str, int]:
    """Runs the driver and kills -9 whichever replica is at work, up to `max_kills` times.

    Returns the exit code, what was printed on stderr, and how many were killed.
    """
    script = REPOSITORY / "ray_jobs" / "generate_eval_datasets.py"
    job = subprocess.Popen([sys.executable, str(script), *arguments], stderr=subprocess.PIPE, text=True)
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while job.poll() is None and len(killed) < max_kills and time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if AT_WORK in " ".join(process.info["cmdline"] or ()) and process.pid not in killed:
                    process.kill()
                    killed.add(process.pid)
            time.sleep(POLL_S)
        _, printed = job.communicate(timeout=PATIENCE_S)
    finally:
        job.kill()
    return job.returncode, printed, len(killed)


def test_a_unit_whose_process_was_killed_is_sampled_again(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    settings = {"sampler": "independent", "num_generations": 50}
    code, printed, killed = run_and_kill(mayors_arguments(mayors_run, tmp_path / "killed", **settings), max_kills=1)
    assert (code, killed) == (0, 1), printed
    (path,) = (tmp_path / "killed").iterdir()
    whole = run_job(mayors_arguments(mayors_run, tmp_path / "whole", **settings), tmp_path / "whole")
    assert Experiment(path).dataset(NAME).to_list() == whole.dataset(NAME).to_list()


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
    code, printed, killed = run_and_kill(endless, max_kills=20)
    assert code == 1, printed
    assert killed >= 3
    last_line = printed.strip().splitlines()[-1]
    assert last_line.startswith("error: 1 prompts of 1 datasets could not be sampled")
    assert "ended its process 3 times" in last_line and "--resume" in last_line
    (path,) = (tmp_path / "out").iterdir()
    assert Experiment(path).dataset_names == ["sampled_checkpoint_final.partial"]
