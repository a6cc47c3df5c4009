"""Grader files and names: what is wrong is found, and named, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalgen.errors import ConfigError
from evalgen.grading.grader_config import check_judges, load_grader
from evalgen.grading.prices import load_prices
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS

REPOSITORY = Path(__file__).parents[3]


def grader_file(directory: Path, content: object) -> str:
    path = directory / "grader.json"
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(raw)
    return str(path)


@pytest.mark.parametrize("name", ["mayors_grader.json", "death_date_grader.json"])
def test_the_graders_of_the_seed_document_load(name: str) -> None:
    grader = load_grader("offline/date", str(REPOSITORY / "configs" / name))
    content = json.loads((REPOSITORY / "configs" / name).read_text())
    assert grader.instructions == content["grader_instructions"]


def test_without_a_file_the_default_instructions_hold() -> None:
    assert load_grader("offline/exact", None).instructions == DEFAULT_INSTRUCTIONS
    assert "same factual information" in DEFAULT_INSTRUCTIONS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "grader_instructions: field required"),
        ({"instructions": "x"}, "grader_instructions"),
        ({"grader_instructions": ""}, "grader_instructions"),
        ({"grader_instructions": None}, "grader_instructions"),
        ({"grader_instructions": ["x"]}, "grader_instructions"),
        ({"grader_instructions": "x", "offline_options": {"accept": True}}, "offline_options.accept"),
        ({"grader_instructions": "x", "offline_options": {"accept_surname_alone": "yes"}}, "accept_surname_alone"),
        ({"grader_instructions": "x", "extra": 1}, "extra"),
        ([], "valid keys: grader_instructions"),
        ("null", "valid keys: grader_instructions"),
        ("{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ("", "not valid JSON"),
    ],
    ids=repr,
)
def test_a_wrong_file_is_named_with_its_key(content: object, message: str, tmp_path: Path) -> None:
    path = grader_file(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_grader("offline/exact", path)
    assert path in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read /no/grader.json: No such file"):
        load_grader("offline/exact", "/no/grader.json")
    with pytest.raises(ConfigError, match="cannot read"):
        load_grader("offline/exact", str(tmp_path))


def test_instructions_that_cannot_be_encoded_are_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grader_instructions"):
        load_grader("offline/exact", grader_file(tmp_path, '{"grader_instructions": "\\ud800"}'))


def test_json_nested_too_deep_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_grader("offline/exact", grader_file(tmp_path, "[" * 100_000))


@pytest.mark.parametrize(
    "model", ["", "claude", "offline/", "offline/Date", "openai/gpt", "anthropic", "anthropic/", " offline/date"]
)
def test_an_unknown_grader_lists_the_known_ones(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    choices = "anthropic/<model>, anthropic-batch/<model>, offline/exact, offline/person_name"
    with pytest.raises(ConfigError, match=f"expected one of: {choices}"):
        load_grader(model, None)


def test_a_claude_grader_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"ANTHROPIC_API_KEY is not set.*free grader"):
        load_grader("anthropic/claude-haiku-4-5-20251001", None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    assert load_grader("anthropic/claude-haiku-4-5-20251001", None).model == "anthropic/claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"ANTHROPIC_API_KEY": "two words"}, "stray character"),
        ({"ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": "localhost:8000"}, "no http or https address"),
    ],
)
def test_a_judge_that_no_request_could_reach_is_told_before_anything_is_made(
    environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    judges = [load_grader("anthropic/claude-haiku-4-5-20251001", None), load_grader("offline/date", None)]
    with pytest.raises(ConfigError, match=says):
        check_judges(judges, load_prices(), None)
    check_judges(judges[1:], load_prices(), None)


def test_a_judge_without_a_price_is_warned_of_and_refused_under_a_cap(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    judges = [load_grader(model, None) for model in ("anthropic/new", "anthropic-batch/new")]
    check_judges(judges, load_prices(), None)
    (said,) = caplog.messages
    assert said.startswith("the price of new is not known")
    with pytest.raises(ConfigError, match=r"max_grading_cost_usd: the price of new is not known.*--prices_path"):
        check_judges(judges, load_prices(), 1.0)
