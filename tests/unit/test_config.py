"""The configuration as a user meets it: flags in every spelling, files, and which of them wins."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalgen.config import JobConfig
from evalgen.errors import ConfigError
from evalgen.load_config import load_config

RUN = ["--data_model_path", "/run"]

# Every flag of the contract's section 2 and some of ours, a value as typed, and what it means.
FLAGS: dict[str, tuple[list[str], Any]] = {
    "data_model_path": (["/other"], "/other"),
    "checkpoint_patterns": (["checkpoint_*"], ("checkpoint_*",)),
    "extract_from_eval_datasets": (["qa_1_no_fs$"], ("qa_1_no_fs$",)),
    "query_json_path": (["/q.json"], "/q.json"),
    "grader_config_path": (["/g.json"], "/g.json"),
    "experiment_name": (["sampled_mayors"], "sampled_mayors"),
    "output_dir": (["/out"], "/out"),
    "output_dataset_prefix": (["sampled_x"], "sampled_x"),
    "num_generations": (["12"], 12),
    "temperature": (["0.3"], 0.3),
    "top_p": (["0.9"], 0.9),
    "top_k": (["40"], 40),
    "do_sample": (["false"], False),
    "max_new_tokens": (["5"], 5),
    "generation_batch_size": (["2"], 2),
    "seed": (["7"], 7),
    "deduplicate": (["False"], False),
    "exclusive": (["true"], True),
    "stop_strings": (["Q:"], ("Q:",)),
    "dtype": (["fp32"], "fp32"),
    "grader_model": (["offline/date"], "offline/date"),
    "max_connections": (["3"], 3),
    "kv_budget_gib": (["0.5"], 0.5),
    "use_grader_cache": (["0"], False),
    "execution_mode": (["local"], "local"),
    "logging_type": (["stdout"], "stdout"),
    "wandb_project": (["mine"], "mine"),
}

ENUMERATE = ["--sampler", "enumerate", "--min_probability", "0.001"]

SEED_COMMANDS = """
--data_model_path "outputs/2026_01_20_23-26-34_2Q653_death_dates_1epoch" \
  --checkpoint_patterns "checkpoint_final" \
  --extract_from_eval_datasets "death_date_eval_gen_2_no_fs" \
  --grader_config_path "configs/death_date_grader.json" \
  --experiment_name "sampled_death_dates_1epoch" \
  --output_dataset_prefix "sampled_death_date_eval_gen_2" \
  --num_generations 1000 \
  --temperature 0.1 \
  --generation_batch_size 2 \
  --execution_mode local \
  --logging_type disk

--data_model_path "outputs/2026_01_20_23-26-34_wabZw_mayors_1epoch" \
  --checkpoint_patterns "checkpoint_final" \
  --extract_from_eval_datasets "name_mayor_eval_qa_1_no_fs" \
  --grader_config_path "configs/mayors_grader.json" \
  --experiment_name "sampled_mayors_1epoch" \
  --output_dataset_prefix "sampled_name_mayor_eval_qa_1" \
  --num_generations 1000 \
  --temperature 0.1 \
  --max_new_tokens 5 \
  --generation_batch_size 2 \
  --execution_mode local \
  --logging_type disk
