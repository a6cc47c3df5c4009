"""What bad disks do to files, and full ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 16 << 20
BALLAST = "ballast"


def truncate(path: Path) -> None:
    """The second half is gone."""
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """One bit in the middle is another."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of its own at `directory`, of a few megabytes.

    Raises:
        CalledProcessError: this user may not mount.
    """
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "evalgen-faults", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill_disk(directory: Path) -> None:
    """Until not a byte is left."""
    with (directory / BALLAST).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def empty_disk(directory: Path) -> None:
    (directory / BALLAST).unlink()
