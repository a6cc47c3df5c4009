"""Finds fine-tuning runs, their checkpoints and their tokenizers on disk (layout: README, 'Input')."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from evalgen.errors import InputError
from evalgen.model_source import ModelSource
from evalgen.records import Checkpoint
from evalgen.rotations import rotation_changes

log = logging.getLogger(__name__)

STEP = re.compile(r"_s(\d+)$")
RUN_CODE = re.compile(r"\d{4}_\d\d_\d\d_\d\d-\d\d-\d\d_([A-Za-z0-9]{5})_")  # <stamp>_<code>_<name>


@dataclass(frozen=True, kw_only=True)
class InnerRun:
    """One training run, with the checkpoints of it that were asked for, in step order."""

    label: str  # unique among the inner runs of one run directory
    checkpoints: tuple[Checkpoint, ...]
    eval_datasets: Path | None  # directory of source eval datasets; None: a checkpoint without a run around it


def find_inner_runs(data_model_path: str, patterns: tuple[str, ...]) -> tuple[InnerRun, ...]:
    """The inner runs under `data_model_path` and those of their checkpoints that match one of the globs `patterns`.

    `data_model_path` is a run with `all_docs_runs/`, an inner run, a checkpoint directory, or a hub id; for the last
    two the patterns play no part. A hub id may have `@` and a branch, tag or commit behind it; the checkpoint has the
    commit that this is now.

    Raises:
        InputError: nothing there, no checkpoint matches, or a checkpoint without weights.
    """
    path = Path(data_model_path)
    if not path.exists():
        return (_hub_checkpoint(data_model_path),)
    if (path / "sampled_eval_datasets").is_dir():
        raise InputError(f"{path} is an experiment that evalgen wrote; give the fine-tuning run that it sampled")
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
    labels = _labels(path, directories)
    return tuple(_inner_run(d, label, patterns) for d, label in zip(directories, labels, strict=True))


def checkpoint_order(name: str) -> tuple[int, int, str]:
    """Sort key: `checkpoint_start`, then `..._s<step>` by step, then others, `checkpoint_final` last."""
    if name == "checkpoint_start":
        return (0, 0, name)
    if name == "checkpoint_final":
        return (3, 0, name)
    step = STEP.search(name)
    return (1, int(step[1]), name) if step else (2, 0, name)


def _labels(run: Path, directories: list[Path]) -> list[str]:
    """The run's name; with several inner runs, the code of each behind it, or its whole name if it has no code."""
    if len(directories) == 1:
        return [run.resolve().name]
    codes = [match[1] for d in directories if (match := RUN_CODE.match(d.name))]
    if len(set(codes)) < len(directories):
        codes = [d.name.removesuffix(".json") for d in directories]
    return [f"{run.resolve().name}_{code}" for code in codes]


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
    parent = directory_of_checkpoint(path)
    eval_datasets = parent / "eval_datasets"
    return InnerRun(
        label=parent.name,
        checkpoints=(_checkpoint(path, parent.name, parent / "tokenizer.json"),),
        eval_datasets=eval_datasets if eval_datasets.is_dir() else None,
    )


def directory_of_checkpoint(path: Path) -> Path:
    """Where a checkpoint lies; for a link from nowhere in a run, where that leads to."""
    if any((path.parent / name).is_dir() for name in ("tokenizer.json", "eval_datasets")):
        return path.parent
    return path.resolve().parent


