"""Reads a job from its command line and its files, and checks all of it that needs no look at runs or queries.

Flags win over the file, and the file over what an experiment that is resumed has stored.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalgen.command_line import parse_flags
from evalgen.config import JobConfig, RunConfig, validated
from evalgen.config_files import absolute_path, check_writable, read_config_file, without_tilde
from evalgen.errors import ConfigError
from evalgen.resume import check_resumable, stored_settings

MIN_TEMPERATURE = 0.001  # below, logits overflow, and nothing but the greedy completion is drawn
INPUT_PATH_KEYS = ("data_model_path", "query_json_path", "grader_config_path", "prices_path")


def load_config(argv: Sequence[str], root: Path) -> JobConfig:
    """The job that `argv` (without the program's name) describes, every path absolute.

    `--help` prints the flags and exits. Relative input paths that do not exist from here are taken from `root`, and so
    is the output directory always.

    Raises:
        ConfigError: unknown flag or key, value out of range, unreadable configuration file.
    """
    flags = parse_flags(argv, JobConfig, "generate_eval_datasets.py")
    _check_typed_stop_strings(flags.get("stop_strings", ()))
    settings = read_config_file(absolute_path(str(flags["config"]), root)) if "config" in flags else {}
    if "resume" not in flags:
        return _checked_config(settings, flags, root)
    directory = absolute_path(str(flags["resume"]), root)
    stored = stored_settings(directory)
    config = _checked_config({**stored, **settings}, flags | {"resume": directory}, root)
    before = _checked_config(stored, {}, root)
    check_resumable(_with_whole_runs(before), _with_whole_runs(config), directory)
    return config


def check_can_write(config: JobConfig) -> None:
    """Whether the job can write where it is to: beside the checks of its input, for what else finds out imports first.

    Not a part of `load_config`, by which jobs are read whose directory nobody may write any more.

    Raises:
        ConfigError: it cannot.
    """
    if config.resume is not None:
        check_writable(Path(config.resume), "resume", "go on with a copy of the experiment")
    else:
        check_writable(Path(config.output_dir), "output_dir", "give another --output_dir")


def _with_whole_runs(config: JobConfig) -> dict[str, Any]:
    """The job as JSON values in which every run has all of its settings, and only the runs have them."""
    shared = {key: value for key, value in config.resolved().items() if key not in RunConfig.model_fields}
    return shared | {"runs": [run.model_dump(mode="json") for run in config.run_configs()]}


def _checked_config(settings: dict[str, Any], flags: dict[str, str | list[str]], root: Path) -> JobConfig:
    """The job of a file's `settings`, overridden by `flags`."""
    runs = settings.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(f"runs: expected a list of mappings in the configuration, found {type(runs).__name__}")
    overridden = flags.keys() & RunConfig.model_fields.keys()
    runs = [{key: value for key, value in run.items() if key not in overridden} for run in runs]
    settings = {**settings, **flags, "runs": runs}
    for mapping in (settings, *runs):
        for key in INPUT_PATH_KEYS:
            if isinstance(mapping.get(key), str):
                mapping[key] = absolute_path(mapping[key], root, may_be_hub_id=key == "data_model_path")
    output_dir = settings.get("output_dir", "outputs")
    if isinstance(output_dir, str):
        # Never from the working directory, which may be a copy that goes with the job.
        settings["output_dir"] = os.path.abspath(root / without_tilde(output_dir))
    config = validated(JobConfig, settings, "")
    for run in config.run_configs():
        _check_run(run)
    for mapping in (*config.runs, config.model_dump(exclude={"runs"})):
        _check_text(mapping)
    if config.logging_type == "wandb" and not config.wandb_project:
        raise ConfigError("wandb_project: --logging_type wandb needs it; give --wandb_project NAME")
    if config.logging_type == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging_type: wandb is not installed; pip install 'evalgen[wandb]', or --logging_type disk")
    return config


def _check_text(settings: dict[str, Any]) -> None:
    """A file's name may be any bytes, and config.json holds text alone."""
    for key, value in settings.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{key}: found {value!r}, which is not UTF-8; rename the file") from None


def _check_run(run: RunConfig) -> None:
    if run.data_model_path is None:
        raise ConfigError("data_model_path: missing; give --data_model_path RUN_DIRECTORY, or --config with `runs`")
    if run.do_sample and run.temperature < MIN_TEMPERATURE:
        raise ConfigError(
            f"temperature: found {run.temperature} with sampling on, expected at least {MIN_TEMPERATURE}; "
            "for the greedy completion give --do_sample false"
        )
    if run.exclusive and not run.deduplicate:
        raise ConfigError(
            "exclusive: found true with --deduplicate false, under which draws of one completion are rows that contain "
            "each other; give one of the two"
        )
    if run.enumerates:
        _check_enumeration(run)
    elif run.min_probability is not None:
        raise ConfigError(
            f"min_probability: found {run.min_probability} with --sampler {run.sampler}, which draws completions "
            "however improbable; leave it out (for one of several runs, min_probability: null), or give "
            "--sampler enumerate"
        )


def _check_enumeration(run: RunConfig) -> None:
    if run.min_probability is None:
        raise ConfigError("min_probability: missing; --sampler enumerate needs it, e.g. --min_probability 0.001")
    if not run.do_sample:
        raise ConfigError(
            "do_sample: found false with --sampler enumerate, which has nothing to enumerate but the greedy "
            "completion; for that one give --sampler tree"
        )
    if not run.deduplicate:
        raise ConfigError(
            "deduplicate: found false with --sampler enumerate, which has no draws to give a row each; leave it out"
        )


def _check_typed_stop_strings(typed: Sequence[str]) -> None:
    """A shell passes \\n on as two characters, which no completion has: the job would run and never stop one."""
    for value in typed:
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            # [1] may be a stop string; a list with strings in it was meant as a list.
            if isinstance(parsed, list) and any(isinstance(item, str) for item in parsed):
                raise ConfigError(f"stop_strings: found {value}, a JSON list with other things; expected strings alone")
        if escape := re.search(r"\\[nrt]", value):
            as_json = json.dumps([value], ensure_ascii=False).replace("\\\\", "\\")
            raise ConfigError(
                f"stop_strings: found {value}, in which {escape[0]} is a backslash and a letter; for the character "
                f"give a JSON list, --stop_strings '{as_json}', and for the two as they are a --config file"
            )
