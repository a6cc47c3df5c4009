"""Which datasets are to be held against each other, over runs, checkpoints and experiments: those of the same prompts
that were sampled alike.

Of a run with several checkpoints these are a series, in the order of its steps.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from evalgen.records import SamplingLaw
from evalgen.report.records import ShownDataset, ShownExperiment
from evalgen.runs import checkpoint_order

_STAMPED_CODE = re.compile(r"\d{4}_\d\d_\d\d_\d\d-\d\d-\d\d_[A-Za-z0-9]{5}_")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A dataset under the short name that the page has for it."""

    experiment: ShownExperiment
    dataset: ShownDataset
    label: str  # unique on the page


@dataclass(frozen=True, kw_only=True)
class Series:
    """The datasets of one run's checkpoints, in step order."""

    label: str
    members: tuple[Named, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Datasets of the same prompts, sampled by the same law and equally often."""

    number: int  # from 1
    series: tuple[Series, ...]

    @property
    def how(self) -> str:
        """They were sampled: what of it differs most often."""
        settings = self.members[0].dataset.settings
        assert settings is not None
        law = f"temperature {settings.temperature:g}" if settings.do_sample else "greedy"
        return f"{law}, {'enumerated' if settings.enumerates else f'{settings.num_generations:,} draws'}"

    @property
    def members(self) -> list[Named]:
        return [named for series in self.series for named in series.members]

    @property
    def is_sweep(self) -> bool:
        """Some run has several checkpoints, which can be joined by a line."""
        return any(len(series.members) > 1 for series in self.series)


def named_datasets(experiments: Sequence[ShownExperiment]) -> list[Named]:
    """Every dataset of the page, in order."""
    pairs = [(experiment, dataset) for experiment in experiments for dataset in experiment.datasets]
    prefix = len(experiments) > 1
    full = [f"{e.label} · {d.name}" if prefix else d.name for e, d in pairs]
    short = [f"{e.label} · {name}" if prefix else name for (e, _), name in zip(pairs, _short(pairs), strict=True)]
    labels = short if len(set(short)) == len(short) else full
    return [Named(experiment=e, dataset=d, label=label) for (e, d), label in zip(pairs, labels, strict=True)]


def families(datasets: Sequence[Named]) -> list[Family]:
    """Those groups that have more than one dataset; only datasets whose spread and settings are known.

    What an entropy or an equivalent share means depends on the law, and what is seen at all on the number of draws.
    """
    groups: dict[tuple[str, SamplingLaw, int | float | None], list[Named]] = defaultdict(list)
    for named in datasets:
        dataset = named.dataset
        if dataset.spread is not None and dataset.settings is not None and dataset.prompts_digest:
            settings = dataset.settings
            extent = settings.min_probability if settings.enumerates else settings.num_generations
            groups[dataset.prompts_digest, settings.law, extent].append(named)
    compared = [group for group in groups.values() if len(group) > 1]
    return [Family(number=number, series=_series(group)) for number, group in enumerate(compared, 1)]


def _series(group: Sequence[Named]) -> tuple[Series, ...]:
    by_run: dict[tuple[str, str, str], list[Named]] = defaultdict(list)
    for named in group:
        figures = named.dataset.figures
        prefix = named.dataset.name.removesuffix(f"_{figures['checkpoint']}")
        by_run[(str(named.experiment.directory), prefix, figures["run"])].append(named)
    series = []
    for members in by_run.values():
        members.sort(key=lambda named: checkpoint_order(named.dataset.figures["checkpoint"]))
        label = members[0].label
        if len(members) > 1:
            label = label.removesuffix(checkpoint_label(members[0])).rstrip("_·- ") or members[0].dataset.figures["run"]
        series.append(Series(label=label, members=tuple(members)))
    return tuple(series)


def checkpoint_label(named: Named) -> str:
    return str(named.dataset.figures["checkpoint"]).removeprefix("checkpoint_")


def _short(pairs: Sequence[tuple[ShownExperiment, ShownDataset]]) -> list[str]:
    """Names without what all have in common, without run stamps, and without a repetition that these leave."""
    names = [_STAMPED_CODE.sub("", dataset.name) for _, dataset in pairs]
    names = [re.sub(r"^(.+?)_\1(?=_)", r"\1", name).replace("_checkpoint_", "_") for name in names]
    names = [name.removeprefix("sampled_") or name for name in names]
    if len(set(names)) < 2:
        return names
    parts = [name.split("_") for name in names]
    suffix = sum(
        1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*(part[::-1] for part in parts), strict=False))
    )
    cut = ["_".join(part[: len(part) - suffix]) for part in parts]
    return cut if all(cut) and max(Counter(cut).values()) == 1 else names
