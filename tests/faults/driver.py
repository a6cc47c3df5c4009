"""The main job, with replicas that keep a record: what tests of faults run as a process, and resume as one.

The environment says where the record and the gates are, so that the command that the job prints resumes it as it is.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from evalgen import units
from ray_jobs import generate_eval_datasets
from tests.faults.gates import Gate
from tests.faults.recording import Recording

RECORD_VARIABLE = "EVALGEN_FAULTS_RECORD"
NUM_GENERATIONS = 200


def main() -> int:
    directory = Path(os.environ[RECORD_VARIABLE])
    sys.addaudithook(partial(_wait_at_datasets, directory))
    units.MAX_DRAWS = NUM_GENERATIONS  # of a unit: so that a small job has as many units as prompts
    run_job = partial(generate_eval_datasets.run_job, make_engine=Recording(directory))
    with patch.object(generate_eval_datasets, "run_job", run_job):
        return generate_eval_datasets.main()


def _wait_at_datasets(directory: Path, event: str, arguments: tuple[object, ...]) -> None:
    """Python calls this before it does anything to a file."""
    if event == "os.mkdir" and "/sampled_eval_datasets/" in str(arguments[0]):
        Gate(directory, "dataset begun").pass_through()
    if event == "os.rename" and "/sampled_eval_datasets/" in str(arguments[1]):
        Gate(directory, "dataset written").pass_through()


if __name__ == "__main__":
    sys.exit(main())
