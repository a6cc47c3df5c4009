"""What a reader sees of Markdown: rendered by a real renderer, and taken apart again."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

from markdown_it import MarkdownIt


class Rendered(HTMLParser):
    """A page: its tags, and the text of every element of some kinds, in order."""

    def __init__(self, markdown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {tag: [] for tag in ("code", "pre", "h1", "h2", "h3", "td", "th", "li", "p")}
        self.row_lengths: list[int] = []
        self._open: list[str] = []
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))
        assert not self._open, f"{self._open} never ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        if tag in ("hr", "br", "img"):
            return
        self._open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")
        if tag == "tr":
            self.row_lengths.append(0)
        if tag in ("td", "th"):
            self.row_lengths[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} ended, but was not the innermost"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open) & self.texts.keys():
            self.texts[tag][-1] += data
