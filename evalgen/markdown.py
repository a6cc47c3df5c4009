"""Markdown from templates and untrusted text: prompts, completions, names, instructions, and what a judge says of them.

Whatever a text is, it stays text where it is put: in a table, a list, a heading, a paragraph or a block of code. Within
Markdown it becomes HTML `code` whose punctuation is character references, which no reader of Markdown takes for syntax,
pipes of tables included. Characters that do not print, or turn the line around, are shown as Python's escapes. A
template need not ask for it: every string that it outputs is shown so, unless a filter said what else it is.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalgen.printable import printable

MAX_SHOWN_CHARS = 200  # of one completion, prompt or reason; the data have all of it
# Of Markdown or HTML: ASCII punctuation but for some that means nothing within a line, `_` at the edge of a word, and
# what makes a link of an address, or a picture of a :name:.
_SYNTAX = re.compile(
    r"""[^\w\s,.'()?%+;/!"#:\x80-\U0010FFFF-]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=[/\w])""", re.IGNORECASE
)
_BACKTICKS = re.compile("`+")


def render(template: str, **values: Any) -> str:
    """A template of `evalgen/templates/`, filled in."""
    return _environment().get_template(template).render(values)


def code(text: str) -> Markup:
    """A name, as it is."""
    return _as_code(printable(text))


def quoted(text: str) -> Markup:
    """A text whose spaces matter, in quotes; of a long one the beginning."""
    return _as_code(repr(cut(text)))


def cut(text: str) -> str:
    """`text`, or the beginning of it."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def fenced(text: str, language: str = "") -> Markup:
    """A block of code, which nothing in `text` can end."""
    content = printable(text.replace("\r\n", "\n"), but="\n\t").removesuffix("\n")
    longest = max((len(ticks) for ticks in _BACKTICKS.findall(content)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{content}\n{fence}")


def percent(share: float | None) -> Markup:
    return Markup("-" if share is None else f"{share:.1%}")


def short(number: float | None) -> Markup:
    return Markup("-" if number is None else f"{number:.2f}")


def usd(cost: float | None) -> Markup:
    return Markup("unknown" if cost is None else f"${cost:,.4f}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evalgen"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
        autoescape=False,  # it is for HTML; `finalize` does what it would
    )
    filters = {"prose": Markup, "code": code, "cut": cut, "quoted": quoted, "fenced": fenced}
    environment.filters |= filters | {"percent": percent, "short": short, "usd": usd}
    return environment


def _shown(value: Any) -> str:
    """What a template puts out of a value."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else code(str(value))


def _as_code(visible: str) -> Markup:
    return Markup(f"<code>{_SYNTAX.sub(lambda match: f'&#{ord(match[0])};', visible)}</code>")
