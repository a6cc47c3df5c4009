"""Hostile configuration files, and paths: whatever a file holds, the answer is a job or one line of error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.config import JobConfig
from evalgen.errors import ConfigError
from evalgen.load_config import load_config


def load_yaml(path: Path, content: str | bytes, *argv: str) -> JobConfig:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_config(["--data_model_path", "/run", "--config", str(path), *argv], path.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a mapping of settings in .*, found NoneType"),
        ("- a", "expected a mapping of settings in .*, found list"),
        ("just text", "found str"),
        ("runs: 3", "runs: expected a list of mappings"),
        ("runs: {a: 1}", "runs: expected a list of mappings"),
        ("runs: [1]", "runs: expected a list of mappings"),
        ("runs: [[]]", "runs: expected a list of mappings"),
        ("runs:", "runs: expected a list of mappings"),
        ("temprature: 1", "unknown key temprature; did you mean temperature.*valid ones: .*num_generations"),
        ("runs: [{}, {temprature: 1}]", r"unknown key runs\[1\].temprature; did you mean temperature"),
        ("runs: [{output_dir: /x}]", r"unknown key runs\[0\].output_dir"),
        ("runs: [{runs: []}]", r"unknown key runs\[0\].runs"),
        ("runs: [{1: 2}]", "runs"),
        ("runs: [{seed: -1}]", r"runs\[0\].seed: found -1"),
        ("runs: [{}, {temperature: 0}]", "temperature: found 0"),
        ("seed: [1]", "seed"),
        ("seed: 1.5", "seed"),
        ("seed:", "seed"),
        ("temperature: .inf", "temperature"),
        ("checkpoint_patterns: 5", "checkpoint_patterns"),
        ("checkpoint_patterns: [1]", "checkpoint_patterns.0"),
        ("extract_from_eval_datasets: {a: 1}", "extract_from_eval_datasets"),
        ("[[[[", "not valid YAML"),
        ("a: *missing", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: &a [*a]", "unknown key a"),
        (b"\xff\xfe\x00", "cannot read"),
        ("!!python/object/apply:os.system ['touch PWNED']", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_yaml(tmp_path / "job.yaml", content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        "1: 2",
        "on: true",
        "2026-01-20: x",
        "null: 1",
        "_env_file: x",
        "_cli_parse_args: ['--seed', '3']",
        "_secrets_dir: /tmp",
    ],
)
def test_a_key_that_is_no_setting_is_unknown_whatever_it_is(content: str, tmp_path: Path) -> None:
    """Names with an underscore are parameters of the settings library's own."""
    with pytest.raises(ConfigError, match="unknown key"):
        load_yaml(tmp_path / "job.yaml", content)


@pytest.mark.parametrize("content", ["output_dir: 3", "output_dir: null", "output_dir: [a]"])
def test_an_output_directory_that_is_no_text_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="output_dir"):
        load_yaml(tmp_path / "job.yaml", content)


def test_a_file_nested_too_deep_is_an_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_yaml(tmp_path / "job.yaml", "[" * 1200)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_NAMES = st.sampled_from([*JobConfig.model_fields, "unknown", "_x"]) | st.text("ab{[:,", min_size=1, max_size=3)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3))


@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_any_mapping_is_a_job_or_a_configuration_error(content: dict[str, object], tmp_path: Path) -> None:
    try:
        config = load_yaml(tmp_path / "job.yaml", yaml.safe_dump(content))
    except ConfigError as error:
        assert str(error)
    else:
        assert config.run_configs()


def test_the_environment_does_not_change_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SEED=5\n")
    monkeypatch.setenv("SEED", "6")
    monkeypatch.setenv("TEMPERATURE", "0.9")
    config = load_config(["--data_model_path", "/run"], tmp_path)
    assert (config.seed, config.temperature) == (42, 0.1)


def test_relative_paths_are_taken_from_here_and_else_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    for directory in (here / "configs", root / "configs", root / "outputs" / "run"):
        directory.mkdir(parents=True)
    monkeypatch.chdir(here)
    for typed, meant in {
        "configs": here / "configs",
        "outputs/run": root / "outputs" / "run",
        "configs/missing.json": root / "configs" / "missing.json",
        "/absolute/../x": "/x",
        "allenai/OLMo-2-1124-7B": "allenai/OLMo-2-1124-7B",  # nothing there, and shaped like a hub id
    }.items():
        assert load_config(["--data_model_path", typed], root).data_model_path == str(meant)


@pytest.mark.parametrize("name", ["output_dir", "query_json_path", "grader_config_path"])
def test_only_a_model_can_be_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted job that writes to results/today would lose it with its working directory."""
    (tmp_path / "here").mkdir()
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(["--data_model_path", "/run", f"--{name}", "results/today"], tmp_path / "root")
    assert getattr(config, name) == str(tmp_path / "root" / "results" / "today")


@pytest.mark.parametrize(("key", "argv"), [("config", []), ("output_dir", ["--output_dir", "/x"])])
def test_a_key_that_no_run_has_is_an_error_whatever_the_flags(key: str, argv: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load_yaml(tmp_path / "job.yaml", f"runs: [{{{key}: x}}]", *argv)


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        *((flag, "~no_such_user/x") for flag in ("--data_model_path", "--output_dir")),
        *((flag, "x" * 300) for flag in ("--data_model_path", "--query_json_path")),
        ("--output_dir", "x" * 300),  # refused when it is made
    ],
    ids=lambda value: value[:20],
)
def test_an_impossible_path_is_at_most_a_configuration_error(flag: str, path: str, tmp_path: Path) -> None:
    try:
        load_config([flag, path], tmp_path)
    except ConfigError:
        return


def test_a_configuration_file_of_nobody_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(["--config", "~no_such_user/job.yaml"], tmp_path)
