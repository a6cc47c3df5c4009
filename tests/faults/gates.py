"""Places where a job waits for its test, so that a fault strikes at a known instant. Files, which both of them see."""

from __future__ import annotations

import time
from pathlib import Path

POLL_S = 0.02


class Gate:
    """One place. Whoever comes to it while it is closed waits until it is opened."""

    def __init__(self, directory: Path, place: str) -> None:
        self._closed = directory / f"{place}.closed"
        self._arrived = directory / f"{place}.arrived"

    def close(self) -> None:
        self._closed.touch()

    @property
    def has_arrived(self) -> bool:
        """Whether somebody has come to it while it was closed."""
        return self._arrived.exists()

    def release(self) -> None:
        self._closed.unlink()

    def pass_through(self) -> None:
        """Called by the job."""
        if self._closed.exists():
            self._arrived.touch()
        while self._closed.exists():
            time.sleep(POLL_S)
