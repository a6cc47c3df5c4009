"""Makes the virtual environments of the peers under `.bench/envs`, each once for each list of requirements."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.engines import ENVIRONMENTS, PROJECT, Environment

log = logging.getLogger(__name__)


class EnvironmentFailed(Exception):
    """An environment could not be made; the message says why, in one line."""


def python_of(name: str, directory: Path) -> Path:
    """The interpreter of an environment, which is made if it is not there.

    Raises:
        EnvironmentFailed: pip failed.
    """
    if name == PROJECT:
        return Path(sys.executable)
    wanted = ENVIRONMENTS[name]
    root = (directory / "envs" / name).resolve()
    stamp = root / f".installed-{_digest(wanted)}"
    if not stamp.exists():
        _make(root, wanted)
        stamp.touch()
    return root / "bin" / "python"


def _digest(wanted: Environment) -> str:
    return hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]


def _make(root: Path, wanted: Environment) -> None:
    log.info("making the environment %s: %s", root.name, ", ".join(wanted.requirements))
    shutil.rmtree(root, ignore_errors=True)
    python = str(root / "bin" / "python")
    steps = [
        [sys.executable, "-m", "venv", str(root)],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted.requirements],
    ]
    if wanted.remove:
        steps.append([python, "-m", "pip", "uninstall", "--quiet", "--yes", *wanted.remove])
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=os.environ | dict(wanted.build_flags))
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise EnvironmentFailed(f"environment {root.name}: {last[:160]}")
