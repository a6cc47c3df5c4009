"""Reads a grader config file, and checks that a grader can be used before anything is spent."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalgen.errors import ConfigError, GraderUnavailable
from evalgen.grading.offline import OFFLINE_GRADERS
from evalgen.grading.prices import PriceList
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS, template_digest
from evalgen.records import BATCH_PREFIX, CLAUDE_PREFIX, GraderSpec

log = logging.getLogger(__name__)


class _OfflineOptions(BaseModel):
    """What the offline graders accept besides the whole answer; see evalgen.grading.person_names."""

    model_config = ConfigDict(strict=True, extra="forbid")

    accept_first_name_alone: bool = False
    accept_surname_alone: bool = False


class _GraderFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    grader_instructions: str = Field(min_length=1)
    offline_options: _OfflineOptions = _OfflineOptions()


def load_grader(model: str, config_path: str | None, num_votes: int = 1, pack_size: int = 1) -> GraderSpec:
    """The grader that `--grader_model`, `--grader_config_path`, `--grader_votes` and `--grader_pack_size` describe.

    Raises:
        ConfigError: unknown grader, unreadable or malformed config file, a missing API key.
    """
    _check_model(model)
    if model.startswith(BATCH_PREFIX) and (num_votes, pack_size) != (1, 1):
        raise ConfigError(
            f"grader_model: {model} asks each question once, in a request of its own; give anthropic/<model> for "
            "--grader_votes and --grader_pack_size"
        )
    if model in OFFLINE_GRADERS:
        num_votes = pack_size = 1  # they always agree with themselves
    spec = GraderSpec(
        model=model,
        instructions=DEFAULT_INSTRUCTIONS,
        num_votes=num_votes,
        pack_size=pack_size,
        template_digest="" if model in OFFLINE_GRADERS else template_digest(),
    )
    if config_path is None:
        return spec
    file = _read(Path(config_path))
    return replace(spec, instructions=file.grader_instructions, options=file.offline_options.model_dump())


def _check_model(model: str) -> None:
    choices = f"anthropic/<model>, anthropic-batch/<model>, {', '.join(OFFLINE_GRADERS)}"
    if not model.startswith((CLAUDE_PREFIX, BATCH_PREFIX)):
        if model not in OFFLINE_GRADERS:
            raise ConfigError(f"grader_model: found {model!r}, expected one of: {choices}")
        return
    if model in (CLAUDE_PREFIX, BATCH_PREFIX):
        raise ConfigError(f"grader_model: found no model after {model!r}, expected one of: {choices}")
    if not os.environ.get("ANTHROPIC_API_KEY") and not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
        raise ConfigError(
            f"ANTHROPIC_API_KEY is not set, and {model} needs it; export the key, "
            f"or choose a free grader with --grader_model: {', '.join(OFFLINE_GRADERS)}"
        )


def check_judges(graders: Iterable[GraderSpec], prices: PriceList, cap_usd: float | None) -> None:
    """Whether all judges can be paid for, by `prices` where there is a cap, and be asked with the key that is there.

    What has been found wrong before need not wait for this: it takes a second to import the SDK.

    Raises:
        ConfigError: one cannot.
    """
    models = sorted({grader.api_model for grader in graders if not grader.is_offline})
    for model in (model for model in models if prices.of(model) is None):
        how = "add it to a file like configs/prices.yaml and give --prices_path"
        if cap_usd is not None:
            raise ConfigError(f"max_grading_cost_usd: the price of {model} is not known; {how}, or leave the cap out")
        log.warning("the price of %s is not known, and so the cost will not be; %s", model, how)
    if not models:
        return
    from evalgen.grading.connection import connect

    try:
        connect(request_timeout_s=1.0)  # sends nothing
    except GraderUnavailable as error:
        raise ConfigError(str(error)) from None


def _read(path: Path) -> _GraderFile:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"grader_config_path: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"grader_config_path: {path} is not valid JSON: {error}") from None
    try:
        file = _GraderFile.model_validate(content)
        file.grader_instructions.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"grader_config_path: {path}: grader_instructions has half a surrogate pair, which is no character"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"grader_config_path: {path}: {key + ': ' if key else ''}{first['msg'].lower()}; "
            f"valid keys: {', '.join(_GraderFile.model_fields)}"
        ) from None
    return file
