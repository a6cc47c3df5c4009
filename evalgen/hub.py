"""Uploads the datasets of an experiment to the Hugging Face Hub: one repository, private where it is made.

What goes there is what a reader there needs: the card, the Parquet files of rows, rejects and prompts, and the small
JSON files about what was left out and how well the judge was calibrated. `eval_functions.pkl` stays here, because the
Hub flags every pickle and only `EvalDataset` reads it; so do the Arrow copy of the rows, which `load_dataset` does not
read, and the rejects as JSON. One dataset is the repository itself; several are folders of it, each with configurations
of its own, under a card that lists them. A dataset with prompts missing is not uploaded.

The client of the Hub does the work: it finds the token, retries what is worth it, and resumes an upload that was cut
off.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from evalgen.dataset_files import CALIBRATION_FILE, CARD_FILE, LEFT_OUT_FILE, PROMPTS_FILE, REJECTS_FILE, ROWS_FILES
from evalgen.errors import ConfigError
from evalgen.experiment import Experiment
from evalgen.markdown import render
from evalgen.printable import printable

log = logging.getLogger(__name__)

UPLOADED = (CARD_FILE, ROWS_FILES, PROMPTS_FILE, REJECTS_FILE, LEFT_OUT_FILE, CALIBRATION_FILE)
MAX_REASON_CHARS = 300


def check_can_push(repo_id: str) -> None:
    """To be asked before anything is sampled. Nothing is made on the Hub.

    A Hub that cannot be reached now may be back when the datasets are there: that is a warning.

    Raises:
        ConfigError: no token, one that the Hub refuses or that may only read, or no name of a repository.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"push_to_hub: {repo_id!r} is no name of a repository: {reason_of(error)}") from None
    if not get_token():
        raise ConfigError("push_to_hub: there is no token for the Hub; run `hf auth login`, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("push_to_hub: HF_HUB_OFFLINE is set, and nothing can be uploaded; unset it")
    try:
        user = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ConfigError(f"push_to_hub: the Hub refuses the token: {reason_of(error)}") from None
        log.warning("push_to_hub: the Hub does not say whose token this is (%s)", reason_of(error))
    except Exception as error:  # of any type, by what keeps the client from the Hub
        log.warning(
            "push_to_hub: cannot reach the Hub (%s); it is tried again once there are datasets", reason_of(error)
        )
    else:
        if _role(user) == "read":
            raise ConfigError("push_to_hub: the token may only read; make one that may write")


def push_or_warn(experiment: Experiment, repo_id: str) -> str | None:
    """As `push_datasets`, for a job whose datasets are written: it must not seem to have failed. None: not pushed."""
    try:
        url = push_datasets(experiment, repo_id)
    except Exception as error:  # of any type, by what keeps the client from the Hub
        command = shlex.join(["python", "ray_jobs/push_dataset.py", str(experiment.directory), "--to", repo_id])
        log.warning(
            "not pushed to the Hub: %s. The datasets are here all the same; later: %s", reason_of(error), command
        )
        return None
    log.info("pushed to %s", url)
    return url


def push_datasets(experiment: Experiment, repo_id: str) -> str:
    """Uploads the experiment's whole datasets; returns the repository's address.

    The repository is made, private, if there is none. Of what an earlier push put in the same places, what is not there
    any more is deleted; the repository's history has it.

    Raises:
        ConfigError: nothing to upload, or a dataset without a card.
        HfHubHTTPError, OSError, ValueError, ...: the Hub refused, or could not be reached.
    """
    datasets = _whole_datasets(experiment)
    folders = _folders([dataset["name"] for dataset in datasets])
    api = HfApi()
    repository = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
    with TemporaryDirectory(prefix="evalgen-push-") as staged:
        for dataset, folder in zip(datasets, folders, strict=True):
            _link(experiment.datasets / dataset["name"], Path(staged, folder))
        if len(datasets) > 1:
            card = _repository_card(experiment, datasets, folders)
            Path(staged, CARD_FILE).write_text(card, encoding="utf-8")
        api.upload_folder(
            repo_id=repository.repo_id,
            repo_type="dataset",
            folder_path=staged,
            delete_patterns=[folder + pattern for folder in folders for pattern in UPLOADED],
            commit_message=f"Datasets of {experiment.directory.name}",
        )
    return str(repository)


def _repository_card(experiment: Experiment, datasets: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> str:
    """The card above several datasets, in as many folders: their figures, and what the Hub calls their files."""
    from evalgen.card import card_head, configs  # here, so that who may not push does not wait for it

    entries = [
        {**dataset, "folder": folder, "configs": configs(_has_rejects(experiment, dataset), folder.rstrip("/"), folder)}
        for dataset, folder in zip(datasets, folders, strict=True)
    ]
    name, num_rows = experiment.directory.name, sum(dataset["num_items"] for dataset in datasets)
    head = card_head(printable(name), num_rows, [config for entry in entries for config in entry["configs"]])
    return head + render("repository.md.jinja", experiment=name, datasets=entries)


def _has_rejects(experiment: Experiment, dataset: Mapping[str, Any]) -> bool:
    return bool(pq.read_metadata(experiment.datasets / dataset["name"] / REJECTS_FILE).num_rows)


def _whole_datasets(experiment: Experiment) -> list[dict[str, Any]]:
    """Their entries in `summary.json`."""
    summary = json.loads((experiment.directory / "summary.json").read_text(encoding="utf-8"))
    whole: list[dict[str, Any]] = []
    for figures in summary["datasets"]:
        card = experiment.datasets / figures["name"] / CARD_FILE
        if figures["num_missing_prompts"]:
            log.warning("%s is not pushed: prompts are missing; go on with --resume first", figures["name"])
        elif not card.is_file():
            raise ConfigError(
                f"there is no {card}; go on with the experiment once, which samples nothing and writes it: "
                f"generate_eval_datasets.py --resume {experiment.directory}"
            )
        else:
            whole.append(figures)
    if not whole:
        raise ConfigError(f"{experiment.directory} has no dataset without missing prompts: there is nothing to push")
    return whole


def _folders(names: Sequence[str]) -> list[str]:
    """Where in the repository each dataset goes; of several, in a folder whose name is fit for the Hub, and unique."""
    if len(names) == 1:
        return [""]
    folders: list[str] = []
    for name in names:
        folder = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
        while f"{folder}/" in folders:
            folder += "_"
        folders.append(f"{folder}/")
    return folders


def _link(dataset: Path, target: Path) -> None:
    """What is uploaded of a dataset, as links in `target`."""
    for pattern in UPLOADED:
        for file in dataset.glob(pattern):
            link = target / file.relative_to(dataset)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())


def _role(user: Any) -> str | None:
    """What the token may do, where the Hub says so: read, write or fineGrained."""
    auth = user.get("auth")
    access = auth.get("accessToken") if isinstance(auth, dict) else None
    return access.get("role") if isinstance(access, dict) else None


def reason_of(error: Exception) -> str:
    """The error in a line. The queries of addresses are left out: some are signed, and let whoever has them upload."""
    text = re.sub(r"\?\S+", "?…", " ".join(str(error).split()) or type(error).__name__)
    if (token := get_token()) is not None:
        text = text.replace(token, "…")
    return text[:MAX_REASON_CHARS]
