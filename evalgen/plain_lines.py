"""Lines of text for whoever reads them: a person at a terminal, a log, another program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from rich.console import Console


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read is gone. The command goes on, which rich itself would end, and prints to nobody."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_lines(lines: Iterable[str]) -> None:
    """Each as it is, however long. What the encoding of stdout lacks, as completions and names may, is escaped."""
    console = _Stdout()
    for line in lines:
        encodable = line.encode(console.encoding, "backslashreplace").decode(console.encoding)
        console.print(encodable, soft_wrap=True, markup=False, highlight=False)
