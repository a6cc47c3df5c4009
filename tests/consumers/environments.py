"""Makes the consumers' virtual environments under `.consumers/`, each once for each list of requirements."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = "project"  # the environment that runs the tests themselves
REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
ENVIRONMENTS = REPOSITORY / ".consumers"
# bergson and kronfluence require them and use neither; a build that does not fit torch's breaks the import of
# transformers.
REMOVED = ("torchaudio", "torchvision")

log = logging.getLogger(__name__)


class EnvironmentFailed(Exception):
    """An environment could not be made; the message says why, in one line."""


def python_of(name: str) -> Path:
    """The interpreter of the environment that `requirements/<name>.txt` describes, which is made if it is not there.

    Raises:
        EnvironmentFailed: pip failed.
    """
    if name == PROJECT:
        return Path(sys.executable)
    requirements = REQUIREMENTS / f"{name}.txt"
    directory = ENVIRONMENTS / name
    stamp = directory / f".installed-{_digest(requirements)}"
    if not stamp.exists():
        started = time.perf_counter()
        _make(directory, requirements)
        stamp.touch()
        log.info("made the environment %s in %.0f s", name, time.perf_counter() - started)
    return directory / "bin" / "python"


def _digest(requirements: Path) -> str:
    # Not of requirements.lock, which constrains some of them: they pin what matters, and it changes for other reasons.
    return hashlib.sha256(requirements.read_bytes() + repr(REMOVED).encode()).hexdigest()[:12]


def _make(directory: Path, requirements: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for step in (
        [sys.executable, "-m", "venv", str(directory)],
        [*pip, "install", "--requirement", str(requirements)],
        [*pip, "uninstall", "--yes", *REMOVED],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise EnvironmentFailed(f"environment {directory.name}: {last[:160]}")
