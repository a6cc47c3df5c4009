"""Reads what the report shows of experiment directories, finished or not.

What is in memory is bounded by what is shown, and by one number a prompt, however many completions there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.dataset_files import PARTIAL, PROMPTS_FILE
from evalgen.dataset_settings import run_configs, settings_of_dataset
from evalgen.errors import InputError
from evalgen.report.records import Questions, ShownDataset, ShownExperiment, ShownPrompt, Spread
from evalgen.report.selection import Votes, first_prompts, listed, shown_prompts
from evalgen.report.votes import read_questions, split_votes

MAX_PROMPTS = 400  # shown on the page, over all its datasets
MAX_DATASETS = 1_000  # of an experiment
FIRST_PROMPTS = 24  # compared side by side
STAMP = re.compile(r"^\d{4}_\d\d_\d\d_\d\d-\d\d-\d\d_[A-Za-z0-9]{5}_(?=.)")  # of a directory's name
MEANS = ("num_unique", "semantic_entropy", "semantic_entropy_lower", "equivalent_mass", "equivalent_draw_share")
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException)


def read_experiments(directories: Sequence[Path]) -> tuple[ShownExperiment, ...]:
    """Of each what is there; a job that was stopped may have no results yet.

    Raises:
        InputError: no experiment, or a file of it cannot be read.
    """
    for directory in directories:
        if not any((directory / name).is_file() for name in ("config.json", "summary.json")):
            raise InputError(
                f"{directory} has neither config.json nor summary.json; give the directory of an experiment"
            )
    summaries = [_json(directory / "summary.json") for directory in directories]
    num_datasets = sum(len(summary["datasets"]) for summary in summaries if summary)
    return tuple(
        _experiment(directory, label, summary, max(1, MAX_PROMPTS // max(1, num_datasets)))
        for directory, label, summary in zip(directories, _labels(directories), summaries, strict=True)
    )


def _experiment(directory: Path, label: str, summary: Mapping[str, Any] | None, max_prompts: int) -> ShownExperiment:
    config = _json(directory / "config.json") or {}
    plan: Mapping[str, Any] = _json(directory / "plan.json") or {}
    graders: list[Mapping[str, Any]] = []
    for planned in plan.values():
        if planned.get("grader") and planned["grader"] not in graders:
            graders.append(planned["grader"])
    questions = _questions(directory / "verdicts" / "0000.parquet", graders)
    entries = list(enumerate(summary["datasets"])) if summary else []
    votes = split_votes(questions)
    runs = run_configs(config)
    return ShownExperiment(
        directory=directory,
        label=label,
        config=config,
        graders=tuple(graders),
        planned={name: planned["num_prompts"] for name, planned in plan.items()},
        summary=summary,
        is_running=(directory / "verdicts" / "journal.jsonl").exists(),
        datasets=tuple(
            replace(
                _dataset(directory, index, figures, plan.get(figures["name"], {}), votes, max_prompts),
                settings=settings_of_dataset(figures, runs),
            )
            for index, figures in entries[:MAX_DATASETS]
        ),
        num_datasets=len(entries),
        questions=questions,
    )


def _dataset(
    experiment: Path, index: int, figures: Mapping[str, Any], plan: Mapping[str, Any], votes: Votes, max_prompts: int
) -> ShownDataset:
    # An older one of the other name may lie beside it: the figures are not of that.
    folder = figures["name"] + (PARTIAL if figures.get("num_missing_prompts") else "")
    directory = experiment / "sampled_eval_datasets" / folder
    is_there = directory.is_dir()
    dataset = ShownDataset(
        index=index,
        figures=figures,
        directory=directory if is_there else None,
        grader=(plan.get("grader") or {}).get("model", ""),
        prompts_digest=plan.get("sha256", ""),
    )
    if not is_there:
        return dataset
    has_prompts = (directory / PROMPTS_FILE).is_file()
    try:
        missing = tuple(listed(directory / "missing.json"))
        shown: tuple[ShownPrompt, ...] = shown_prompts(directory, votes, max_prompts) if has_prompts else ()
        first = first_prompts(directory, FIRST_PROMPTS) if has_prompts else ()
        spread = _spread(directory / PROMPTS_FILE) if has_prompts else None
    except READ_ERRORS as error:
        raise _unreadable(directory, error) from None
    calibration = _json(directory / "grader_calibration.json")
    return replace(dataset, missing=missing, spread=spread, first_prompts=first, shown=shown, calibration=calibration)


def _spread(path: Path) -> Spread:
    columns = [*MEANS, "greedy_verdict", "unseen_mass"]
    table = pq.read_table(path, columns=columns)
    greedy = table["greedy_verdict"]
    graded = greedy.filter(pc.is_in(greedy, value_set=pa.array(["equivalent", "not_equivalent"])))
    return Spread(
        num_prompts=len(table),
        greedy_right_share=pc.mean(pc.equal(graded, "equivalent")).as_py(),
        unseen_mass=pc.mean(table["unseen_mass"]).as_py(),
        **{name: pc.mean(table[name]).as_py() for name in MEANS},
    )


def _questions(path: Path, graders: Sequence[Mapping[str, Any]]) -> Questions | None:
    if not path.is_file():
        return None
    try:
        return read_questions(path, graders)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from None


def _json(path: Path) -> Any:
    """None without a file."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}")


def _labels(directories: Sequence[Path]) -> list[str]:
    """What each experiment was named, and where that is no difference, as much of its path as is one."""
    paths = [directory.resolve() for directory in directories]
    labels = [STAMP.sub("", path.name) for path in paths]
    for length in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        if len(set(labels)) == len(labels):
            break
        labels = [str(Path(*path.parts[-length:])) for path in paths]
    return labels
