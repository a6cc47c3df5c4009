"""The configuration of a job: one frozen tree, filled from the command line and from YAML.

Flags win over the file, and within the file a run's own settings win over the shared ones. The resolved tree is
written beside the output as `config.json` and runs again from there (`--config config.json`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSuppress,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from evalgen.command_line import parse_flags, unknown_name
from evalgen.config_files import absolute_path, check_writable, read_config_file, without_tilde
from evalgen.errors import ConfigError
from evalgen.records import Limits, SamplingLaw
from evalgen.resume import check_resumable, stored_settings

MIN_PROBABILITY = 1e-6  # below, a prompt may have millions of completions, more than anybody can have judged
MIN_TEMPERATURE = 0.001  # below, logits overflow, and nothing but the greedy completion is drawn
DEFAULT_GRADER_MODEL = "anthropic/claude-haiku-4-5-20251001"
Model = TypeVar("Model", bound=BaseModel)
INPUT_PATH_KEYS = ("data_model_path", "query_json_path", "grader_config_path", "prices_path")


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd number, so that there is a majority")
    return value


NotEmpty = Annotated[str, Field(min_length=1)]
NumVotes = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]


class RunConfig(BaseModel):
    """What may differ between the fine-tuning runs of one job: what to sample, and how to judge it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_model_path: str | None = Field(
        None,
        description="fine-tuning run directory, inner run, plain checkpoint directory, or hub id, with @ and a branch "
        "or commit if need be",
    )
    checkpoint_patterns: tuple[NotEmpty, ...] = Field(
        ("checkpoint_final",), min_length=1, description="globs against the run's checkpoint names"
    )
    extract_from_eval_datasets: tuple[NotEmpty, ...] = Field(
        (), description="regexes (re.search) against the run's eval dataset names; their prompts are sampled"
    )
    query_json_path: str | None = Field(
        None, description="JSON list of {id, prompt, original_completion, metadata}; these queries come first"
    )
    grader_config_path: str | None = Field(
        None, description="JSON with grader_instructions; without it: same factual information, any phrasing"
    )
    grader_model: str = Field(
        DEFAULT_GRADER_MODEL,
        description="anthropic/<model>; anthropic-batch/<model>, at half the price within a day; or free and "
        "deterministic: offline/exact, offline/person_name, offline/date",
    )
    grader_votes: NumVotes = Field(
        1, description="ask a Claude judge this often for each question, and take the majority; odd"
    )
    grader_pack_size: int = Field(
        1, ge=1, le=100, description="most completions of one prompt that a Claude judge is asked about in one request"
    )
    output_dataset_prefix: str = Field(
        "sampled",
        min_length=1,
        description="datasets are named <prefix>_<checkpoint>; should contain 'sampled'",
    )
    num_generations: int = Field(1000, gt=0, description="draws (completions sampled) per prompt")
    temperature: float = Field(0.1, ge=0, allow_inf_nan=False, description="of the sampling law; at least 0.001")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 is off")
    top_k: int = Field(0, ge=0, description="sample among the k most probable tokens; 0 is off")
    min_p: float = Field(0.0, ge=0, le=1, description="drop tokens below min_p times the best one; 0 is off")
    do_sample: bool = Field(True, description="false: one greedy completion per prompt, which stands for all draws")
    max_new_tokens: int = Field(10, gt=0, description="longest completion, in tokens")
    stop_strings: tuple[NotEmpty, ...] = Field(
        (), description="end a completion before the first of these in its text; a newline is typed '[\"\\n\"]'"
    )
    generation_batch_size: int = Field(
        32, gt=0, description="most prompts in one forward pass; an upper bound, not a tuning duty"
    )
    seed: int = Field(42, ge=0, description="draw g of a prompt depends on (seed, prompt id, g) and nothing else")
    deduplicate: bool = Field(True, description="false: one dataset row per draw instead of per distinct completion")
    exclusive: bool = Field(
        False,
        description="of kept completions that begin with each other, as ' March 15, 1987' and ' March 15, 1987,' do, "
        "keep the shortest, with the draws of all: its probability has theirs in it, and is then counted once",
    )
    dtype: Literal["bf16", "fp32"] = Field("bf16", description="of the weights")
    sampler: Literal["tree", "independent", "enumerate"] = Field(
        "tree",
        description="tree shares prefixes; independent is its slow reference: same draws, one at a time; enumerate "
        "draws nothing and finds every completion of at least --min_probability",
    )
    min_probability: float | None = Field(
        None,
        ge=MIN_PROBABILITY,
        le=1,
        description="for --sampler enumerate: least probability of a completion under the sampling law, from 1e-6 on; "
        "a prompt has at most 1 / min_probability of them",
    )

    @field_validator("checkpoint_patterns", "extract_from_eval_datasets", "stop_strings", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def law(self) -> SamplingLaw:
        return SamplingLaw(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            do_sample=self.do_sample,
            max_new_tokens=self.max_new_tokens,
            stop_strings=self.stop_strings,
        )

    @property
    def enumerates(self) -> bool:
        """Whether completions are enumerated by probability; then there are no draws, and nothing random."""
        return self.sampler == "enumerate"


class JobConfig(RunConfig, BaseSettings):
    """Sample fine-tuned checkpoints, judge what they say, and save what is right as evaluation datasets."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", cli_hide_none_type=True)

    config: str | None = Field(
        None,
        description="YAML or JSON file with a whole job: shared settings and a list of `runs`; flags override it",
    )
    resume: str | None = Field(
        None,
        description="experiment directory to go on with: nothing that it holds is sampled or paid for again. Its "
        "settings need not be given; a larger num_generations, another grader and how it is run may be",
    )
    experiment_name: str = Field(
        "sampled_eval_datasets",
        pattern=r"^[\w.-]+$",
        description="last part of the experiment directory's name",
    )
    output_dir: str = Field("outputs", description="where the experiment directory is made")
    dry_run: bool = Field(
        False, description="print prompts, checkpoints, and at most how many questions and dollars; then stop"
    )
    max_connections: int = Field(50, gt=0, description="grading requests in flight, over the whole job")
    requests_per_minute: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="limit of grading requests, over the whole job; default: what the server announces",
    )
    input_tokens_per_minute: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="the same for tokens sent to the judge"
    )
    output_tokens_per_minute: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="the same for tokens that it replies with"
    )
    max_outage_minutes: float = Field(
        15, gt=0, allow_inf_nan=False, description="stop the job, resumable, if the judge's server fails for so long"
    )
    max_grading_cost_usd: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="cap on what grading may cost, over all parts of a resumed job; there the job stops, resumable",
    )
    prices_path: str | None = Field(
        None, description="YAML with the judges' prices, in place of configs/prices.yaml; its form is shown there"
    )
    use_grader_cache: bool = Field(
        True, description="reuse verdicts that earlier experiments in output_dir hold for the same question"
    )
    num_replicas: int | None = Field(
        None,
        gt=0,
        description="model replicas; default: one per GPU of the cluster, one on a machine without",
    )
    num_gpus_per_replica: int = Field(
        1, gt=0, description="GPUs over which the layers of one replica are spread, for models too large for one"
    )
    kv_budget_gib: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="GiB for keys and values, and working space, of a replica; default: a share of the free memory",
    )
    execution_mode: Literal["local"] = Field("local", description="where to run; Ray decides what `local` means")
    logging_type: Literal["disk", "stdout", "wandb"] = Field(
        "disk",
        description="experiment.log always; stdout: on the terminal as well; wandb: metrics to Weights & Biases",
    )
    wandb_project: str | None = Field(None, description="needed by --logging_type wandb")
    push_to_hub: str | None = Field(
        None,
        description="USER/NAME on the Hugging Face Hub: upload the finished datasets there, private if it is made now; "
        "needs a token (hf auth login)",
    )
    quiet: bool = Field(False, description="no progress on the terminal; warnings and the figures at the end stay")
    runs: CliSuppress[tuple[dict[str, Any], ...]] = Field(
        (), description="per run: any of the settings above that differ from the shared ones"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Neither environment variables nor .env files: what a job does stands in its config.json, whole.
        return (init_settings,)

    @property
    def kv_budget_bytes(self) -> int | None:
        """None: a share of the memory that is free."""
        return None if self.kv_budget_gib is None else int(self.kv_budget_gib * 2**30)

    @property
    def prices(self) -> Path | None:
        return None if self.prices_path is None else Path(self.prices_path)

    @property
    def rate_limits(self) -> Limits:
        return Limits(
            requests=self.requests_per_minute,
            input_tokens=self.input_tokens_per_minute,
            output_tokens=self.output_tokens_per_minute,
        )

    def resolved(self) -> dict[str, Any]:
        """The whole job as JSON values, as `config.json` has it: what was read from `--config` is in it."""
        return self.model_dump(mode="json", exclude={"config", "resume", "dry_run"})

    def run_configs(self) -> tuple[RunConfig, ...]:
        """The settings of each run, shared ones filled in; a job without `runs` is one run.

        Raises:
            ConfigError: a run has an unknown key or a value out of range.
        """
        shared = {key: getattr(self, key) for key in RunConfig.model_fields}
        return tuple(
            _validated(RunConfig, {**shared, **own}, f"runs[{index}].") for index, own in enumerate(self.runs or ({},))
        )


def load_config(argv: Sequence[str], root: Path) -> JobConfig:
    """The job that `argv` (without the program's name) describes, every path absolute.

    `--help` prints the flags and exits. Relative input paths that do not exist from here are taken from `root`, and so
    is the output directory always.

    Raises:
        ConfigError: unknown flag or key, value out of range, unreadable configuration file.
    """
    flags = parse_flags(argv, JobConfig)
    _check_typed_stop_strings(flags.get("stop_strings", ()))
    settings = read_config_file(absolute_path(str(flags["config"]), root)) if "config" in flags else {}
    if "resume" not in flags:
        return _checked_config(settings, flags, root)
    directory = absolute_path(str(flags["resume"]), root)
    stored = stored_settings(directory)
    config = _checked_config({**stored, **settings}, flags | {"resume": directory}, root)
    before = _checked_config(stored, {}, root)
    check_resumable(_with_whole_runs(before), _with_whole_runs(config), directory)
    return config


def check_can_write(config: JobConfig) -> None:
    """Whether the job can write where it is to: beside the checks of its input, for what else finds out imports first.

    Not a part of `load_config`, by which jobs are read whose directory nobody may write any more.

    Raises:
        ConfigError: it cannot.
    """
    if config.resume is not None:
        check_writable(Path(config.resume), "resume", "go on with a copy of the experiment")
    else:
        check_writable(Path(config.output_dir), "output_dir", "give another --output_dir")


def _with_whole_runs(config: JobConfig) -> dict[str, Any]:
    """The job as JSON values in which every run has all of its settings, and only the runs have them."""
    shared = {key: value for key, value in config.resolved().items() if key not in RunConfig.model_fields}
    return shared | {"runs": [run.model_dump(mode="json") for run in config.run_configs()]}


def _checked_config(settings: dict[str, Any], flags: dict[str, str | list[str]], root: Path) -> JobConfig:
    """The job of a file's `settings`, overridden by `flags`."""
    runs = settings.get("runs", [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(f"runs: expected a list of mappings in the configuration, found {type(runs).__name__}")
    overridden = flags.keys() & RunConfig.model_fields.keys()
    runs = [{key: value for key, value in run.items() if key not in overridden} for run in runs]
    settings = {**settings, **flags, "runs": runs}
    for mapping in (settings, *runs):
        for key in INPUT_PATH_KEYS:
            if isinstance(mapping.get(key), str):
                mapping[key] = absolute_path(mapping[key], root, may_be_hub_id=key == "data_model_path")
    output_dir = settings.get("output_dir", "outputs")
    if isinstance(output_dir, str):
        # Never from the working directory, which may be a copy that goes with the job.
        settings["output_dir"] = os.path.abspath(root / without_tilde(output_dir))
    config = _validated(JobConfig, settings, "")
    for run in config.run_configs():
        _check_run(run)
    for mapping in (*config.runs, config.model_dump(exclude={"runs"})):
        _check_text(mapping)
    if config.logging_type == "wandb" and not config.wandb_project:
        raise ConfigError("wandb_project: --logging_type wandb needs it; give --wandb_project NAME")
    if config.logging_type == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging_type: wandb is not installed; pip install 'evalgen[wandb]', or --logging_type disk")
    return config


def _check_text(settings: dict[str, Any]) -> None:
    """A file's name may be any bytes, and config.json holds text alone."""
    for key, value in settings.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{key}: found {value!r}, which is not UTF-8; rename the file") from None


def _check_run(run: RunConfig) -> None:
    if run.data_model_path is None:
        raise ConfigError("data_model_path: missing; give --data_model_path RUN_DIRECTORY, or --config with `runs`")
    if run.do_sample and run.temperature < MIN_TEMPERATURE:
        raise ConfigError(
            f"temperature: found {run.temperature} with sampling on, expected at least {MIN_TEMPERATURE}; "
            "for the greedy completion give --do_sample false"
        )
    if run.exclusive and not run.deduplicate:
        raise ConfigError(
            "exclusive: found true with --deduplicate false, under which draws of one completion are rows that contain "
            "each other; give one of the two"
        )
    if run.enumerates:
        _check_enumeration(run)
    elif run.min_probability is not None:
        raise ConfigError(
            f"min_probability: found {run.min_probability} with --sampler {run.sampler}, which draws completions "
            "however improbable; leave it out (for one of several runs, min_probability: null), or give "
            "--sampler enumerate"
        )


def _check_enumeration(run: RunConfig) -> None:
    if run.min_probability is None:
        raise ConfigError("min_probability: missing; --sampler enumerate needs it, e.g. --min_probability 0.001")
    if not run.do_sample:
        raise ConfigError(
            "do_sample: found false with --sampler enumerate, which has nothing to enumerate but the greedy "
            "completion; for that one give --sampler tree"
        )
    if not run.deduplicate:
        raise ConfigError(
            "deduplicate: found false with --sampler enumerate, which has no draws to give a row each; leave it out"
        )


def _check_typed_stop_strings(typed: Sequence[str]) -> None:
    """A shell passes \\n on as two characters, which no completion has: the job would run and never stop one."""
    for value in typed:
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            # [1] may be a stop string; a list with strings in it was meant as a list.
            if isinstance(parsed, list) and any(isinstance(item, str) for item in parsed):
                raise ConfigError(f"stop_strings: found {value}, a JSON list with other things; expected strings alone")
        if escape := re.search(r"\\[nrt]", value):
            as_json = json.dumps([value], ensure_ascii=False).replace("\\\\", "\\")
            raise ConfigError(
                f"stop_strings: found {value}, in which {escape[0]} is a backslash and a letter; for the character "
                f"give a JSON list, --stop_strings '{as_json}', and for the two as they are a --config file"
            )


def _validated(model: type[Model], settings: dict[str, Any], where: str) -> Model:
    """`model(**settings)`, with pydantic's report turned into one line of ours."""
    # First, because BaseSettings has parameters of its own, such as _env_file, that are no settings of a job.
    for key in settings:
        if key not in model.model_fields:
            raise ConfigError(unknown_name("key", where + str(key), str(key), list(model.model_fields)))
    try:
        return model(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = where + ".".join(str(part) for part in first["loc"])
        message = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "string_pattern_mismatch":
            message = "only letters, digits, '.', '_' and '-' may stand there"
        raise ConfigError(f"{name}: found {first['input']!r}, but {message}") from None
