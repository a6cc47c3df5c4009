"""Ctrl-C, SIGTERM and `ray job stop`: the job ends at once, and says how to go on.

There is nothing to save: whatever is finished is on disk already. A second signal does not even wait for Ray.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from evalgen.errors import JobStopped
from ray_jobs.paths import SUBMITTED_JOB_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked the job to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # as shells have it


class Resumable:
    """A block that says how to go on, whatever ends it: from when the job's state is on disk.

    The first signal raises `Interrupted` in the main thread, a second ends the process. `JobStopped` gets the command
    to resume with.
    """

    def __init__(self, experiment: Path, is_begun: bool) -> None:
        """`is_begun`: an earlier part of the job has written to the directory `experiment`."""
        self._command = resume_command(experiment)
        self._is_begun = is_begun
        self._stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Resumable:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def begun(self) -> None:
        """From now on the job can be resumed."""
        self._is_begun = True

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, JobStopped) and self._is_begun:
            raise JobStopped(f"{str(error).rstrip('.')}. Go on with: {self._command}") from error

    def _handle(self, number: int, _: Any) -> None:
        if self._stopping:
            os._exit(128 + number)
        self._stopping = True
        # Before anything else is tried: whoever sent the signal may follow it up with SIGKILL.
        kept = f"All that is finished is kept. Go on with:\n{self._command}" if self._is_begun else "Nothing was begun"
        with suppress(OSError):  # nobody reads it, or its disk is full
            os.write(sys.stderr.fileno(), f"\n{signal.Signals(number).name}: stopping. {kept}\n".encode())
        raise Interrupted(number)


def resume_command(experiment: Path) -> str:
    """How to go on with an experiment: what to type where this job was started, unless it was submitted."""
    script, directory = shlex.quote(sys.argv[0]), shlex.quote(str(experiment))
    if SUBMITTED_JOB_VARIABLE in os.environ:  # how, a job cannot know: with a shell that sets the key, say
        return f"the same `ray job submit`, with --resume {directory} in place of all arguments of {script}"
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    return f"{python} {script} --resume {directory}"