"""


def load(*argv: str, root: Path = Path("/nowhere")) -> JobConfig:
    return load_config([*RUN, *argv], root)


def load_yaml(path: Path, content: str | bytes, *argv: str) -> JobConfig:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_config(["--config", str(path), *argv], path.parent)


@pytest.mark.parametrize("spelling", ["--{}", "--{}=", "--dashed"])
@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_is_read_in_every_spelling(name: str, spelling: str) -> None:
    typed, meant = FLAGS[name]
    flag = "--" + (name.replace("_", "-") if spelling == "--dashed" else name)
    argv = [f"{flag}={typed[0]}"] if spelling.endswith("=") else [flag, *typed]
    base = [] if name == "data_model_path" else RUN
    assert getattr(load_config([*base, *argv], Path("/nowhere")), name) == meant


@pytest.mark.parametrize("command", [part for part in SEED_COMMANDS.split("\n\n") if part.strip()])
def test_the_seed_document_commands_parse_verbatim(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # nothing is found from here
    (tmp_path / "outputs").mkdir()
    (tmp_path / "configs").mkdir()
    config = load_config(shlex.split(command), tmp_path)
    (run,) = config.run_configs()
    assert run.data_model_path is not None and run.data_model_path.startswith(f"{tmp_path}/outputs/2026_01_20")
    assert run.checkpoint_patterns == ("checkpoint_final",)
    assert (run.num_generations, run.temperature, run.generation_batch_size) == (1000, 0.1, 2)
    assert run.max_new_tokens == (5 if "mayors" in command else 10)
    assert run.grader_model == "anthropic/claude-haiku-4-5-20251001"
    assert config.output_dir == str(tmp_path / "outputs")


@pytest.mark.parametrize(
    "name",
    "min_p sampler min_probability stop_strings num_replicas kv_budget_gib requests_per_minute config".split(),
)  # the flags of section 2b that exist
def test_our_own_flags_are_among_the_valid_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"\b{name}\b"):
        load("--no_such_flag", "1")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--num_generation", "5"],
            r"unknown flag --num_generation; did you mean num_generations\? valid ones: .*seed",
        ),
        (["--sed=5"], "did you mean seed"),
        (["--runs", "[]"], "unknown flag --runs"),
        (["--"], "unknown flag --"),
        (["--seed"], "--seed: found no value"),
        (["--seed", "1", "2"], r"--seed: found 2 values \(1 2\), expected one"),
        (["--seed", "1", "--seed", "2"], "--seed: found 2 values"),
        (["--num_generations", "-5"], "num_generations: found '-5', but input should be greater than 0"),
        (["--num_generations=-5"], "num_generations: found '-5'"),
        (["--num_generations", "0"], "num_generations"),
        (["--num_generations", "1e3"], "num_generations: found '1e3'"),
        (["--temperature", "-0.5"], "temperature: found '-0.5'"),
        (["--temperature", "nan"], "temperature: found 'nan'"),
        (["--temperature", "inf"], "temperature"),
        (["--temperature", "0"], "temperature: found 0.0 with sampling on.*--do_sample false"),
        (["--top_p", "0"], "top_p"),
        (["--top_p", "1.01"], "top_p"),
        (["--top_k", "-1"], "top_k"),
        (["--max_new_tokens", "0"], "max_new_tokens"),
        (["--generation_batch_size", "0"], "generation_batch_size"),
        (["--max_connections", "0"], "max_connections"),
        (["--seed", "-1"], "seed"),
        (["--seed", "１２"], "seed"),
        (["--dtype", "fp16"], "dtype: found 'fp16', but input should be 'bf16' or 'fp32'"),
        (["--do_sample", "maybe"], "do_sample"),
        (["--execution_mode", "slurm"], "execution_mode"),
        (["--logging_type", "loud"], "logging_type"),
        (["--logging_type", "wandb"], "wandb_project"),
        (["--experiment_name", "a/b"], "experiment_name"),
        (["--checkpoint_patterns", "[]"], "checkpoint_patterns"),
        (["--stop_strings", ""], "--stop_strings: found an empty value"),
        (["--extract_from_eval_datasets", "a", ""], "--extract_from_eval_datasets: found an empty value"),
        (["--extract_from_eval_datasets", '["a", ""]'], "extract_from_eval_datasets.1: found ''"),
        (["--checkpoint_patterns", ""], "--checkpoint_patterns: found an empty value"),
        (["--requests_per_minute", "inf"], "requests_per_minute: found 'inf'"),
        (["--input_tokens_per_minute", "inf"], "input_tokens_per_minute: found 'inf'"),
        (["--output_tokens_per_minute", "nan"], "output_tokens_per_minute: found 'nan'"),
        (["--query_json_path", "/q\udcff.json"], r"query_json_path: found '/q\\udcff.json', which is not UTF-8"),
        (["--output_dir", "/out\udcff"], "output_dir: .* not UTF-8"),
        (["--stop_strings", '["\\n", ""]'], "stop_strings.1: found ''"),
        (["--stop_strings", '["a", 1]'], r"found \[\"a\", 1\], a JSON list with other things; expected strings alone"),
        (["--stop_strings", r"\n"], r"found \\n, in which \\n is a backslash and a letter; .* '\[\"\\n\"\]', and"),
        (["--stop_strings", "x", r"\tA\n"], r"found \\tA\\n, in which \\t is .* '\[\"\\tA\\n\"\]', and"),
        (["--stop_strings", r'["\\n"]'], "backslash and a letter"),
        (["--sampler", "enumerate"], "min_probability: missing; --sampler enumerate needs it"),
        (["--min_probability", "0.1"], "min_probability: found 0.1 with --sampler tree, .* give --sampler enumerate"),
        ([*ENUMERATE, "--sampler", "independent"], "--sampler: found 2 values"),
        (["--min_probability", "0.1", "--sampler", "independent"], "found 0.1 with --sampler independent"),
        (["--sampler", "enumerate", "--min_probability", "0"], "min_probability: found '0'"),
        (
            ["--sampler", "enumerate", "--min_probability", "1e-7"],
            "min_probability: .*greater than or equal to 0.000001",
        ),
        (["--sampler", "enumerate", "--min_probability", "1.01"], "min_probability: .*less than or equal to 1"),
        (["--sampler", "enumerate", "--min_probability", "nan"], "min_probability: found 'nan'"),
        ([*ENUMERATE, "--do_sample", "false"], "do_sample: found false with --sampler enumerate"),
        ([*ENUMERATE, "--deduplicate", "false"], "deduplicate: found false with --sampler enumerate"),
        ([*ENUMERATE, "--temperature", "0"], "temperature: found 0.0 with sampling on"),
        (
            ["--exclusive", "true", "--deduplicate", "false"],
            "exclusive: found true with --deduplicate false, .* give one",
        ),
        (["--exclusive", "some"], "exclusive: found 'some'"),
        (["--kv_budget_gib", "0"], "kv_budget_gib"),
        (["--kv_budget_gib", "inf"], "kv_budget_gib"),
        (["--output_dataset_prefix", ""], "output_dataset_prefix"),
        (["--config", "/no/such/file.yaml"], "config: cannot read /no/such/file.yaml"),
        (["--config", "/"], "config: cannot read /"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_one_line_that_names_it(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(*argv)
    assert "\n" not in str(raised.value)


def test_a_value_without_a_flag_and_a_missing_run_are_errors() -> None:
    with pytest.raises(ConfigError, match="'stray' where a flag was expected"):
        load_config(["stray"], Path("/nowhere"))
    with pytest.raises(ConfigError, match="data_model_path: missing"):
        load_config([], Path("/nowhere"))


def test_enumeration_has_its_least_probability_and_any_law() -> None:
    config = load(*ENUMERATE, "--top_p", "0.9", "--stop_strings", ".")
    assert config.enumerates and not load().enumerates
    assert (config.min_probability, config.law.top_p, config.law.stop_strings) == (0.001, 0.9, (".",))
    assert load("--sampler=enumerate", "--min_probability=1").min_probability == 1
    assert load("--sampler=enumerate", "--min_probability=1e-6").min_probability == 1e-6


def test_one_run_of_a_job_may_be_enumerated(tmp_path: Path) -> None:
    job = {
        "stop_strings": "\n",
        "runs": [{"data_model_path": "/a"}, {"data_model_path": "/b", "sampler": "enumerate", "min_probability": 0.5}],
    }
    drawn, enumerated = load_yaml(tmp_path / "job.yaml", yaml.safe_dump(job)).run_configs()
    assert (drawn.enumerates, enumerated.enumerates) == (False, True)
    assert drawn.stop_strings == enumerated.stop_strings == ("\n",)


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ('stop_strings: "\\n"', ("\n",)),
        ("stop_strings: ['\\n', Q]", ("\\n", "Q")),  # single quotes: YAML leaves the backslash, and a file is believed
        ('{"stop_strings": ["\\n", " A:"]}', ("\n", " A:")),
        ("stop_strings: []", ()),
    ],
)
def test_a_file_has_stop_strings_as_yaml_and_json_write_them(content: str, meant: object, tmp_path: Path) -> None:
    assert load_yaml(tmp_path / "job.yaml", content, *RUN).stop_strings == meant


@pytest.mark.parametrize(("gib", "meant"), [("0.5", 2**29), ("80", 80 * 2**30), ("1e-10", 0)])
def test_the_budget_is_in_gib(gib: str, meant: int) -> None:
    assert load("--kv_budget_gib", gib).kv_budget_bytes == meant
    assert load().kv_budget_bytes is None


def test_temperature_zero_is_allowed_where_nothing_is_sampled() -> None:
    assert load("--temperature", "0", "--do_sample", "false").law.do_sample is False


def test_help_says_what_every_flag_does_and_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        load("--help")
    assert raised.value.code == 0
    help_text = capsys.readouterr().out
    assert "--runs" not in help_text
    options = "".join(help_text.split())  # lines end anywhere
    for name in JobConfig.model_fields.keys() - {"runs"}:
        description = "".join((JobConfig.model_fields[name].description or "none").split())
        assert re.search(rf"--{name}[\w\[\]{{}},.]*{re.escape(description)}", options), name


def test_importing_the_configuration_imports_neither_torch_nor_ray() -> None:
    """--help and a wrong flag answer at once."""
    heavy = ["torch", "ray", "transformers", "datasets"]
    code = f"import sys, evalgen.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_flags_override_shared_and_per_run_values(tmp_path: Path) -> None:
    job = {
        "num_generations": 10,
        "seed": 1,
        "runs": [{"data_model_path": "/a", "num_generations": 20}, {"data_model_path": "/b", "temperature": 0.5}],
    }
    path = tmp_path / "job.yaml"
    first, second = load_yaml(path, yaml.safe_dump(job)).run_configs()
    assert (first.num_generations, second.num_generations, second.temperature) == (20, 10, 0.5)
    first, second = load_yaml(path, yaml.safe_dump(job), "--num-generations", "3", "--temperature=0.2").run_configs()
    assert (first.num_generations, second.num_generations) == (3, 3)
    assert (first.temperature, second.temperature) == (0.2, 0.2)
    assert (first.seed, second.seed) == (1, 1)
    assert (first.data_model_path, second.data_model_path) == ("/a", "/b")


def test_a_configuration_written_and_loaded_again_is_the_same_job(tmp_path: Path) -> None:
    job = """
      extract_from_eval_datasets: ['a{1,2}', '\\d+']
      temperature: 0.30000000000000004
      output_dir: /out
      runs:
        - {data_model_path: /a, seed: 5, checkpoint_patterns: "checkpoint_*"}
        - {data_model_path: /b, grader_config_path: /g.json, query_json_path: "/q,[1].json", do_sample: false}
    """
    for config in (load_yaml(tmp_path / "job.yaml", job), load("--seed", "3", "--top_p", "0.1")):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config.model_dump(mode="json", exclude={"config"})))
        again = load_config(["--config", str(path)], Path("/elsewhere"))
        assert again.model_dump(exclude={"config"}) == config.model_dump(exclude={"config"})
        assert again.run_configs() == config.run_configs()
