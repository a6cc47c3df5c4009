"""Where relative paths begin, on one box and in a submitted job."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` for the entrypoint


def path_root() -> Path:
    """The directory that relative paths are taken from when they do not exist in the working directory.

    A submitted job runs in a temporary copy of its working directory, without what git ignores; what lies on the head
    node is found, and results are kept, in the directory in which `ray start` was run.
    """
    if SUBMITTED_JOB_VARIABLE not in os.environ:
        return Path.cwd()
    for process in psutil.Process().parents():
        if process.name() == "raylet":
            return Path(process.cwd())
    return Path.cwd()
