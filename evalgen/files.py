"""Writes files and directories so that a kill at any instant leaves the old content or the new, never a part.

What is being written has a temporary name, and loses it when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

WRITING = ".writing"
REPLACED = ".replaced"  # an older directory, while the newer one takes its place
DAMAGED = ".damaged"  # kept for whoever wants to know what happened to it
_encode_row = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",\n    ", ": ")).encode


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A file to fill, which gets the name `path` only when the block ends without an error; durable then."""
    writing = _named(path, WRITING)
    try:
        with writing.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a disk that is full, what is of no use takes no room
            writing.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """`content` at `path`, durable when this returns."""
    with durable_file(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON at `path`, durable when this returns; never the whole text in memory."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False)
    with durable_file(path) as file:
        for part in encoder.iterencode(content):
            file.write(part.encode())
        file.write(b"\n")


def parquet_bytes(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which gets the name `path` only when the block ends without an error; durable then.

    An older directory of that name is replaced. A kill between the two renames that this takes leaves none under the
    name, and the older one as `.replaced`.
    """
    writing, replaced = _named(path, WRITING), _named(path, REPLACED)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        yield writing
        _sync_tree(writing)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.rename(replaced)
    writing.rename(path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


class JsonListWriter:
    """A JSON list of flat objects, written row by row in the form of `json.dumps(rows, indent=2)`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._file.write("[")
        self.num_rows = 0

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._file.write(",\n" if self.num_rows else "\n")
            # Indented by hand: with `indent` json takes its slow path, and there may be a million rows.
            self._file.write(f"  {{\n    {_encode_row(row)[1:-1]}\n  }}")
            self.num_rows += 1

    def __enter__(self) -> JsonListWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.write("\n]\n" if self.num_rows else "]\n")


def sha256_of(path: Path) -> str:
    """Of a file's content, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path) -> None:
    """Renames a damaged file, so that nothing reads it any more."""
    path.replace(_named(path, DAMAGED))
    sync(path.parent)


def remove_unfinished(directory: Path, files: str = "*") -> None:
    """Removes what a kill left of writes to `files` in `directory`. Nobody may be writing any of them."""
    for path in directory.glob(f"{files}{WRITING}"):
        path.unlink()


def sync(path: Path) -> None:
    """Makes the content of a file durable, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        sync(path)


def _named(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
