"""Values as typed on a command line, lists above all: they arrive as they were typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.config import JobConfig, load_config
from evalgen.errors import ConfigError


def load(*argv: str) -> JobConfig:
    return load_config(["--data_model_path", "/run", *argv], Path("/nowhere"))


LISTS = [
    (["a", "b"], ("a", "b")),
    (['["a", "b"]'], ("a", "b")),
    (['["a"]', "b"], ("a", "b")),
    (["qa_{1,2}_no_fs"], ("qa_{1,2}_no_fs",)),
    (["a,b"], ("a,b",)),
    (["[ab],[cd]"], ("[ab],[cd]",)),
    (["[0-9]+$"], ("[0-9]+$",)),
    (["[1]"], ("[1]",)),
    (["(?:a|b)(?!c)"], ("(?:a|b)(?!c)",)),
    (["{x}"], ("{x}",)),
    (["-x", "-1"], ("-x", "-1")),
    (["null", "None", "true", "1.5"], ("null", "None", "true", "1.5")),
    ([" a "], (" a ",)),
    (["'a'"], ("'a'",)),
    (["a=b"], ("a=b",)),
]
MISREAD_LISTS = [
    ([value], (value,))
    for value in (r"\d+", r"eval_qa_\d{1,2}_no_fs", "São", "\\", 'a"b', '"a"', '{"a": 1}', '["a"', "a\nb")
]


@pytest.mark.parametrize(("typed", "meant"), [*LISTS, *MISREAD_LISTS])
@pytest.mark.parametrize("name", ["extract_from_eval_datasets", "checkpoint_patterns", "stop_strings"])
def test_a_list_is_read_in_every_form(name: str, typed: list[str], meant: tuple[str, ...]) -> None:
    assert getattr(load(f"--{name}", *typed), name) == meant
    repeated = [part for value in typed for part in (f"--{name}", value)]
    assert getattr(load(*repeated), name) == meant
    with_equals = [f"--{name}={value}" for value in typed]
    assert getattr(load(*with_equals), name) == meant


@pytest.mark.parametrize("name", ["extract_from_eval_datasets", "checkpoint_patterns"])
def test_a_pattern_may_be_empty(name: str) -> None:
    assert getattr(load(f"--{name}", ""), name) == getattr(load(f"--{name}="), name) == ("",)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(patterns=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=3))
def test_any_patterns_given_as_a_json_list_arrive_unchanged(patterns: list[str]) -> None:
    assert load("--checkpoint_patterns", json.dumps(patterns)).checkpoint_patterns == tuple(patterns)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(strings=st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\t\\n"), min_size=1)))
def test_any_stop_strings_arrive_unchanged_or_are_refused_for_their_backslash(strings: list[str]) -> None:
    try:
        assert load("--stop_strings", json.dumps(strings)).law.stop_strings == tuple(strings)
    except ConfigError as error:
        assert any(f"\\{letter}" in string for letter in "nrt" for string in strings), error


@pytest.mark.parametrize(
    "prefix", ["a,b", "[a]", "{a}", '{"a": 1}', '"a"', "é", "a=b", r"\d", "true", "1"]
)  # none of them a list or JSON
def test_a_plain_value_is_taken_as_typed(prefix: str) -> None:
    assert load("--output_dataset_prefix", prefix).output_dataset_prefix == prefix


@pytest.mark.parametrize("argv", [["--output_dataset_prefix", "-sampled"], ["--output_dataset_prefix=-sampled"]])
def test_a_plain_value_may_begin_with_a_dash(argv: list[str]) -> None:
    assert load(*argv).output_dataset_prefix == "-sampled"


def test_a_project_named_null_is_a_name() -> None:
    assert load("--wandb_project", "null").wandb_project == "null"