def _checkpoint(path: Path, run: str, tokenizer: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        raise InputError(f"checkpoint {path} has no config.json; expected what save_pretrained writes")
    if not any(path.glob("*.safetensors")):
        raise InputError(f"checkpoint {path} has no weights: expected *.safetensors (other formats are not read)")
    for file in path.glob("*.safetensors"):
        _check_whole(file)
    return Checkpoint(
        run=run,
        name=path.name,
        path=str(path),
        tokenizer_path=str(tokenizer if tokenizer.is_dir() else path),  # the upstream name of a directory
    )


def _check_whole(file: Path) -> None:
    """Reads the header alone: it says how long the file must be."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {file} are damaged or not whole: {error}; copy the checkpoint again") from None


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a checkpoint's config says of the ids and lengths it takes; None where it does not say."""

    vocabulary: int | None
    positions: int | None
    rotation_changes: tuple[int, ...]  # see `rotations`


def positions_at_a_glance(checkpoint: Checkpoint) -> int | None:
    """As `model_size` has them, without the library that knows every model; None: that one may know more."""
    try:
        config = json.loads((Path(checkpoint.source.name) / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    positions = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return positions if isinstance(positions, int) else None


def model_size(checkpoint: Checkpoint) -> ModelSize:
    """Reads the checkpoint's config.

    Raises:
        InputError: the config is unreadable, or of a model that transformers does not know.
    """
    from transformers import AutoConfig

    source = checkpoint.source
    try:
        config = AutoConfig.from_pretrained(source.name, revision=source.revision, trust_remote_code=False)
        text_config = config.get_text_config()
    except Exception as error:  # by what is wrong: OSError, ValueError, KeyError, TypeError, validation errors
        reason = " ".join(str(error).split())
        raise InputError(f"checkpoint {checkpoint.path} has no usable config.json: {reason}") from None
    sizes = (getattr(text_config, name, None) for name in ("vocab_size", "max_position_embeddings"))
    vocabulary, positions = (size if isinstance(size, int) else None for size in sizes)
    return ModelSize(vocabulary=vocabulary, positions=positions, rotation_changes=rotation_changes(config))


def _hub_checkpoint(hub_id: str) -> InnerRun:
    name, _, revision = hub_id.partition("@")
    if Path(name).is_absolute() or name.count("/") != 1:
        raise InputError(f"data_model_path {hub_id} does not exist; expected a run directory, a checkpoint or a hub id")
    try:
        config = _config_on_hub(name, revision or None)
    except _HubNotReached as error:
        raise InputError(
            f"data_model_path {hub_id} is no directory here, nor a model that was read from the Hub before, and the "
            f"Hub is not reached: {_in_one_line(error)}; give the path of one that is there, or mend the network"
        ) from None
    except Exception as error:  # of any type, by what keeps the client from the Hub
        raise InputError(
            f"data_model_path {hub_id} is no directory here, and no model of that hub id: {_in_one_line(error)}"
        ) from None
    organisation, model = name.split("/")
    path = f"{name}@{config.parent.name}"  # the client names the directory of a snapshot by its commit
    checkpoint = Checkpoint(run=organisation, name=model, path=path, tokenizer_path=path)
    assert checkpoint.source.commit, f"no commit: {config}"
    return InnerRun(label=organisation, checkpoints=(checkpoint,), eval_datasets=None)


def _config_on_hub(name: str, revision: str | None) -> Path:
    """A model's config.json in the cache of the Hub's client, of the commit that `revision` is now.

    Raises:
        _HubNotReached: no connection to it, and the cache does not have the file.
        Exception: of any other type, whatever the client raises.
    """
    import httpx2
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    file = "config.json"
    download = partial(hf_hub_download, name, file, revision=revision)
    if ModelSource.of(f"{name}@{revision}").commit is not None:
        with suppress(LocalEntryNotFoundError):
            return Path(download(local_files_only=True))
    try:
        # Once: `hf_hub_download` tries for half a minute to connect, and nothing that can be set makes it try less.
        # Whoever mistyped a directory would wait for that. All but connecting is left to it and its patience.
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        try:
            return Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            raise _HubNotReached(str(error) or type(error).__name__) from None
    except Exception as error:  # of any type: offline mode, no such model, an answer that takes long
        log.info("%s of %s on the Hub: %s", file, name, _in_one_line(error))
    return Path(download())


class _HubNotReached(Exception):
    """There is no connection."""


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _checkpoint_dirs(directory: Path) -> list[Path]:
    return [d for d in directory.glob("checkpoint_*") if d.is_dir()]
