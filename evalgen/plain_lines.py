"""Lines of text for whoever reads them: a person at a terminal, a log, another program."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console


def print_lines(lines: Iterable[str]) -> None:
    """Each as it is, however long. What the encoding of stdout lacks, as completions and names may, is escaped."""
    console = Console()
    for line in lines:
        encodable = line.encode(console.encoding, "backslashreplace").decode(console.encoding)
        console.print(encodable, soft_wrap=True, markup=False, highlight=False)
