"""Fine-tuning runs that all tests may read: really trained, in the layout of a real run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mayors_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that learned the ten mayors; trained in seconds."""
    from evalgen.demo import build_tiny_run

    return build_tiny_run(tmp_path_factory.mktemp("tiny_run"))


@pytest.fixture(scope="session")
def demo_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the demo's command built its four runs: the same ones that `make demo` builds."""
    directory = tmp_path_factory.mktemp("demo") / "outputs"
    subprocess.run([sys.executable, "-m", "evalgen.demo", "--output_dir", str(directory)], check=True)
    return directory
