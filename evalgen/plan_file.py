"""`plan.json`: the prompts and the judge of each dataset, by which a resumed job is checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evalgen.errors import InputError
from evalgen.grading.grader_digest import grader_digest
from evalgen.job import DatasetPlan

PLAN_FILE = "plan.json"


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
