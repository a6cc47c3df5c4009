"""Append-only files of records that notice damage: a line each, `<crc32 of the JSON, in hex> <JSON>`.

A kill tears at most the last line, and a bad disk damages single ones. Those are passed over; all others are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalgen.files import durable_file, sync

Record = dict[str, Any]


class Journal:
    """Appends to one file, and reads single lines of it. For one process at a time."""

    def __init__(self, path: Path) -> None:
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._reader = path.open("rb")
        if is_new:
            sync(path.parent)

    def append(self, records: Sequence[Mapping[str, Any]]) -> list[int]:
        """Adds records, durable when this returns; returns the place (in bytes) of each one's line.

        Raises:
            OSError: none of them was added, and the journal is as it was.
        """
        end = os.fstat(self._descriptor).st_size
        # What a kill tore stays a line of its own.
        content = bytearray(b"\n" if end and os.pread(self._descriptor, 1, end - 1) != b"\n" else b"")
        places = []
        for record in records:
            places.append(end + len(content))
            content += _line(record)
        try:
            _write_all(self._descriptor, content)
            os.fsync(self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):  # else half a line stays behind, as after a kill
                os.ftruncate(self._descriptor, end)
            raise
        return places

    def read(self, place: int) -> Record | None:
        """The record whose line begins at byte `place`; None: it was damaged since."""
        self._reader.seek(place)
        return _parsed(self._reader.readline())

    def close(self) -> None:
        self._reader.close()
        os.close(self._descriptor)


def journal_lines(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Every line's place (in bytes) and record, one at a time; None for a damaged one. No file: no lines."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        place = 0
        for line in file:
            yield place, _parsed(line)
            place += len(line)


def read_journal(path: Path) -> tuple[list[Record], int]:
    """The intact records in the order in which they were added, and the number of damaged lines."""
    records = [record for _, record in journal_lines(path)]
    intact = [record for record in records if record is not None]
    return intact, len(records) - len(intact)


def rewrite_journal(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Puts other records in place of all lines, the damaged ones included. No `Journal` may be open."""
    with durable_file(path) as file:
        file.writelines(map(_line, records))


def _line(record: Mapping[str, Any]) -> bytes:
    content = json.dumps(record).encode()  # ASCII, and no newline: both are escaped
    return b"%s %s\n" % (_checksum(content), content)


def _parsed(line: bytes) -> Record | None:
    checksum, _, content = line.removesuffix(b"\n").partition(b" ")
    if checksum != _checksum(content):
        return None
    try:
        record = json.loads(content)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _write_all(descriptor: int, content: bytearray) -> None:
    unwritten = memoryview(content)
    while unwritten:
        unwritten = unwritten[os.write(descriptor, unwritten) :]
