"""The configuration of a job: one frozen tree, filled from the command line and from YAML.

Within a file a run's own settings win over the shared ones. The resolved tree is written beside the output as
`config.json` and runs again from there (`--config config.json`). `evalgen.load_config` fills it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSuppress,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from evalgen.command_line import unknown_name
from evalgen.errors import ConfigError
from evalgen.records import Limits, SamplingLaw

MIN_PROBABILITY = 1e-6  # below, a prompt may have millions of completions, more than anybody can have judged
DEFAULT_GRADER_MODEL = "anthropic/claude-haiku-4-5-20251001"
Model = TypeVar("Model", bound=BaseModel)


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
            validated(RunConfig, {**shared, **own}, f"runs[{index}].") for index, own in enumerate(self.runs or ({},))
        )


def validated(model: type[Model], settings: dict[str, Any], where: str) -> Model:
    """`model(**settings)`, with pydantic's report turned into one line of ours; `where` goes before a key's name.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
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
