"""What is at hand to check a dataset against: its experiment, the run it was sampled from, tokenizer and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalgen.config import JobConfig, RunConfig
from evalgen.dataset_files import PARTIAL
from evalgen.errors import EvalgenError, InputError
from evalgen.experiment import Experiment
from evalgen.load_config import load_config
from evalgen.model_source import ModelSource
from evalgen.queries import collect_queries
from evalgen.records import Checkpoint, Query
from evalgen.resume import CONFIG_FILE
from evalgen.runs import find_inner_runs
from evalgen.tokenization import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a dataset came from by its experiment's config.json, as far as it is still there."""

    settings: RunConfig
    checkpoint: Checkpoint
    queries: tuple[Query, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A dataset directory, and all that there is to hold it against. None: not there, for the reason beside it."""

    directory: Path
    experiment: Experiment | None
    origin: Origin | None
    no_origin: str
    checkpoint: Checkpoint | None
    tokenizer: PreTrainedTokenizerBase | None
    no_tokenizer: str

    @property
    def no_checkpoint(self) -> str:
        return f"no checkpoint: {self.no_origin}; give --checkpoint"

    @property
    def name(self) -> str:
        return self.directory.name.removesuffix(PARTIAL)

    @cached_property
    def outdated(self) -> str:
        """Why settings, judge and figures of the experiment may be those of another dataset; "": they are of this."""
        if self.experiment is None:
            return ""
        if self.experiment.unfinished_mark.exists():
            return "the job has not ended since it was last begun, perhaps with other settings; --resume it first"
        newer = self.directory.with_name(f"{self.name}{PARTIAL}")
        if newer.exists() and newer != self.directory:
            return f"the job has made {newer.name} since, to which settings, judge and figures belong"
        return ""

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The dataset's entry in summary.json; None: it has none, or cannot be read."""
        return None if self.experiment is None else _summary_entry(self.experiment, self.name)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a draw, by the checkpoint where there is one, else by the tokenizer; none without both."""
        candidates = [] if self.checkpoint is None else _eos_of_configs(self.checkpoint.source)
        candidates.append(getattr(self.tokenizer, "eos_token_id", None))
        eos: Any = next((found for found in candidates if found is not None), [])
        return frozenset(eos if isinstance(eos, list) else [eos])


def dataset_directories(path: Path) -> list[Path]:
    """The datasets in a directory: itself, or all those of an experiment.

    Raises:
        InputError: there are none.
    """
    if (path / "eval_dataset").is_dir():
        return [path]
    found = sorted(directory.parent for directory in Experiment(path).datasets.glob("*/eval_dataset"))
    if not found:
        raise InputError(
            f"{path} is neither a dataset (it has no eval_dataset/) nor an experiment with some "
            "(in sampled_eval_datasets/); give a directory that generate_eval_datasets.py wrote"
        )
    return found


def gather(directory: Path, checkpoint: str | None = None, tokenizer: str | None = None) -> Evidence:
    """All that can be found. `checkpoint` and `tokenizer` are paths, in place of those in config.json.

    Raises:
        InputError: one of the two cannot be read.
    """
    experiment = _experiment_of(directory)
    origin, no_origin = _origin(directory, experiment)
    given = None if checkpoint is None else _given_checkpoint(checkpoint)
    found = given or (origin.checkpoint if origin else None)
    tokenizer_path = tokenizer or (found.tokenizer_path if found else None)
    loaded, no_tokenizer = None, f"no tokenizer: {no_origin}; give --tokenizer"
    if tokenizer_path is not None:
        try:
            loaded = load_tokenizer(tokenizer_path)
        except InputError as error:
            if tokenizer or given:
                raise
            no_tokenizer = str(error)
    return Evidence(
        directory=directory,
        experiment=experiment,
        origin=origin,
        no_origin=no_origin,
        checkpoint=found,
        tokenizer=loaded,
        no_tokenizer=no_tokenizer,
    )


def _experiment_of(directory: Path) -> Experiment | None:
    experiment = Experiment(directory.resolve().parent.parent)
    is_one = experiment.datasets == directory.resolve().parent and (experiment.directory / CONFIG_FILE).is_file()
    return experiment if is_one else None


def _origin(directory: Path, experiment: Experiment | None) -> tuple[Origin | None, str]:
    """What config.json says of the dataset, or why nothing is known."""
    if experiment is None:
        return None, f"the dataset does not lie in an experiment with a {CONFIG_FILE}"
    file = experiment.directory / CONFIG_FILE
    try:
        config = load_config([f"--config={file}"], experiment.directory)
        candidates = _candidates(config)
    except EvalgenError as error:
        return None, f"what {file} names is not there any more ({error})"
    name = directory.name.removesuffix(PARTIAL)
    found = [origin for origin in candidates if name in _possible_names(origin)]
    if len(found) != 1:
        return None, f"{file} has {len(found)} datasets that may be called {name}"
    return found[0], ""


def _candidates(config: JobConfig) -> list[Origin]:
    origins = []
    for settings in config.run_configs():
        assert settings.data_model_path is not None  # checked when the configuration was loaded
        for run in find_inner_runs(settings.data_model_path, settings.checkpoint_patterns):
            queries = collect_queries(settings.query_json_path, run.eval_datasets, settings.extract_from_eval_datasets)
            origins += [Origin(settings=settings, checkpoint=it, queries=queries) for it in run.checkpoints]
    return origins


def _possible_names(origin: Origin) -> Sequence[str]:
    """A name with the run in it is taken where the other would stand twice in a job."""
    prefix, checkpoint = origin.settings.output_dataset_prefix, origin.checkpoint
    return (f"{prefix}_{checkpoint.name}", f"{prefix}_{checkpoint.run}_{checkpoint.name}")


def _given_checkpoint(path: str) -> Checkpoint:
    checkpoints = [checkpoint for run in find_inner_runs(path, ("*",)) for checkpoint in run.checkpoints]
    if len(checkpoints) != 1:
        names = ", ".join(checkpoint.name for checkpoint in checkpoints)
        raise InputError(f"checkpoint: {path} has {len(checkpoints)} of them ({names}); give the directory of one")
    return checkpoints[0]


def _summary_entry(experiment: Experiment, name: str) -> dict[str, Any] | None:
    try:
        summary = json.loads((experiment.directory / "summary.json").read_text(encoding="utf-8"))
        return next((entry for entry in summary["datasets"] if entry["name"] == name), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _eos_of_configs(source: ModelSource) -> list[Any]:
    """Of the generation config, then of the model's; None where it does not say."""
    from transformers import AutoConfig, GenerationConfig  # here: it takes seconds

    found = []
    for config_class in (GenerationConfig, AutoConfig):
        try:
            config: Any = config_class.from_pretrained(source.name, revision=source.revision)
        except (OSError, ValueError):
            continue
        found.append(getattr(config, "eos_token_id", None))
    return found
