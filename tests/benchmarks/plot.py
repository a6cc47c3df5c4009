"""Draws a report: seconds against the number of draws, and seconds in each regime of most engines.

    python plot.py <results.json> <picture.png>

Runs in the tools' environment, which has matplotlib, and so reads the JSON by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Cell = dict[str, Any]
COLOURS = {
    "tree": "#1b7837",
    "enumerate": "#7fbf7b",
    "independent": "#999999",
    "generate_2": "#b2182b",
    "generate_10": "#ef8a62",
    "vllm": "#2166ac",
    "ctranslate2": "#8073ac",
    "llama_cpp": "#e08214",
}
LINES = ("-", "--", ":", "-.", (0, (1, 3)))


def draw_curves(axes: Axes, cells: list[Cell]) -> None:
    """A line for each engine and law that was measured at several numbers of draws."""
    short = [c for c in cells if c["regime"]["checkpoint"] == "demo" and not c["regime"]["prompt_tokens"]]
    lines: dict[tuple[str, float, int], list[tuple[int, float]]] = {}
    for cell in short:
        regime = cell["regime"]
        key = (cell["engine"], regime["temperature"], regime["max_new_tokens"])
        lines.setdefault(key, []).append((regime["num_draws"], cell["seconds"]))
    lines = {key: sorted(points) for key, points in lines.items() if len(points) > 1}
    laws = sorted({key[1:] for key in lines})
    for (engine, *law), points in lines.items():
        style = LINES[laws.index(tuple(law)) % len(LINES)]
        axes.plot(*zip(*points, strict=True), color=COLOURS[engine], linestyle=style, marker="o", markersize=3)
    for engine in dict.fromkeys(key[0] for key in lines):
        axes.plot([], [], color=COLOURS[engine], label=engine)
    for place, (temperature, tokens) in enumerate(laws):
        label = f"T={temperature:g} x {tokens} tokens"
        axes.plot([], [], color="black", linestyle=LINES[place % len(LINES)], label=label)
    axes.set(xscale="log", yscale="log", xlabel="draws of each prompt", ylabel="seconds", title="demo, 10 prompts")
    axes.grid(which="major", alpha=0.3)
    if lines:
        axes.legend(fontsize=8)


def draw_bars(axes: Axes, cells: list[Cell]) -> None:
    """Regimes in which peers were measured too: a group of bars each."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(title_of(cell["regime"]), []).append(cell)
    groups = {title: group for title, group in groups.items() if any(c["engine"] == "vllm" for c in group)}
    place, ticks = 0.0, []
    for title, group in groups.items():
        ticks.append((place + (len(group) - 1) / 2, title))
        for cell in sorted(group, key=lambda c: list(COLOURS).index(c["engine"])):
            axes.barh(place, cell["seconds"], color=COLOURS[cell["engine"]])
            over = "> " if cell["status"] == "over_time" else ""
            axes.text(cell["seconds"], place, f" {over}{cell['seconds']:.3g}", va="center", fontsize=6)
            place += 1
        place += 1
    axes.set_yticks([where for where, _ in ticks], [title for _, title in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds", title="every engine")
    axes.margins(x=0.15)
    for engine in COLOURS:
        if any(cell["engine"] == engine for group in groups.values() for cell in group):
            axes.barh(0, 0, color=COLOURS[engine], label=engine)
    if groups:
        axes.legend(fontsize=7, loc="upper right")


def title_of(regime: Cell) -> str:
    prompts = f"{regime['num_prompts']} prompt{'s' if regime['num_prompts'] > 1 else ''}"
    few_shot = f" of {regime['prompt_tokens']} tokens" if regime["prompt_tokens"] else ""
    law = f"T={regime['temperature']:g} x {regime['max_new_tokens']}"
    return f"{regime['checkpoint']}, {law}\n{prompts}{few_shot} x {regime['num_draws']:,}"


def main() -> None:
    results, picture = map(Path, sys.argv[1:])
    cells = [cell for cell in json.loads(results.read_text())["outcomes"] if cell["seconds"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 8), layout="constrained")
    draw_curves(left, [cell for cell in cells if cell["status"] == "done"])
    draw_bars(right, cells)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
