"""Reads a JSON list item by item: what is in memory is one of them, and a piece of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK_CHARS = 1 << 20
SPACE = re.compile(r"[ \t\n\r]*")


def json_list(path: Path) -> Iterator[Any]:
    """The items of the list in a file.

    Raises:
        ValueError: it is no JSON list.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        text = _Text(file)
        text.expect("[")
        if text.next() != "]":
            yield text.item()
            while text.next() == ",":
                text.expect(",")
                yield text.item()
        text.expect("]")
        text.expect("")


class _Text:
    """A file, some characters of which are in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._place = 0
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            match = SPACE.match(self._text, self._place)
            assert match is not None  # it matches nothing at all, too
            self._place = match.end()
            if self._place < len(self._text) or not self._read_more():
                return self._text[self._place : self._place + 1]

    def expect(self, character: str) -> None:
        if self.next() != character:
            raise ValueError(f"no JSON list: found {self.next()!r}, expected {character or 'the end'!r}")
        self._place += len(character)

    def item(self) -> Any:
        self.next()
        while True:
            try:
                item, end = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._read_more():
                    raise ValueError(f"no JSON list: {error}") from None
                continue
            # Of a number that goes on in the next piece, what is here may be a number too.
            if self._text[end : end + 1] in (*",] \t\n\r",) or not self._read_more():
                self._place = end
                return item

    def _read_more(self) -> bool:
        more = self._file.read(CHUNK_CHARS)
        self._text, self._place = self._text[self._place :] + more, 0
        return bool(more)
