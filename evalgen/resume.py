"""What a resumed job may change: nothing that decides its draws, but how many there are, and who judges them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evalgen.config_files import read_config_file
from evalgen.errors import ConfigError

CONFIG_FILE = "config.json"
# How a job is run, what it is judged by, and how its rows are put together.
MAY_CHANGE = frozenset(
    (
        "deduplicate",
        "exclusive",
        "execution_mode",
        "generation_batch_size",
        "grader_config_path",
        "grader_model",
        "grader_pack_size",
        "grader_votes",
        "input_tokens_per_minute",
        "kv_budget_gib",
        "logging_type",
        "max_connections",
        "max_grading_cost_usd",
        "max_outage_minutes",
        "num_gpus_per_replica",
        "num_replicas",
        "output_tokens_per_minute",
        "prices_path",
        "push_to_hub",
        "quiet",
        "requests_per_minute",
        "use_grader_cache",
        "wandb_project",
    )
)
MAY_RISE = "num_generations"


def stored_settings(directory: str) -> dict[str, Any]:
    """The settings of the job whose experiment directory this is.

    Raises:
        ConfigError: it is none.
    """
    if not (Path(directory) / CONFIG_FILE).is_file():
        raise ConfigError(f"resume: {directory} has no {CONFIG_FILE}; give the directory of an experiment")
    return read_config_file(str(Path(directory) / CONFIG_FILE))


def check_resumable(stored: dict[str, Any], wanted: dict[str, Any], directory: str) -> None:
    """Both are whole jobs as `config.json` has them, the shared settings of their runs filled in.

    Raises:
        ConfigError: a setting differs that decides the draws; the line shows every such difference.
    """
    pairs = [("", stored, wanted)]
    if len(stored["runs"]) == len(wanted["runs"]):
        runs = zip(stored["runs"], wanted["runs"], strict=True)
        pairs += [(f"runs[{index}].", before, now) for index, (before, now) in enumerate(runs)]
    else:
        pairs.append(("", {"runs": len(stored["runs"])}, {"runs": len(wanted["runs"])}))
    changed = [
        f"{where}{name} was {json.dumps(before.get(name))} and is now {json.dumps(now.get(name))}"
        for where, before, now in pairs
        for name in sorted(before.keys() | now.keys())
        if _is_refused(name, before.get(name), now.get(name))
    ]
    if changed:
        raise ConfigError(
            f"resume: {directory} was sampled with other settings: {'; '.join(changed)}. Give the old ones, or start a "
            "new experiment without --resume"
        )


def _is_refused(name: str, before: Any, now: Any) -> bool:
    if name in MAY_CHANGE or before == now:
        return False
    if name == "runs" and isinstance(before, list):
        return False  # compared one by one
    return not (name == MAY_RISE and None not in (before, now) and now > before)
