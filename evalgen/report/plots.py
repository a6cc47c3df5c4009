"""The pictures of the report, drawn by matplotlib. Each comes with its numbers, for whoever reads rather than looks.

They are narrow, so that they can be read on a phone; several stand side by side where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, NullFormatter, PercentFormatter
from matplotlib.typing import LineStyleType

from evalgen.printable import printable
from evalgen.report.comparison import Family, Named
from evalgen.report.figures import shown
from evalgen.report.svg import INK, LINE, MUTED, PAPER, SERIES, Drawing

Item = TypeVar("Item")
WIDTH_IN = 4.2
ROW_IN = 0.46
MAX_ROWS = 16  # of one picture; its table has all
MAX_LABEL_CHARS = 42
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture, what it says, and its numbers."""

    title: str
    caption: str
    svg: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the first cell names the row


def rates_plot(drawing: Drawing, datasets: Sequence[Named]) -> Plot:
    """Equivalent completions, by distinct completion and by draw."""
    picked = evenly([named for named in datasets if _has_rates(named)])
    with drawing.style():
        figure, axes = _rows_figure([named.label for named in picked])
        for place, named in enumerate(picked):
            figures = named.dataset.figures
            unique, draws = figures["equivalence_rate"], figures["draw_equivalence_rate"]
            axes.plot([unique, draws], [place, place], color=MUTED, linewidth=1.2, zorder=2)
            axes.plot(unique, place, "o", color=SERIES[0], markersize=7, zorder=3)
            axes.plot(draws, place, "D", color=SERIES[1], markerfacecolor=PAPER, markeredgewidth=1.6, zorder=4)
        _percent_axis(axes)
        add_legend(
            figure, [("o", SERIES[0], SERIES[0], "per distinct completion"), ("D", SERIES[1], PAPER, "per draw")]
        )
        svg = drawing.svg(figure, "Share of equivalent completions of each dataset; the numbers follow as a table.")
    return Plot(
        title="Equivalent, counted two ways",
        caption="Of what was graded: each distinct completion once, and each draw once." + _of(picked, datasets),
        svg=svg,
        head=("Dataset", "per distinct completion", "per draw"),
        rows=tuple(
            (
                named.label,
                shown(named.dataset.figures["equivalence_rate"], "percent"),
                shown(named.dataset.figures["draw_equivalence_rate"], "percent"),
            )
            for named in picked
        ),
    )


def savings_plot(drawing: Drawing, datasets: Sequence[Named]) -> Plot:
    """Draws against the model's evaluations: what sharing prefixes saved."""
    picked = evenly([named for named in datasets if _was_sampled(named)])
    counts = [(named.dataset.figures["model_evaluations"], named.dataset.figures["num_draws"]) for named in picked]
    with drawing.style():
        figure, axes = _rows_figure([named.label for named in picked])
        for place, (evaluations, draws) in enumerate(counts):
            axes.plot([evaluations, draws], [place, place], color=MUTED, linewidth=1.2, zorder=2)
            axes.plot(evaluations, place, "s", color=SERIES[2], markersize=7, zorder=3)
            axes.plot(draws, place, "D", color=SERIES[1], markerfacecolor=PAPER, markeredgewidth=1.6, zorder=4)
        axes.set_xscale("log")
        numbers = [number for pair in counts for number in pair]
        low, high = math.floor(math.log10(min(numbers))), math.ceil(math.log10(max(numbers)) + 0.001)
        axes.set_xlim(10**low * 0.8, 10**high * 1.25)
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:,.0f}") if high <= 7 else LogFormatterSciNotation()
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(False, which="minor")
        legend = [("s", SERIES[2], SERIES[2], "model evaluations"), ("D", SERIES[1], PAPER, "draws")]
        add_legend(figure, legend)
        svg = drawing.svg(figure, "Draws and model evaluations of each dataset; the numbers follow as a table.")
    return Plot(
        title="What the prefix tree saved",
        caption="An evaluation is one token of one sequence through the model; drawn one by one, a completion takes "
        "as many as it has tokens." + _of(picked, datasets),
        svg=svg,
        head=("Dataset", "draws", "model evaluations"),
        rows=tuple(
            (named.label, f"{draws:,}", f"{evaluations:,}")
            for named, (evaluations, draws) in zip(picked, counts, strict=True)
        ),
    )


