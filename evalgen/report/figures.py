"""Figures of `summary.json` on the page: each says where it is from, so that a reader or a test can look it up.

A place is a path such as `datasets[0].num_draws` or `timings.total`. With `[*]` it is the sum over the list, after
`known`, `min` or `max` the sum, least or greatest of what is known of it; ` / ` between two places is their quotient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

Number = int | float | None  # None: not defined, or not known
_PLACE = re.compile(r"(?:(known|min|max) )?(\w+)(?:\[(\d+|\*)\])?\.(\w+)")


def evaluate(summary: Mapping[str, Any], place: str) -> Number:
    """What `summary` has in a place. A sum with an unknown part is unknown."""
    if " / " in place:
        part, whole = (evaluate(summary, operand) for operand in place.split(" / "))
        return None if part is None or not whole else part / whole
    match = _PLACE.fullmatch(place)
    assert match, place
    function, group, index, name = match.groups()
    if index is None:
        return _number(summary[group].get(name))
    if index != "*":
        return _number(summary[group][int(index)].get(name))
    values = [_number(entry.get(name)) for entry in summary[group]]
    known = [value for value in values if value is not None]
    if function in ("min", "max"):
        return (min if function == "min" else max)(known, default=None)
    return sum(known) if known and (function or len(known) == len(values)) else None


def figure(summary: Mapping[str, Any], place: str, form: str) -> Markup:
    """The figure as HTML. `form`: count, percent, usd, seconds, ratio or number."""
    value = evaluate(summary, place)
    raw = "" if value is None else repr(value)
    return Markup('<data class="num" value="{}" data-figure="{}">{}</data>').format(raw, place, shown(value, form))


def number(value: Number, form: str, source: str) -> Markup:
    """A figure that summary.json does not have, with the file that it was made from."""
    raw = "" if value is None else repr(value)
    return Markup('<data class="num" value="{}" data-source="{}">{}</data>').format(raw, source, shown(value, form))


def shown(value: Number, form: str) -> str:
    """The value for people; a dash where there is none."""
    if value is None:
        return "unknown" if form == "usd" else "–"
    match form:
        case "count":
            return f"{value:,.0f}" if isinstance(value, int) else f"{value:,.1f}"
        case "percent":
            return f"{value:.1%}"
        case "usd":
            return f"${value:,.2f}" if value >= 100 else f"${value:,.4f}"
        case "seconds":
            return _duration(value)
        case "ratio":
            return f"{value:,.1f}"
        case "number":
            return f"{value:.3f}"
    raise AssertionError(form)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _number(value: Any) -> Number:
    return value if isinstance(value, int | float) else None
