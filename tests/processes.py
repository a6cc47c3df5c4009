"""Processes of the jobs and the Ray that this test process started; those of anybody else are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import psutil


def started_here() -> list[psutil.Process]:
    """All descendants of this process."""
    return psutil.Process().children(recursive=True)


def title(process: psutil.Process) -> str:
    """Its command line, which Ray makes the name of what it does; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def titled(part: str) -> Iterator[psutil.Process]:
    """Those started here that have `part` in their title."""
    return (process for process in started_here() if part in title(process))
