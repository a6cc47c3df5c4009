"""Text of others, as completions and a server's errors are, for a terminal, a log or a page."""

from __future__ import annotations


def printable(text: str, but: str = "") -> str:
    """`text` on one line; what does not print is shown as its escape, unless it is one of the characters `but`."""
    return "".join(c if c.isprintable() or c in but else repr(c)[1:-1] for c in text)
