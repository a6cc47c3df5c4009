"""What a job would ask of its judges and cost at most, before a model is loaded or anything made: `--dry_run`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalgen.grading.messages import MAX_ASKS, MOST_BYTES_OF_A_PACK, message_params, pack_params
from evalgen.grading.prices import BATCH_DISCOUNT, PriceList
from evalgen.grading.question_text import num_bytes
from evalgen.job import DatasetPlan
from evalgen.records import Question

CHARS_OF_A_TOKEN = 4  # of the longest completions that are likely; few tokens are longer
MOST_CHARS_OF_A_TOKEN = 128  # as runs of spaces are in common vocabularies
BYTES_OF_A_TOKEN = 3.5  # of what the judge is sent; English text has four or more
HIDDEN_TOKENS = 300  # that the API adds for the schema of the reply
REPLY_TOKENS = 150  # a sentence of reasoning, a verdict, a trimmed completion


@dataclass(frozen=True, kw_only=True)
class DatasetForecast:
    """Of one dataset, before it is sampled."""

    name: str
    grader_model: str
    num_prompts: int
    num_draws: int | None  # None: completions are enumerated
    most_questions: int  # if every draw gave another completion, none the greedy one, and no verdict were known yet
    most_calls: int  # where no prompt is shared among replicas: each packs what it samples
    usd_per_thousand: float | None  # for a thousand questions, with replies of `REPLY_TOKENS`; None: price unknown
    likely_usd: float | None  # the same for all of them
    most_usd: float | None  # if all were as long as it may be, and no first reply readable; lost replies aside


def forecast(plans: Sequence[DatasetPlan], prices: PriceList) -> list[DatasetForecast]:
    """One entry for each dataset."""
    return [_of_dataset(plan, prices) for plan in plans]


def _of_dataset(plan: DatasetPlan, prices: PriceList) -> DatasetForecast:
    settings, num_prompts = plan.settings, len(plan.queries)
    if settings.min_probability:
        of_prompt = int(1 / settings.min_probability)
    else:
        of_prompt = settings.num_generations + 1 if settings.do_sample else 1  # the greedy one, too
    most_questions = num_prompts * of_prompt
    is_free = plan.grader.is_offline
    num_chars = CHARS_OF_A_TOKEN * settings.max_new_tokens
    pack_size = min(plan.grader.pack_size, of_prompt, max(1, MOST_BYTES_OF_A_PACK // num_chars))
    usd = 0.0 if is_free else _usd_per_question(plan, prices, pack_size)
    most_calls = 0 if is_free else num_prompts * -(-of_prompt // pack_size) * plan.grader.num_votes
    return DatasetForecast(
        name=plan.name,
        grader_model=plan.grader.model,
        num_prompts=num_prompts,
        num_draws=None if settings.min_probability else num_prompts * settings.num_generations,
        most_questions=most_questions,
        most_calls=most_calls,
        usd_per_thousand=None if usd is None else 1000 * usd,
        likely_usd=None if usd is None else most_questions * usd,
        most_usd=None if usd is None else num_prompts * plan.grader.num_votes * _most_usd(plan, prices, of_prompt),
    )


def _usd_per_question(plan: DatasetPlan, prices: PriceList, pack_size: int) -> float | None:
    """What a pack shares is counted once for all of it."""
    question = _longest_question(plan, CHARS_OF_A_TOKEN)
    user_tokens = len(message_params(question)["messages"][0]["content"].encode()) / BYTES_OF_A_TOKEN
    input_tokens = round(shared_tokens(question) / pack_size + user_tokens)
    usd = prices.cost_usd(plan.grader.api_model, input_tokens, REPLY_TOKENS)
    if usd is None:
        return None
    return usd * plan.grader.num_votes * _discount(plan)


def shared_tokens(question: Question) -> float:
    """About how many each request to its judge has, whatever is asked: the instructions, and the form of the reply."""
    return len(message_params(question)["system"].encode()) / BYTES_OF_A_TOKEN + HIDDEN_TOKENS


def _most_usd(plan: DatasetPlan, prices: PriceList, of_prompt: int) -> float:
    """Of one vote on so many questions of a prompt; each is asked by itself again if a pack's reply was of no use."""
    if plan.grader.is_offline:
        return 0.0

    def of_call(params: Mapping[str, Any]) -> float:
        """What a cap sets aside for it."""
        size = len(json.dumps(params, ensure_ascii=False).encode())
        return prices.most_usd(plan.grader.api_model, size, params["max_tokens"]) * _discount(plan)

    question = _longest_question(plan, MOST_CHARS_OF_A_TOKEN)
    # The smallest packs cost most for a question. Replicas that share a prompt's draws may have no other.
    num_packs = -(-of_prompt // 2) if min(of_prompt, plan.grader.pack_size) > 1 else 0
    singly = of_prompt * MAX_ASKS * of_call(message_params(question))
    return singly + num_packs * of_call(pack_params([question] * 2))


def _longest_question(plan: DatasetPlan, chars_of_a_token: int) -> Question:
    completion = "x" * (chars_of_a_token * plan.settings.max_new_tokens)
    longest = max(plan.queries, key=lambda query: num_bytes(query.prompt) + num_bytes(query.reference))
    return plan.question(longest, completion)


def _discount(plan: DatasetPlan) -> float:
    return BATCH_DISCOUNT if plan.grader.is_in_batches else 1.0
