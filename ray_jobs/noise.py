"""Keeps off the terminal what Ray's core says of things that are as they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Ray Data passes a handle to the constructors of its own actors, and Ray's core reports that as an error, for each pool
# of each job (ray-project/ray issues 53727 and 57733). What is passed from here makes no difference.
NOISE = "has constructor arguments in the object store and max_restarts > 0"


@contextmanager
def without_noise() -> Iterator[None]:
    """A block in which lines with `NOISE` do not reach stderr; all others do, even those of a crash.

    Ray's core writes past Python, to descriptor 2; so that goes through a `grep`, which outlives this process by what
    it has yet to print. Python's own `sys.stderr` stays where it was.
    """
    python_stderr, own = sys.stderr, os.dup(2)
    try:
        # A session of its own, so that Ctrl-C does not end it before us.
        command = ["grep", "--line-buffered", "-v", NOISE]
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=own, start_new_session=True)
    except OSError:  # no grep
        os.close(own)
        yield
        return
    assert grep.stdin is not None
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    is_descriptor_2 = _is_descriptor_2(python_stderr)
    if is_descriptor_2:
        sys.stderr = open(  # noqa: SIM115 (it stays open, as said below)
            own, "w", buffering=1, encoding=python_stderr.encoding, errors="backslashreplace", closefd=False
        )
    try:
        yield
    finally:
        os.dup2(own, 2)
        if is_descriptor_2:  # whoever began to log in this block keeps the stream that was here, so `own` stays open
            sys.stderr = python_stderr
        else:
            os.close(own)
        # What Ray left running may hold the pipe open: then grep stays for it.
        with suppress(subprocess.TimeoutExpired):
            grep.wait(timeout=0.5)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, OSError, ValueError):
        return False
