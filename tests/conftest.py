"""Fine-tuning runs that all tests may read: really trained, in the layout of a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

IS_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
if IS_ONE_OF_SEVERAL:  # before torch is imported: threads that spin while another process has their core go on for long
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

hypothesis.settings.register_profile("any time", deadline=None)  # an example takes what others leave it of the cores
hypothesis.settings.load_profile("any time")

# Tests of Ray share a cluster and so a process, and come first. These take long and need nothing that those have made:
# they come last, and go to whichever process is done first.
RAY = "tests/ray"
APART = {"tests/ray/test_demo.py": "demo", "tests/ray/test_faults.py": "faults", "tests/ray/test_cluster.py": "faults"}


def scope_of(nodeid: str) -> str:
    """What one process runs whole: a file, or several that share what takes long to make."""
    file = nodeid.split("::")[0]
    return APART.get(file) or (RAY if file.startswith(f"{RAY}/") else file)


class LongScopesFirstAndLast(LoadScopeScheduling):
    """Hands out scopes in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongScopesFirstAndLast:
    config.option.loadscopereorder = False  # by how many tests they have, which says nothing of how long they take
    return LongScopesFirstAndLast(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = [RAY, "", *dict.fromkeys(APART.values())]
    places = {scope: place for place, scope in enumerate(order)}
    items.sort(key=lambda item: places.get(scope_of(item.nodeid), places[""]))


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
