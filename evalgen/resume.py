"""What a resumed job may change: nothing that decides its draws, but how many there are, and who judges them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalgen.config_files import read_config_file
from evalgen.errors import ConfigError, InputError

if TYPE_CHECKING:
    from evalgen.job import DatasetPlan

CONFIG_FILE = "config.json"
PLAN_FILE = "plan.json"
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


def plan_record(plans: Sequence[DatasetPlan]) -> dict[str, Any]:
    """Which prompts each dataset is sampled for, as `plan.json` holds it. The files they came from may change."""
    digests: dict[int, str] = {}  # by identity: hundreds of checkpoints may share one large tuple of prompts
    for plan in plans:
        if id(plan.queries) not in digests:
            content = json.dumps([(query.id, query.prompt) for query in plan.queries])
            digests[id(plan.queries)] = hashlib.sha256(content.encode()).hexdigest()
    return {plan.name: {"num_prompts": len(plan.queries), "sha256": digests[id(plan.queries)]} for plan in plans}


def with_graders(record: Mapping[str, Mapping[str, Any]], plans: Sequence[DatasetPlan]) -> dict[str, Any]:
    """A `plan_record` with who judges each dataset, as `plan.json` holds it: instruction files may change too.

    And with the judge's digest: what a judge is told depends on the code as well, which a later version may change.
    """
    from evalgen.grading.grader_digest import grader_digest  # here: who reads a configuration has no use for it

    return {
        plan.name: {
            **record[plan.name],
            "grader": asdict(plan.grader),
            "grader_digest": grader_digest(plan.grader),
        }
        for plan in plans
    }


def check_same_prompts(stored: Mapping[str, Any], wanted: Mapping[str, Any], directory: str) -> None:
    """Both as from `plan_record`; graders make no difference.

    Raises:
        InputError: other datasets, or other prompts for one of them.
    """
    for name in sorted(stored.keys() | wanted.keys()):
        before, now = stored.get(name), wanted.get(name)
        if before and now and all(before[key] == now[key] for key in ("num_prompts", "sha256")):
            continue
        was, is_now = ("none" if it is None else f"{it['num_prompts']} prompts" for it in (before, now))
        same_number = before and now and before["num_prompts"] == now["num_prompts"]
        raise InputError(
            f"resume: {directory} was begun with other prompts: dataset {name} had {was} and now has {is_now}"
            f"{', with other ids or texts' if same_number else ''}. Put the query files back, or start a new experiment"
        )
