"""Fine-tuning runs that all tests may read: really trained, in the layout of a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

IS_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
if IS_ONE_OF_SEVERAL:  # before torch is imported: threads that spin while another process has their core go on for long
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


class OneProcessForRay(LoadScopeScheduling):
    """Hands out files whole, and those of Ray all to one process: they share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/ray" if nodeid.startswith("tests/ray/") else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessForRay:
    return OneProcessForRay(config, log)


@pytest.fixture(scope="session")
def mayors_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that learned the ten mayors; trained in seconds."""
    from evalgen.demo.build import build_tiny_run

    return build_tiny_run(tmp_path_factory.mktemp("tiny_run"))


@pytest.fixture(scope="session")
def demo_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the demo's command built its four runs: the same ones that `make demo` builds."""
    directory = tmp_path_factory.mktemp("demo") / "outputs"
    subprocess.run([sys.executable, "-m", "evalgen.demo", "--output_dir", str(directory)], check=True)
    return directory
