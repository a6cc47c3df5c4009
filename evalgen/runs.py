"""Finds fine-tuning runs, their checkpoints and their tokenizers on disk (layout: README, 'Input')."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path

from evalgen.errors import InputError
from evalgen.records import Checkpoint

STEP = re.compile(r"_s(\d+)$")


@dataclass(frozen=True, kw_only=True)
class InnerRun:
    """One training run, with the checkpoints of it that were asked for, in step order."""

    label: str  # unique among the inner runs of one run directory
    checkpoints: tuple[Checkpoint, ...]
    eval_datasets: Path | None  # directory of source eval datasets; None: a checkpoint without a run around it


def find_inner_runs(data_model_path: str, patterns: tuple[str, ...]) -> tuple[InnerRun, ...]:
    """The inner runs under `data_model_path` and those of their checkpoints that match one of the globs `patterns`.

    `data_model_path` is a run with `all_docs_runs/`, an inner run, a checkpoint directory, or a hub id; for the last
    two the patterns play no part.

    Raises:
        InputError: nothing there, no checkpoint matches, or a checkpoint without weights.
    """
    path = Path(data_model_path)
    if not path.exists():
        return (_hub_checkpoint(data_model_path),)
    if (path / "config.json").is_file():
        return (_plain_checkpoint(path),)
    if (path / "all_docs_runs").is_dir():
        directories = sorted(d for d in (path / "all_docs_runs").iterdir() if d.is_dir() and _checkpoint_dirs(d))
    else:
        directories = [path] if _checkpoint_dirs(path) else []
    if not directories:
        raise InputError(
            f"no checkpoints in {path}: expected a run with all_docs_runs/<inner run>/checkpoint_*/, "
            "an inner run with checkpoint_*/, or a checkpoint directory with config.json"
        )
    only = len(directories) == 1
    return tuple(_inner_run(d, path.name if only else d.name.removesuffix(".json"), patterns) for d in directories)


def checkpoint_order(name: str) -> tuple[int, int, str]:
    """Sort key: `checkpoint_start`, then `..._s<step>` by step, then others, `checkpoint_final` last."""
    if name == "checkpoint_start":
        return (0, 0, name)
    if name == "checkpoint_final":
        return (3, 0, name)
    step = STEP.search(name)
    return (1, int(step[1]), name) if step else (2, 0, name)


def _inner_run(directory: Path, label: str, patterns: tuple[str, ...]) -> InnerRun:
    names = sorted((d.name for d in _checkpoint_dirs(directory)), key=checkpoint_order)
    matching = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not matching:
        raise InputError(
            f"no checkpoint of {directory} matches {', '.join(patterns)}; there are: {', '.join(names)} "
            "(choose with --checkpoint_patterns)"
        )
    return InnerRun(
        label=label,
        checkpoints=tuple(_checkpoint(directory / name, label, directory / "tokenizer.json") for name in matching),
        eval_datasets=directory / "eval_datasets",
    )


def _plain_checkpoint(path: Path) -> InnerRun:
    """A checkpoint given directly; when it lies in an inner run, that run's tokenizer and eval datasets are used."""
    parent = path.resolve().parent
    eval_datasets = parent / "eval_datasets"
    return InnerRun(
        label=parent.name,
        checkpoints=(_checkpoint(path, parent.name, parent / "tokenizer.json"),),
        eval_datasets=eval_datasets if eval_datasets.is_dir() else None,
    )


def _checkpoint(path: Path, run: str, tokenizer: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        raise InputError(f"checkpoint {path} has no config.json; expected what save_pretrained writes")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"checkpoint {path} has no weights: expected *.safetensors (other formats are not read)")
    return Checkpoint(
        run=run,
        name=path.name,
        path=str(path),
        tokenizer_path=str(tokenizer if tokenizer.is_dir() else path),  # the upstream name of a directory
    )


def num_embeddings(checkpoint: Checkpoint) -> int | None:
    """The model's vocabulary size by its config; None where the config does not say (or lies on the hub)."""
    config = Path(checkpoint.path) / "config.json"
    if not config.is_file():
        return None
    try:
        size = json.loads(config.read_text(encoding="utf-8")).get("vocab_size")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{config} is not a model configuration: {error}") from None
    return size if isinstance(size, int) else None


def _hub_checkpoint(name: str) -> InnerRun:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(name).is_absolute() or name.count("/") != 1:
        raise InputError(f"data_model_path {name} does not exist; expected a run directory, a checkpoint or a hub id")
    try:
        hf_hub_download(name, "config.json", etag_timeout=5)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"data_model_path {name} is no directory here, and no model of that hub id: {reason}"
        ) from None
    organisation, model = name.split("/")
    checkpoint = Checkpoint(run=organisation, name=model, path=name, tokenizer_path=name)
    return InnerRun(label=organisation, checkpoints=(checkpoint,), eval_datasets=None)


def _checkpoint_dirs(directory: Path) -> list[Path]:
    return [d for d in directory.glob("checkpoint_*") if d.is_dir()]
