"""Lines of text for whoever reads them: a person at a terminal, a log, another program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

from rich.console import Console


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read is gone. The command goes on, which rich itself would end, and prints to nobody."""
        give_up(sys.stdout)


def print_lines(lines: Iterable[str]) -> None:
    """Each as it is, however long. What the encoding of stdout lacks, as completions and names may, is escaped.

    Raises:
        OSError: stdout takes no more, on a full disk say.
    """
    console = _Stdout()
    for line in lines:
        encodable = line.encode(console.encoding, "backslashreplace").decode(console.encoding)
        console.print(encodable, soft_wrap=True, markup=False, highlight=False)


def tell(lines: Iterable[str]) -> None:
    """The same, for what a job says beside its work: where stdout takes no more, it goes on without."""
    try:
        print_lines(lines)
    except OSError:
        give_up(sys.stdout)


def give_up(stream: TextIO) -> None:
    """From now on it takes everything and shows nothing. Else Python, at its end, would fail for what is left in it."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # text in memory is no file
        os.dup2(nowhere.fileno(), stream.fileno())
