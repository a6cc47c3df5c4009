"""Runs a program in a consumer's environment, offline and in a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.consumers.environments import python_of

PROGRAMS = Path(__file__).parent / "programs"
# Threads of torch wait for each other in busy loops: two are no faster on small matrices, and slower beside others.
NUM_THREADS = 1
LAST_WORDS = 3000  # characters of what a program that failed said


def run_program(environment: str, name: str, *arguments: object, home: Path) -> None:
    """`programs/<name>.py` with `arguments`; `home` is where the program's libraries may keep their caches."""
    run([python_of(environment), PROGRAMS / f"{name}.py", *arguments], home=home)


def run(command: list[object], *, home: Path, inside: Path | None = None) -> str:
    """What the command printed. `inside` is its working directory; None: its home."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "huggingface"), "OMP_NUM_THREADS": str(NUM_THREADS)}
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | offline,
        cwd=inside or home,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{command[:2]} ended with {done.returncode}: ...{done.stdout[-LAST_WORDS:]}"
    return done.stdout
