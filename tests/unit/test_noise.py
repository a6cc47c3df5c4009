"""One kind of line does not reach the terminal, and every other does: within the block and after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray_jobs.noise import NOISE

REPOSITORY = Path(__file__).parents[2]
IN_THE_BLOCK = f"""
import logging, os, sys
from ray_jobs.noise import without_noise
with without_noise():
    os.write(2, b"Ray: {NOISE}\\n")
    os.write(2, b"Ray: a crash\\n")
    print("ours: within", file=sys.stderr)
    logging.getLogger("library").addHandler(logging.StreamHandler())  # as libraries do when they are imported
"""
AFTER_IT = """
file = open(sys.argv[1], "w")  # the next descriptor
logging.getLogger("library").warning("a library: after")
print("ours: after", file=sys.stderr)
file.close()
"""


def test_lines_reach_the_terminal_but_for_the_noise(tmp_path: Path) -> None:
    file = tmp_path / "file"
    command = [sys.executable, "-c", IN_THE_BLOCK + AFTER_IT, str(file)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    expected = ["Ray: a crash", "ours: within", "a library: after", "ours: after"]
    assert sorted(ended.stderr.splitlines()) == sorted(expected), ended.stderr  # two ways to the terminal: any order
    assert ended.returncode == 0
    assert file.read_text() == ""