def prompts_plot(drawing: Drawing, family: Family) -> Plot | None:
    """Each prompt's equivalent share, dataset by dataset; None where no share is known."""
    members = _compared(family)
    shares = [
        {row["prompt_id"]: row["equivalent_draw_share"] for row in named.dataset.first_prompts} for named in members
    ]
    prompts = {row["prompt_id"]: row["prompt"] for named in members for row in named.dataset.first_prompts}
    ids = [key for key in prompts if any(share.get(key) is not None for share in shares)][:MAX_ROWS]
    if not ids:
        return None
    with drawing.style():
        figure, axes = _rows_figure([" ".join(prompts[key].split())[-MAX_LABEL_CHARS:] for key in ids])
        for place, key in enumerate(ids):
            known = [share[key] for share in shares if share.get(key) is not None]
            axes.plot([min(known), max(known)], [place, place], color=MUTED, linewidth=1.2, zorder=2)
            for number, share in enumerate(shares):
                if share.get(key) is not None:
                    # One over the other where they are equal, so the later ones are smaller.
                    size = 9 - number
                    axes.plot(share[key], place, MARKERS[number], color=SERIES[number], markersize=size, zorder=3)
        _percent_axis(axes)
        add_legend(
            figure, [(MARKERS[n], SERIES[n], SERIES[n], named.label) for n, named in enumerate(members)], columns=1
        )
        svg = drawing.svg(figure, "Equivalent share of each prompt's draws by dataset; the numbers follow as a table.")
    more = "" if len(ids) == len(prompts) < MAX_ROWS else f" The first {len(ids)} prompts."
    return Plot(
        title="Prompt by prompt",
        caption=f"Equivalent share of each prompt's graded draws.{more}{_of(members, family.members)}",
        svg=svg,
        head=("Prompt", *(named.label for named in members)),
        rows=tuple((prompts[key], *(shown(share.get(key), "percent") for share in shares)) for key in ids),
    )


def _compared(family: Family) -> list[Named]:
    """The last checkpoint of each run, or where there is but one run its first and its last."""
    if len(family.series) == 1:
        members = family.series[0].members
        return [members[0], members[-1]]
    return evenly([series.members[-1] for series in family.series], len(MARKERS))


def _rows_figure(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """One row a label, from the top down, with the label above its line: names are long and phones are narrow."""
    figure = Figure(figsize=(WIDTH_IN, 0.75 + ROW_IN * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(len(labels) - 0.5, -0.8)
    axes.set_yticks([])
    axes.grid(True, axis="x")
    for place, label in enumerate(labels):
        axes.axhline(place, color=LINE, linewidth=0.7, zorder=1)
        text = printable(shortened(label, MAX_LABEL_CHARS))
        axes.text(
            0,
            place - 0.36,
            text,
            transform=axes.get_yaxis_transform(),
            fontsize=9,
            color=INK,
            va="center",
            clip_on=False,
        )
    return figure, axes


def add_legend(
    figure: Figure,
    entries: Sequence[tuple[str, str, str, str]],
    columns: int = 2,
    dashes: Sequence[LineStyleType] = (),
) -> None:
    """`entries`: marker, its edge's and its face's colour, and label of each."""
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            markerfacecolor=face,
            markeredgewidth=1.6,
            linestyle=dashes[place] if dashes else "none",
        )
        for place, (marker, colour, face, _) in enumerate(entries)
    ]
    labels = [printable(shortened(label, MAX_LABEL_CHARS)) for *_, label in entries]
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9, handletextpad=0.5)


def _percent_axis(axes: Axes) -> None:
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlim(-0.03, 1.03)


def evenly(items: Sequence[Item], number: int = MAX_ROWS) -> list[Item]:
    """At most `number` of them, the first and the last among these."""
    if len(items) <= number:
        return list(items)
    return [items[round(place * (len(items) - 1) / (number - 1))] for place in range(number)]


def _of(shown_items: Sequence[object], all_items: Sequence[object]) -> str:
    if len(shown_items) == len(all_items):
        return ""
    return f" {len(shown_items)} of {len(all_items)} datasets; the table of statistics has all."


def shortened(text: str, number: int) -> str:
    return text if len(text) <= number else f"{text[: number - 1]}…"


def _has_rates(named: Named) -> bool:
    return named.dataset.figures["equivalence_rate"] is not None


def _was_sampled(named: Named) -> bool:
    return bool(named.dataset.figures["num_draws"] and named.dataset.figures["model_evaluations"])
