"""`REPORT.md`: the document that people wrote by hand about such datasets, written by the program from its own results.

Section by section what the seed document has, for one experiment or for several, from nothing but their files.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.card_columns import columns
from evalgen.config import RunConfig
from evalgen.markdown import render
from evalgen.records import GraderSpec
from evalgen.resume import CONFIG_FILE
from evalgen.seed_report_facts import ReportedDataset, ReportedExperiment
from evalgen.seed_report_issues import happenings
from evalgen.verdict_table import VERDICTS_FILE

REPORT_FILE = "REPORT.md"
SHOWN_PROMPTS = 50  # of a dataset; its prompts.parquet has all
STAMP = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)-(\d\d)-(\d\d)_")
# What identifies a dataset rather than describing how it was made, or is shown elsewhere.
NO_PARAMETERS = {"data_model_path", "output_dataset_prefix", "grader_config_path"}


@dataclass(frozen=True, kw_only=True)
class OwnParameters:
    """What is not the same for all datasets, for those that share it."""

    datasets: tuple[ReportedDataset, ...]
    values: Mapping[str, Any]


def seed_report(*directories: Path) -> str:
    """The report on the experiments in `directories`.

    Raises:
        InputError: one of them is no experiment, or its job has not ended.
    """
    experiments = [ReportedExperiment.of_directory(directory) for directory in directories]
    datasets = [dataset for experiment in experiments for dataset in experiment.datasets]
    common, own = split_parameters(datasets)
    return render(
        "seed_report.md.jinja",
        version=version("evalgen"),
        dates=sorted({date for directory in directories if (date := _date(directory))}),
        experiments=experiments,
        datasets=datasets,
        graders=_graders(datasets),
        common=common,
        own=own,
        unknown=[dataset for dataset in datasets if dataset.settings is None],
        commands=_commands(experiments),
        files=_files(datasets[0].directory) if datasets else [],
        columns=columns(),
        happenings=[(experiment, happenings(experiment)) for experiment in experiments],
        num_from_cache=sum(map(_num_from_cache, directories)),
        total={
            name: _sum([dataset.figures[name] for dataset in datasets])
            for name in ("api_calls", "input_tokens", "output_tokens", "cost_usd", "num_graded", "num_draws")
        },
        num_reencoded=sum(dataset.figures["num_reencoded"] for dataset in datasets),
        is_offline=all(dataset.grader.is_offline for dataset in datasets),
        shown_prompts=SHOWN_PROMPTS,
        loading=_loading(datasets[0].directory) if datasets else "",
    )


def split_parameters(datasets: Sequence[ReportedDataset]) -> tuple[dict[str, Any], list[OwnParameters]]:
    """The parameters that all datasets have in common, and those that differ, by who shares them.

    Nothing is said of datasets whose settings are not known.
    """
    datasets = [dataset for dataset in datasets if dataset.settings is not None]
    parameters = [_parameters(dataset) for dataset in datasets]
    common = {
        name: value
        for name, value in (parameters[0] if parameters else {}).items()
        if all(other[name] == value for other in parameters)
    }
    groups: dict[str, list[int]] = {}
    for number, values in enumerate(parameters):
        own = {name: value for name, value in values.items() if name not in common}
        groups.setdefault(json.dumps(own), []).append(number)
    return common, [
        OwnParameters(datasets=tuple(datasets[number] for number in numbers), values=json.loads(own))
        for own, numbers in groups.items()
        if own != "{}"
    ]


def command_of(settings: RunConfig, experiment_name: str) -> list[str]:
    """The command that makes the datasets of one run, as its flags; those that are as by default are left out."""
    flags = [f"--experiment_name={experiment_name}"]
    for name, field in RunConfig.model_fields.items():
        value = getattr(settings, name)
        if value == field.default:
            continue
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, bool | tuple) else str(value)
        flags.append(f"--{name}={text}")
    return flags


def _parameters(dataset: ReportedDataset) -> dict[str, Any]:
    assert dataset.settings is not None, dataset.name
    values = dataset.settings.model_dump(mode="json", exclude=NO_PARAMETERS) | dict(dataset.job_settings)
    return {name: _as_text(value) for name, value in values.items()}


def _as_text(value: Any) -> Any:
    """A parameter as a report shows it; numbers stay numbers."""
    if isinstance(value, list):
        return ", ".join(map(str, value) if all(str(it).isprintable() for it in value) else map(repr, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else value


def _graders(datasets: Sequence[ReportedDataset]) -> list[dict[str, Any]]:
    """Each judge with its instructions once, as the file that it was read from, and whose it is."""
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        path = dataset.settings.grader_config_path if dataset.settings is not None else ""  # "": not known
        entry = found.setdefault(
            json.dumps([path, _grader_file(dataset.grader)]),
            {"path": path, "content": _grader_file(dataset.grader), "datasets": []},
        )
        entry["datasets"].append(dataset)
    return list(found.values())


def _grader_file(grader: GraderSpec) -> str:
    content: dict[str, Any] = {"grader_instructions": grader.instructions}
    if grader.options:
        content["offline_options"] = dict(grader.options)
    return json.dumps(content, indent=2, ensure_ascii=False)


def _commands(experiments: Sequence[ReportedExperiment]) -> str:
    """For each experiment the command that does all of it again, then one for each of its runs."""
    commands: dict[str, None] = {}
    for experiment in experiments:
        again = ["python", "ray_jobs/generate_eval_datasets.py", "--config", str(experiment.directory / CONFIG_FILE)]
        commands[f"# All of it again\n{shlex.join(again)}"] = None
        name = STAMP.sub("", experiment.directory.name, count=1).partition("_")[2] or experiment.directory.name
        for dataset in experiment.datasets:
            if dataset.settings is None:
                continue
            flags = [f"  {shlex.quote(flag)}" for flag in command_of(dataset.settings, name)]
            lines = ["python ray_jobs/generate_eval_datasets.py", *flags]
            commands[" \\\n".join(lines)] = None
    return "\n\n".join(commands)


def _files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _loading(directory: Path) -> str:
    return f"""from pathlib import Path

from evalgen.eval_dataset import EvalDataset

# Load a dataset
ds = EvalDataset.load(Path({json.dumps(str(directory), ensure_ascii=False)}))

print(f"Total items: {{len(ds.dataset)}}")
print(f"Columns: {{ds.dataset.column_names}}")

# Access individual items
for item in ds.dataset.select(range(min(5, len(ds.dataset)))):
    print(f"Prompt: {{item['prompt']}}")
    print(f"Completion: {{item['completion']}}")"""


def _num_from_cache(directory: Path) -> int:
    path = directory / "verdicts" / VERDICTS_FILE
    return pc.sum(pq.read_table(path, columns=["from_cache"])["from_cache"]).as_py() or 0 if path.exists() else 0


def _date(directory: Path) -> str | None:
    """The day in the experiment directory's name."""
    stamp = STAMP.match(directory.name)
    return "-".join(stamp.groups()[:3]) if stamp else None


def _sum(numbers: Sequence[float | None]) -> float | None:
    """None if one of them is not known."""
    return None if None in numbers else sum(number for number in numbers if number is not None)
