"""What a job would ask of its judges and cost at most, before a model is loaded or anything made: `--dry_run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from evalgen.config import JobConfig
from evalgen.grading.messages import MOST_BYTES_OF_A_PACK, message_params, pack_params
from evalgen.grading.prices import BATCH_DISCOUNT, PriceList, check_price_known
from evalgen.job import DatasetPlan
from evalgen.records import Question

CHARS_OF_A_TOKEN = 4  # of the longest completions that are likely; few tokens are longer
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
    most_usd: float | None  # if every reply were as long as it may be, and each question asked once


def forecast(plans: Sequence[DatasetPlan], prices: PriceList) -> list[DatasetForecast]:
    """One entry for each dataset."""
    return [_of_dataset(plan, prices) for plan in plans]


def check_prices(config: JobConfig, plans: Sequence[DatasetPlan], prices: PriceList) -> None:
    """Raises `ConfigError` if there is a cap, and a judge of unknown price."""
    if config.max_grading_cost_usd is None:
        return
    for plan in plans:
        if not plan.grader.is_offline:
            check_price_known(prices, plan.grader.api_model)


def _of_dataset(plan: DatasetPlan, prices: PriceList) -> DatasetForecast:
    settings, num_prompts = plan.settings, len(plan.queries)
    if settings.min_probability:
        of_prompt = int(1 / settings.min_probability)
    else:
        of_prompt = settings.num_generations + 1 if settings.do_sample else 1  # the greedy one, too
    most_questions = num_prompts * of_prompt
    is_free = plan.grader.is_offline
    pack_size = min(plan.grader.pack_size, of_prompt, max(1, MOST_BYTES_OF_A_PACK // _num_chars(plan)))
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
        most_usd=None if usd is None else most_calls * _most_usd_per_call(plan, prices, pack_size),
    )


def _usd_per_question(plan: DatasetPlan, prices: PriceList, pack_size: int) -> float | None:
    """What a pack shares is counted once for all of it."""
    params = message_params(_longest_question(plan))
    system_tokens = len(params["system"].encode()) / BYTES_OF_A_TOKEN + HIDDEN_TOKENS
    user_tokens = len(params["messages"][0]["content"].encode()) / BYTES_OF_A_TOKEN
    input_tokens = round(system_tokens / pack_size + user_tokens)
    usd = prices.cost_usd(plan.grader.api_model, input_tokens, REPLY_TOKENS)
    if usd is None:
        return None
    return usd * plan.grader.num_votes * _discount(plan)


def _most_usd_per_call(plan: DatasetPlan, prices: PriceList, pack_size: int) -> float:
    """What a cap would set aside for it."""
    if plan.grader.is_offline:
        return 0.0
    question = _longest_question(plan)
    params = message_params(question) if pack_size == 1 else pack_params([question] * pack_size)
    num_bytes = len(json.dumps(params, ensure_ascii=False).encode())
    return prices.most_usd(plan.grader.api_model, num_bytes, params["max_tokens"]) * _discount(plan)


def _longest_question(plan: DatasetPlan) -> Question:
    """About as long a completion as is likely."""
    completion = "x" * _num_chars(plan)
    longest = max(plan.queries, key=lambda query: len(query.prompt) + len(query.reference))
    return plan.question(longest, completion)


def _num_chars(plan: DatasetPlan) -> int:
    return CHARS_OF_A_TOKEN * plan.settings.max_new_tokens


def _discount(plan: DatasetPlan) -> float:
    return BATCH_DISCOUNT if plan.grader.is_in_batches else 1.0
