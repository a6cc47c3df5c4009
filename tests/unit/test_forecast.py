"""What a job may cost: the bound holds for the dearest replies to the longest completions, however they are packed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalgen.forecast import MOST_CHARS_OF_A_TOKEN, forecast
from evalgen.grading.messages import MAX_ASKS, MOST_BYTES_OF_A_PACK, message_params, pack_params
from evalgen.grading.prices import load_prices
from evalgen.job import DatasetPlan, resolve_job
from evalgen.load_config import load_config
from evalgen.records import GraderSpec

MODEL = "anthropic/claude-haiku-4-5-20251001"
PRICES = load_prices()
NUM_DRAWS = 30


def plan_of(run: Path, num_votes: int, pack_size: int) -> DatasetPlan:
    flags = [
        "--data_model_path",
        str(run),
        "--extract_from_eval_datasets",
        "qa_1_no_fs",
        "--grader_model",
        "offline/exact",
    ]
    (plan,) = resolve_job(load_config([*flags, "--num_generations", str(NUM_DRAWS)], run))
    grader = GraderSpec(model=MODEL, instructions="the same?", num_votes=num_votes, pack_size=pack_size)
    return replace(plan, grader=grader)


def billed(params: dict[str, Any]) -> float:
    """What a server may bill for a request at most: a token for each byte, and a reply as long as is allowed."""
    size = len(json.dumps(params, ensure_ascii=False).encode())
    return PRICES.most_usd("claude-haiku-4-5-20251001", size, params["max_tokens"])


@pytest.mark.parametrize("char", ["x", "東"])
@pytest.mark.parametrize("num_votes", [1, 3])
@pytest.mark.parametrize(("pack_size", "packed"), [(1, 1), (10, 10), (10, 3), (10, 2), (31, 31)])
def test_no_sequence_of_requests_costs_more_than_what_is_said(
    pack_size: int, packed: int, num_votes: int, char: str, tiny_run: Path
) -> None:
    """`packed` are in a request where replicas share a prompt's draws. No reply to a pack can be read, none at once."""
    plan = plan_of(tiny_run, num_votes, pack_size)
    (said,) = forecast([plan], PRICES)
    num_bytes = MOST_CHARS_OF_A_TOKEN * plan.settings.max_new_tokens
    completion = char * (num_bytes // len(char.encode()))
    packed = min(packed, max(1, MOST_BYTES_OF_A_PACK // num_bytes))
    usd = 0.0
    for query in plan.queries:
        question = plan.question(query, completion)
        questions = NUM_DRAWS + 1
        usd += num_votes * questions * MAX_ASKS * billed(message_params(question))
        if packed > 1:
            usd += num_votes * -(-questions // packed) * billed(pack_params([question] * packed))
    assert said.most_questions == len(plan.queries) * (NUM_DRAWS + 1)
    assert said.likely_usd is not None and said.most_usd is not None
    assert said.likely_usd < usd <= said.most_usd < 3 * usd
