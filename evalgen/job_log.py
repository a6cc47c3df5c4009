"""The log of a job: warnings on the terminal, everything in `experiment.log`."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Sequence
from pathlib import Path

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class JobLog:
    """Collects log records from the start, and sends them to `experiment.log` once there is one.

    Warnings go to the terminal as well; with `stdout`, everything does.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("evalgen")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        # Flushed by us alone: what is logged before the directory exists must reach the file too.
        self._memory = logging.handlers.MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1)
        self._terminal = logging.StreamHandler(sys.stderr)
        self._terminal.setLevel(logging.WARNING)
        # An error ends the job, and is the last line of it: the driver prints that one.
        self._terminal.addFilter(lambda record: record.levelno < logging.ERROR)
        self._terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        self._file: logging.FileHandler | None = None
        self._handlers: Sequence[logging.Handler] = (self._memory, self._terminal)
        for handler in self._handlers:
            self._logger.addHandler(handler)

    def open(self, path: Path, to_stdout: bool) -> None:
        """Begins the file with everything logged so far."""
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter(LOG_FORMAT))
        self._memory.setTarget(file)
        self._memory.flush()
        self._logger.removeHandler(self._memory)
        self._logger.addHandler(file)
        self._file = file
        if to_stdout:
            self._terminal.setStream(sys.stdout)
            self._terminal.setLevel(logging.INFO)

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._logger.error("%s", str(error) or type(error).__name__)
        for handler in (*self._handlers, *([self._file] if self._file else [])):
            self._logger.removeHandler(handler)
            handler.close()
