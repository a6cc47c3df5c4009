"""Writes `report.html`: everything in one file, which asks for nothing and opens anywhere.

Its security policy allows the one style sheet and the one script that stand in it, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evalgen.files import write_text
from evalgen.printable import printable
from evalgen.report.comparison import Named, families, named_datasets
from evalgen.report.data import read_experiments
from evalgen.report.embedded import embedded
from evalgen.report.figures import figure, number, shown
from evalgen.report.plots import prompts_plot, rates_plot, savings_plot
from evalgen.report.records import ShownExperiment
from evalgen.report.svg import Drawing
from evalgen.report.sweeps import sweep_plots

TEMPLATES = "templates/report"
MAX_SPLIT_SHOWN = 60  # questions whose votes were split, of an experiment
MAX_VARIATIONS = 2_000  # rows of the tables of variations, over the page
MAX_TEXT_CHARS = 300
# Endings of timings that are within those of a stage, and what they are.
WITHIN_A_STAGE = {"_all_replicas": "summed over the replicas", "_first_replica": "until it asked for work"}
# Settings that say what was sampled, in the order in which they are shown.
SETTINGS = (
    *("output_dataset_prefix", "num_generations", "temperature", "top_p", "top_k", "min_p", "do_sample"),
    *("max_new_tokens", "stop_strings", "seed", "sampler", "min_probability", "deduplicate", "exclusive", "dtype"),
    *("grader_model", "grader_votes", "grader_pack_size"),
)


def write_report(experiments: Sequence[Path], path: Path) -> Path:
    """The report of one experiment directory, or of several side by side, at `path`, whole or not at all.

    Raises:
        InputError: no experiment, or a file of it cannot be read.
    """
    write_text(path, report_html(read_experiments(experiments)))
    return path


def report_html(experiments: Sequence[ShownExperiment]) -> str:
    """The page. Equal experiments make equal pages."""
    datasets = named_datasets(experiments)
    drawing = Drawing()
    data = embedded(datasets)
    content = {
        "experiments": experiments,
        "datasets": datasets,
        "overview_plots": [
            *([rates_plot(drawing, datasets)] if any(_is_graded(named) for named in datasets) else []),
            *([savings_plot(drawing, datasets)] if any(_was_drawn(named) for named in datasets) else []),
        ],
        "families": [
            (
                family,
                [*sweep_plots(drawing, family), prompts_plot(drawing, family)]
                if family.is_sweep
                else [prompts_plot(drawing, family)],
            )
            for family in families(datasets)
        ],
        "variations": _variations(experiments),
        "settings": {experiment.label: _settings(experiment.config) for experiment in experiments},
        "embedded": data,
    }
    style = Markup(_source("style.css") + drawing.rules())
    script = Markup(_source("script.js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template("page.html.jinja").render(style=style, script=script, policy=policy, **content)


def _variations(experiments: Sequence[ShownExperiment]) -> Mapping[tuple[str, int], list[int]]:
    """By experiment and dataset the places in `prompts` of summary.json that are listed, most variations first."""
    places: dict[tuple[str, int], list[int]] = {}
    for experiment in experiments:
        by_name: dict[str, list[int]] = {}
        for place, row in enumerate(experiment.summary["prompts"] if experiment.summary else []):
            by_name.setdefault(row["dataset"], []).append(place)
        for dataset in experiment.datasets:
            places[experiment.label, dataset.index] = by_name.get(dataset.name, [])
    number_each = max(3, min(100, MAX_VARIATIONS // max(1, len(places))))
    for experiment in experiments:
        for dataset in experiment.datasets:
            assert experiment.summary is not None
            rows = experiment.summary["prompts"]
            of_dataset = places[experiment.label, dataset.index]
            of_dataset.sort(key=lambda place: -rows[place]["num_variations"])
            del of_dataset[number_each:]
    return places


def _settings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that say what was sampled: the ones that all runs of the job have in common, then of each run its own."""
    runs = [
        {key: (config | run)[key] for key in SETTINGS if (config | run).get(key) is not None}
        for run in config.get("runs") or [{}]
    ]
    common = {key: value for key, value in runs[0].items() if all(run.get(key) == value for run in runs)}
    own = [{key: value for key, value in run.items() if key not in common} for run in runs]
    return [common, *(run for place, run in enumerate(own) if run and run not in own[:place])]


def _is_graded(named: Named) -> bool:
    return named.dataset.figures["equivalence_rate"] is not None


def _was_drawn(named: Named) -> bool:
    return bool(named.dataset.figures["num_draws"] and named.dataset.figures["model_evaluations"])


def _source(name: str) -> str:
    return (files("evalgen") / TEMPLATES / name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evalgen", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"figure": figure, "number": number, "max_split": MAX_SPLIT_SHOWN}
    environment.filters |= {
        "text": _text,
        "name": _name,
        "shown": shown,
        "bar": _bar,
        "visible": printable,
        "stages": _stages,
    }
    return environment


def _text(text: str, but: str = "", limit: int = MAX_TEXT_CHARS) -> Markup:
    """A text of the data as HTML: it cannot turn the line around, hide anything or be anything but text."""
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return Markup("<bdi>{}</bdi>").format(printable(cut, but))


def _name(text: str) -> Markup:
    """A long name, which may be broken where it has an underscore."""
    return Markup("<bdi>{}</bdi>").format(Markup("_<wbr>").join(printable(text).split("_")))


def _bar(share: float | None, kind: str = "") -> Markup:
    """A horizontal bar that fills a share of its line, beside the number that it shows."""
    width = 0.0 if share is None else 100 * min(1.0, max(0.0, share))
    return Markup(
        '<svg class="bar {}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="10"/><rect class="fill" width="{:.2f}" height="10"/></svg>'
    ).format(kind, width)


def _stages(timings: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Key, name for people, and what it is within a stage ("" if it is one), of every timing but the total."""
    stages = []
    for key in timings:
        within = next((meaning for ending, meaning in WITHIN_A_STAGE.items() if key.endswith(ending)), "")
        if key != "total":
            stages.append((key, key.removesuffix("_all_replicas").replace("_", " "), within))
    return stages
