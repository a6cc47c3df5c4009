"""How a distribution sharpens over the checkpoints of a run: a picture for each measure, a line for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import LineStyleType

from evalgen.report.comparison import Family, Named, Series, checkpoint_label
from evalgen.report.figures import shown
from evalgen.report.plots import MARKERS, WIDTH_IN, Plot, add_legend, evenly, shortened
from evalgen.report.records import Spread
from evalgen.report.svg import SERIES, Drawing
from evalgen.runs import checkpoint_order

DASHES: tuple[LineStyleType, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 2)), (0, (3, 1, 1, 1)))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is followed over the checkpoints of a run."""

    title: str
    caption: str
    form: str  # of evalgen.report.figures
    value: Callable[[Spread], float | None]
    lower: Callable[[Spread], float | None] | None = None  # where `value` is an upper bound


MEASURES = (
    Measure(
        title="Distinct completions a prompt",
        caption="How many different answers its draws gave, mean over the prompts.",
        form="number",
        value=lambda spread: spread.num_unique,
    ),
    Measure(
        title="Semantic entropy",
        caption="In nats, mean over the prompts; the band is from the lower to the upper bound. 0: one meaning only.",
        form="number",
        value=lambda spread: spread.semantic_entropy,
        lower=lambda spread: spread.semantic_entropy_lower,
    ),
    Measure(
        title="Equivalent probability at T=1",
        caption="Probability of the equivalent completions that were seen, mean over the prompts.",
        form="percent",
        value=lambda spread: spread.equivalent_mass,
    ),
    Measure(
        title="Greedy completion is right",
        caption="Of the prompts whose most probable path was judged: the share where it is equivalent.",
        form="percent",
        value=lambda spread: spread.greedy_right_share,
    ),
)


def sweep_plots(drawing: Drawing, family: Family) -> list[Plot]:
    """Each measure over the checkpoints, a line a run."""
    series = evenly([each for each in family.series if len(each.members) > 1], len(SERIES))
    names = list(dict.fromkeys(checkpoint_label(named) for each in series for named in each.members))
    names.sort(key=lambda name: checkpoint_order(f"checkpoint_{name}"))
    return [_sweep_plot(drawing, series, names, measure) for measure in MEASURES]


def _sweep_plot(drawing: Drawing, series: Sequence[Series], names: Sequence[str], measure: Measure) -> Plot:
    with drawing.style():
        figure = Figure(figsize=(WIDTH_IN, 2.3 + 0.22 * len(series)), layout="constrained")
        axes = figure.add_subplot()
        for number, each in enumerate(series):
            _draw_line(axes, each, names, measure, number)
        ticks = evenly(range(len(names)), 6)
        axes.set_xticks(list(ticks), [shortened(names[tick], 10) for tick in ticks])
        axes.set_xlim(-0.3, len(names) - 0.7)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if measure.form == "percent" and axes.get_ylim()[1] > 0.4:
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        if measure.form == "percent":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}%"))
        axes.grid(False, axis="x")
        add_legend(figure, [(MARKERS[n], SERIES[n], SERIES[n], each.label) for n, each in enumerate(series)], 1, DASHES)
        label = f"{measure.title} over {len(names)} checkpoints; the numbers follow as a table."
        svg = drawing.svg(figure, label)
    return Plot(
        title=measure.title,
        caption=measure.caption,
        svg=svg,
        head=("Checkpoint", *(each.label for each in series)),
        rows=tuple((name, *(_cell(each, name, measure) for each in series)) for name in names),
    )


def _draw_line(axes: Axes, series: Series, names: Sequence[str], measure: Measure, number: int) -> None:
    points = [(names.index(checkpoint_label(named)), _spread(named)) for named in series.members]
    known = [(x, spread) for x, spread in points if measure.value(spread) is not None]
    values: list[Any] = [measure.value(spread) for _, spread in known]  # none is None
    places = [x for x, _ in known]
    colour = SERIES[number]
    axes.plot(
        places, values, color=colour, linestyle=DASHES[number], marker=MARKERS[number], markersize=5, clip_on=False
    )
    if measure.lower is not None:
        lower: list[Any] = [measure.lower(spread) for _, spread in known]
        axes.fill_between(places, lower, values, color=colour, alpha=0.18, linewidth=0)


def _cell(series: Series, name: str, measure: Measure) -> str:
    spreads = [_spread(named) for named in series.members if checkpoint_label(named) == name]
    if not spreads:
        return "–"
    value = shown(measure.value(spreads[0]), measure.form)
    return value if measure.lower is None else f"{shown(measure.lower(spreads[0]), measure.form)} to {value}"


def _spread(named: Named) -> Spread:
    assert named.dataset.spread is not None, named.label
    return named.dataset.spread
