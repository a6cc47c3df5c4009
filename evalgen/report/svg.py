"""Matplotlib figures as SVG that belongs into a page: its text stays text, and its colours are those of the page.

Colours are drawn as stand-ins, which become CSS variables, so that one picture serves the light and the dark theme.
Styles become classes, because the page's security policy allows no style attribute. Equal figures are equal text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")  # the page has as many
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "evalgen",
    "text.parse_math": False,  # labels come from data
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
}


class Drawing:
    """The pictures of a page, and the rules of style that they share."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}  # of a declaration
        self._num_pictures = 0

    @contextmanager
    def style(self) -> Iterator[None]:
        """A block in which figures are made and drawn in the page's style."""
        with rc_context(_RC), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts have it
            yield

    def svg(self, figure: Figure, label: str) -> Markup:
        """`figure` as an element of HTML, for readers who see it and, as its `label`, for those who do not."""
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        # By ourselves just now, so no hostile XML.
        root = ElementTree.fromstring(buffer.getvalue())
        self._num_pictures += 1
        self._clean(root)
        root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label, "class": "plot"}
        return Markup(ElementTree.tostring(root, encoding="unicode"))

    def rules(self) -> str:
        """The style sheet of all pictures so far."""
        return "".join(f".{name}{{{declaration}}}\n" for declaration, name in self._classes.items())

    def _clean(self, root: ElementTree.Element) -> None:
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                    parent.remove(child)
        used = {value.split("#")[1].rstrip(")") for element in root.iter() for value in _references(element)}
        for element in root.iter():
            element.tag = element.tag.removeprefix(f"{{{SVG}}}")  # HTML knows it without
            if element.attrib.get("id") not in used:
                element.attrib.pop("id", None)
            for name in ("id", "clip-path", XLINK):
                if name in element.attrib:
                    element.attrib[name] = self._own(element.attrib[name])
            if XLINK in element.attrib:
                element.attrib["href"] = element.attrib.pop(XLINK)
            if declaration := element.attrib.pop("style", None):
                element.attrib["class"] = self._class(declaration)

    def _own(self, reference: str) -> str:
        """An id, or a reference to one, that no other picture of the page has."""
        before, hash_mark, name = reference.rpartition("#")
        return f"{before}{hash_mark}p{self._num_pictures}-{name}"

    def _class(self, declaration: str) -> str:
        declaration = re.sub(r"#[0-9a-f]{6}", lambda match: f"var(--{VARIABLES[match[0]]})", declaration)
        # The page's own font, in the size that was laid out.
        declaration = re.sub(r"font: (?:[\w-]+ )*([\d.]+px)[^;]*", r"font-size: \1", declaration)
        return self._classes.setdefault(declaration, f"s{len(self._classes)}")


def _references(element: ElementTree.Element) -> list[str]:
    return [element.attrib[name] for name in ("clip-path", XLINK) if name in element.attrib]
