"""Resolves a configuration into the datasets to make: which checkpoint, which queries, which judge, which name.

Everything that can be wrong with a user's input is found here, before a directory is made or a model is loaded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalgen.config import JobConfig, RunConfig
from evalgen.dataset_files import PARTIAL
from evalgen.errors import ConfigError, InputError
from evalgen.files import REPLACED, WRITING
from evalgen.grading.grader_config import check_judges, load_grader
from evalgen.grading.prices import load_prices
from evalgen.queries import collect_queries
from evalgen.records import Checkpoint, GraderSpec, Query, Question
from evalgen.rotations import check_rotations
from evalgen.runs import ModelSize, find_inner_runs, model_size, positions_at_a_glance
from evalgen.tokenization import check_vocabulary, encode_prompt, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MAX_NAME_BYTES = 255  # of a directory, on every common file system
UNFINISHED = (PARTIAL, WRITING, REPLACED)  # what a dataset's name ends in that is not whole, or not yet in its place


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """One dataset to make: the completions of one checkpoint for the queries of its run."""

    name: str  # its directory under sampled_eval_datasets/; unique in the job
    checkpoint: Checkpoint
    queries: tuple[Query, ...]
    grader: GraderSpec
    settings: RunConfig

    def question(self, query: Query, completion: str) -> Question:
        return Question(grader=self.grader, prompt=query.prompt, reference=query.reference, completion=completion)


def asked_in_batches(plans: Sequence[DatasetPlan]) -> list[DatasetPlan]:
    """Those whose judge is asked over Message Batches."""
    return [plan for plan in plans if plan.grader.is_in_batches]


def resolve_job(config: JobConfig) -> tuple[DatasetPlan, ...]:
    """The datasets that `config` asks for, with everything checked.

    Raises:
        ConfigError, InputError: as from the two that it calls.
    """
    plans = plan_datasets(config)
    check_tokenizers(plans)
    return plans


def plan_datasets(config: JobConfig) -> tuple[DatasetPlan, ...]:
    """The datasets that `config` asks for, in the order of its runs and of their checkpoints' steps.

    No tokenizer is loaded, so that most mistakes are told at once.

    Raises:
        ConfigError, InputError: see the modules that find runs, queries and graders.
    """
    found: list[DatasetPlan] = []
    for settings in config.run_configs():
        assert settings.data_model_path is not None  # checked when the configuration was loaded
        if "sampled" not in settings.output_dataset_prefix:
            log.warning(
                "output_dataset_prefix %r lacks the word 'sampled', by which downstream tools select datasets",
                settings.output_dataset_prefix,
            )
        runs = find_inner_runs(settings.data_model_path, settings.checkpoint_patterns)
        queries_of_runs = [
            collect_queries(settings.query_json_path, run.eval_datasets, settings.extract_from_eval_datasets)
            for run in runs
        ]
        for run in runs:
            for checkpoint in run.checkpoints:
                _check_there_is_room(checkpoint, settings.max_new_tokens)
        # The key last: who has none should not have to fetch one to learn that a path was wrong.
        grader = load_grader(
            settings.grader_model, settings.grader_config_path, settings.grader_votes, settings.grader_pack_size
        )
        for run, queries in zip(runs, queries_of_runs, strict=True):
            for checkpoint in run.checkpoints:
                name = f"{settings.output_dataset_prefix}_{checkpoint.name}"
                found.append(
                    DatasetPlan(name=name, checkpoint=checkpoint, queries=queries, grader=grader, settings=settings)
                )
    plans = _with_unique_names(found)
    check_judges([plan.grader for plan in plans], load_prices(config.prices), config.max_grading_cost_usd)
    return plans


def check_tokenizers(plans: Sequence[DatasetPlan]) -> None:
    """Whether each checkpoint has a tokenizer that fits it, and takes its prompts. The first call imports for seconds.

    Raises:
        InputError: one does not.
    """
    tokenizers = {path: load_tokenizer(path) for path in sorted({p.checkpoint.tokenizer_path for p in plans})}
    for plan in plans:
        size, tokenizer = model_size(plan.checkpoint), tokenizers[plan.checkpoint.tokenizer_path]
        _check_stop_strings(plan, tokenizer)
        if size.vocabulary is not None:
            check_vocabulary(tokenizer, size.vocabulary, plan.checkpoint)
        if size.positions is not None or size.rotation_changes:  # else no length is too long
            _check_lengths(plan, tokenizer, size)


def _check_there_is_room(checkpoint: Checkpoint, max_new_tokens: int) -> None:
    """For the shortest prompt; for those that there are, `check_tokenizers` looks, which takes seconds to import."""
    positions = positions_at_a_glance(checkpoint)
    if positions is not None and max_new_tokens >= positions:
        raise InputError(
            f"max_new_tokens: found {max_new_tokens}, but checkpoint {checkpoint.path} takes {positions} tokens, those "
            "of the prompt among them"
        )


def _check_stop_strings(plan: DatasetPlan, tokenizer: PreTrainedTokenizerBase) -> None:
    for stop in plan.settings.stop_strings:
        if special := next((token for token in _special_tokens(tokenizer) if token in stop), None):
            raise InputError(
                f"stop_strings: found {stop!r}, but {special!r} is a special token of {plan.checkpoint.tokenizer_path} "
                "and never in a text; to end completions there name its id as eos_token_id in the checkpoint's "
                "generation_config.json"
            )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """All that decoding leaves out, whether the tokenizer has a name for them or not."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [token for token in (*added, *tokenizer.all_special_tokens) if token]


def _check_lengths(plan: DatasetPlan, tokenizer: PreTrainedTokenizerBase, size: ModelSize) -> None:
    max_new_tokens = plan.settings.max_new_tokens
    for query in plan.queries:
        length = len(encode_prompt(tokenizer, query.prompt))
        if size.positions is not None and length + max_new_tokens > size.positions:
            raise InputError(
                f"prompt {query.id!r} and --max_new_tokens are {length + max_new_tokens} tokens together, and "
                f"checkpoint {plan.checkpoint.path} takes {size.positions}; shorten one of them"
            )
        check_rotations(query.id, length, max_new_tokens, size.rotation_changes)


def _with_unique_names(plans: list[DatasetPlan]) -> tuple[DatasetPlan, ...]:
    """`<prefix>_<checkpoint>`, and where that would stand twice, `<prefix>_<run>_<checkpoint>` for each of them."""
    counts = Counter(plan.name for plan in plans)
    named = [plan if counts[plan.name] == 1 else _named_with_run(plan) for plan in plans]
    for name, count in Counter(plan.name for plan in named).items():
        if count > 1:
            raise ConfigError(f"output_dataset_prefix: {count} datasets would be named {name}; give each run its own")
        if set("/\0") & set(name):
            raise InputError(f"dataset name {name!r} is no directory name; mend --output_dataset_prefix")
        if (too_long := len((name + PARTIAL + REPLACED).encode()) - MAX_NAME_BYTES) > 0:
            raise InputError(f"dataset name {name!r} is too long by {too_long} bytes; shorten --output_dataset_prefix")
        if name.endswith(UNFINISHED):
            raise InputError(
                f"dataset name {name!r} ends as those of unfinished datasets do; leave that checkpoint out with "
                "--checkpoint_patterns, or rename it"
            )
    return tuple(named)


def _named_with_run(plan: DatasetPlan) -> DatasetPlan:
    name = f"{plan.settings.output_dataset_prefix}_{plan.checkpoint.run}_{plan.checkpoint.name}"
    return replace(plan, name=name)
