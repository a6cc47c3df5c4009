"""What a configuration resolves to: datasets with unique names, found before anything is made; and its units."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoModelForCausalLM

from evalgen.config import JobConfig
from evalgen.errors import ConfigError, InputError, LoadFailed
from evalgen.files import whole_directory
from evalgen.job import DatasetPlan, resolve_job
from evalgen.load_config import load_config
from evalgen.records import SamplingUnit
from evalgen.sampling.model import load_model
from evalgen.tokenization import load_tokenizer
from evalgen.units import plan_units
from tests.unit.tiny import INNER_RUN, MAYORS, mayor_prompt, plan_of, query

ARGS = ["--extract_from_eval_datasets", "qa_1_no_fs", "--grader_model", "offline/exact", "--dtype", "fp32"]


def config_of(run: Path, *argv: str) -> JobConfig:
    return load_config(["--data_model_path", str(run), *ARGS, *argv], run)


def copy_of(tiny_run: Path, to: Path, *, inner_runs: int = 1) -> Path:
    """A run that a test may damage."""
    for number in range(inner_runs):
        shutil.copytree(tiny_run / "all_docs_runs" / INNER_RUN, to / "all_docs_runs" / f"seed{42 + number}.json")
    return to


def test_one_run_is_one_dataset_of_its_queries(tiny_run: Path) -> None:
    (plan,) = resolve_job(config_of(tiny_run, "--output_dataset_prefix", "sampled_x"))
    assert plan.name == "sampled_x_checkpoint_final"
    assert [q.prompt for q in plan.queries] == [mayor_prompt(city) for city in MAYORS]
    assert (plan.grader.model, plan.checkpoint.run) == ("offline/exact", tiny_run.name)


def test_datasets_of_one_name_have_the_run_in_it(tiny_run: Path, tmp_path: Path) -> None:
    run = copy_of(tiny_run, tmp_path / "run", inner_runs=2)
    shutil.copytree(
        run / "all_docs_runs/seed42.json/checkpoint_final", run / "all_docs_runs/seed42.json/checkpoint_start"
    )
    names = [plan.name for plan in resolve_job(config_of(run, "--checkpoint_patterns", "*"))]
    assert names == [
        "sampled_checkpoint_start",
        "sampled_run_seed42_checkpoint_final",
        "sampled_run_seed43_checkpoint_final",
    ]


def test_two_runs_of_one_job_never_share_a_name(tiny_run: Path, tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [{"data_model_path": str(tiny_run)}, {"data_model_path": str(tiny_run), "seed": 1}]
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"runs": runs}))
    with pytest.raises(ConfigError, match=r"2 datasets would be named .*give each run its own"):
        resolve_job(load_config(["--config", str(job), *ARGS], tmp_path))
    runs[1]["output_dataset_prefix"] = "sampled_again"
    job.write_text(json.dumps({"runs": runs}))
    plans = resolve_job(load_config(["--config", str(job), *ARGS], tmp_path))
    assert [plan.name for plan in plans] == ["sampled_checkpoint_final", "sampled_again_checkpoint_final"]


def test_a_prefix_without_the_word_sampled_is_warned_about(tiny_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="evalgen"):
        resolve_job(config_of(tiny_run, "--output_dataset_prefix", "mayors"))
    assert "lacks the word 'sampled'" in caplog.text


@pytest.mark.parametrize("prefix", ["sampled/x", "../sampled"])
def test_a_prefix_that_is_no_directory_name_is_refused(tiny_run: Path, prefix: str) -> None:
    with pytest.raises(InputError, match="no directory name"):
        resolve_job(config_of(tiny_run, "--output_dataset_prefix", prefix))


@pytest.mark.parametrize("character", ["x", "é"])
def test_the_longest_name_that_is_taken_can_be_written_whole_and_partial_and_in_place_of_another(
    tiny_run: Path, tmp_path: Path, character: str
) -> None:
    def named(num_bytes: int) -> str:
        prefix = character * ((num_bytes - len("_checkpoint_final")) // len(character.encode()))
        (plan,) = resolve_job(config_of(tiny_run, "--output_dataset_prefix", prefix))
        return plan.name

    longest = 255 - len(".partial.replaced")
    for _ in range(2):  # the second replaces the first
        with whole_directory(tmp_path / f"{named(longest)}.partial"):
            pass
    with pytest.raises(InputError, match=r"too long by [12] bytes; shorten --output_dataset_prefix"):
        named(longest + len(character.encode()))


@pytest.mark.parametrize("ending", [".partial", ".writing", ".replaced"])
def test_a_checkpoint_whose_dataset_would_look_unfinished_is_refused(
    tiny_run: Path, tmp_path: Path, ending: str
) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    inner = run / "all_docs_runs/seed42.json"
    shutil.copytree(inner / "checkpoint_final", inner / f"checkpoint_final{ending}")
    resolve_job(config_of(run))
    with pytest.raises(InputError, match="ends as those of unfinished datasets do"):
        resolve_job(config_of(run, "--checkpoint_patterns", "checkpoint_*"))


def test_a_prefix_with_a_null_character_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text('output_dataset_prefix: "sampled\\0x"')
    with pytest.raises((InputError, ConfigError)):
        resolve_job(config_of(tiny_run, "--config", str(tmp_path / "job.yaml")))


def test_a_tokenizer_that_does_not_fit_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    config = run / "all_docs_runs/seed42.json/checkpoint_final/config.json"
    config.write_text(config.read_text().replace('"vocab_size": ', '"vocab_size": 100, "was": '))
    with pytest.raises(InputError, match=r"does not fit checkpoint .* the model has 100"):
        resolve_job(config_of(run))


def test_a_completion_that_crosses_the_length_at_which_longrope_changes_is_refused(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    path = run / "all_docs_runs/seed42.json/checkpoint_final/config.json"
    config = json.loads(path.read_text())
    width = config["hidden_size"] // config["num_attention_heads"] // 2
    factors = {"short_factor": [1.0] * width, "long_factor": [5.0] * width}
    length = {"original_max_position_embeddings": 40}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **length, **factors}
    path.write_text(json.dumps({**config, **length, "model_type": "phi3", "rope_parameters": rope}))
    resolve_job(config_of(run, "--max_new_tokens", "1"))
    with pytest.raises(InputError, match=r"LongRoPE.*give --max_new_tokens \d+, or a longer prompt"):
        resolve_job(config_of(run, "--max_new_tokens", "40"))


def test_a_stop_string_that_no_text_can_have_is_refused(tiny_run: Path) -> None:
    (plan,) = resolve_job(config_of(tiny_run, "--stop_strings", "Grace"))
    special = load_tokenizer(plan.checkpoint.tokenizer_path).all_special_tokens[0]
    with pytest.raises(InputError, match=r"is a special token of .* and never in a text; .* eos_token_id"):
        resolve_job(config_of(tiny_run, "--stop_strings", f"x{special}"))


def test_a_special_token_without_a_name_is_one_too(tiny_run: Path, tmp_path: Path) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    directory = run / "all_docs_runs/seed42.json/tokenizer.json"
    tokenizer = load_tokenizer(str(directory))
    unnamed = tokenizer.convert_ids_to_tokens(300)
    tokenizer.add_tokens([AddedToken(unnamed, special=True)], special_tokens=True)
    tokenizer.save_pretrained(str(directory))
    assert unnamed not in load_tokenizer(str(directory)).all_special_tokens
    with pytest.raises(InputError, match="is a special token of"):
        resolve_job(config_of(run, "--stop_strings", unnamed))


def test_a_run_without_eval_datasets_or_tokenizer_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    shutil.rmtree(run / "all_docs_runs/seed42.json/eval_datasets")
    with pytest.raises(InputError, match="no eval_datasets directory"):
        resolve_job(config_of(run))
    run = copy_of(tiny_run, tmp_path / "run2")
    shutil.rmtree(run / "all_docs_runs/seed42.json/tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer .* cannot be loaded"):
        resolve_job(config_of(run))
    (run / "all_docs_runs/seed42.json/tokenizer.json").mkdir()
    with pytest.raises(InputError, match=r"tokenizer .* cannot be loaded"):
        resolve_job(config_of(run))


def test_resolving_creates_nothing(tiny_run: Path, tmp_path: Path) -> None:
    run = copy_of(tiny_run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    resolve_job(config_of(run, "--output_dir", str(tmp_path / "out")))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_saved_checkpoint_loads_as_the_model_that_was_saved(tiny_run: Path, model: torch.nn.Module) -> None:
    (plan,) = resolve_job(config_of(tiny_run))
    loaded = load_model(plan.checkpoint, "fp32", torch.device("cpu"))
    assert loaded.eos_ids == {0} and loaded.undrawable.tolist() == []
    assert loaded.footprint.shares_prompts and loaded.num_logits == len(loaded.tokenizer)
    ids = torch.tensor([[0, 50, 60]])
    with torch.inference_mode():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert load_model(plan.checkpoint, "bf16", torch.device("cpu")).model.dtype == torch.bfloat16


def _damaged(tiny_run: Path, to: Path, damage: str) -> Path:
    run = copy_of(tiny_run, to)
    checkpoint = run / "all_docs_runs/seed42.json/checkpoint_final"
    weights = checkpoint / "model.safetensors"
    if damage == "garbage":
        weights.write_bytes(b"garbage")
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "unknown architecture":
        (checkpoint / "config.json").write_text('{"model_type": "no_such_model", "vocab_size": 400}')
    else:
        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
        tensor = tensors.pop(name)
        if damage == "other shape":
            tensors[name] = tensor[:5].clone()
        save_file(tensors, weights, {"format": "pt"})
    return run


@pytest.mark.parametrize(
    "damage",
    [
        "unknown architecture",
        "garbage",
        "cut off",
        "other shape",
        "missing tensor",
    ],
)
def test_damaged_weights_are_an_input_error_never_a_model(damage: str, tiny_run: Path, tmp_path: Path) -> None:
    config = config_of(_damaged(tiny_run, tmp_path / "run", damage))
    if damage in ("unknown architecture", "garbage", "cut off"):  # seen before anything is made
        with pytest.raises(InputError):
            resolve_job(config)
        return
    (plan,) = resolve_job(config)
    with pytest.raises(InputError):
        load_model(plan.checkpoint, "fp32", torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        torch.OutOfMemoryError("no room"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=repr,
)
def test_what_may_pass_while_loading_is_not_held_against_the_checkpoint(
    error: Exception, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plan,) = resolve_job(config_of(tiny_run))

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(LoadFailed, match=f"{plan.checkpoint.path} cannot be loaded"):
        load_model(plan.checkpoint, "fp32", torch.device("cpu"))


def test_a_device_that_breaks_while_loading_is_not_held_against_the_checkpoint(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plan,) = resolve_job(config_of(tiny_run))

    def breaks(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", breaks)
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        load_model(plan.checkpoint, "fp32", torch.device("cpu"))


def test_weights_that_a_node_does_not_see_may_be_seen_by_another(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (plan,) = resolve_job(config_of(run))
    shutil.rmtree(run)
    with pytest.raises(LoadFailed, match="cannot be loaded"):
        load_model(plan.checkpoint, "fp32", torch.device("cpu"))


def units_of(plan: DatasetPlan, num_replicas: int = 1) -> tuple[SamplingUnit, ...]:
    return plan_units([plan], num_replicas)


def test_units_hold_every_query_once_and_in_order() -> None:
    queries = [query(str(n)) for n in range(137)]
    for num_replicas in (1, 3, 200):
        units = units_of(plan_of(queries), num_replicas)
        assert [q for unit in units for q in unit.queries] == queries
        assert len({unit.id for unit in units}) == len(units)
        assert {(unit.first_draw, unit.num_draws) for unit in units} == {(0, 1000)}


def test_a_unit_survives_its_row() -> None:
    (unit,) = units_of(plan_of([query("São\n\0", id="é", topic=["x", {"y": None}])], temperature=0.1 + 0.2))
    assert SamplingUnit.from_row(unit.to_row()) == unit
    assert all(isinstance(value, str) for value in unit.to_row().values())


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"temperature": 0.2},
        {"num_generations": 7},
        {"max_new_tokens": 3},
        {"top_k": 2},
        {"stop_strings": ["\n"]},
        {"sampler": "enumerate", "min_probability": 0.1},
        {"dtype": "bf16"},
    ],
    ids=str,
)
def test_a_unit_id_changes_with_what_is_drawn_and_with_nothing_else(changed: dict[str, Any]) -> None:
    (same,), (again,) = units_of(plan_of([query("p")])), units_of(plan_of([query("p")]))
    (other,) = units_of(plan_of([query("p")], **changed))
    (batch,) = units_of(plan_of([query("p", reference=" other")], generation_batch_size=3))
    assert same.id == again.id == batch.id != other.id


def test_the_unit_id_of_an_enumeration_changes_with_its_least_probability_and_not_with_draws() -> None:
    def id_of(**changed: Any) -> str:
        enumerate_all = {"sampler": "enumerate", "min_probability": 0.1}
        (unit,) = units_of(plan_of([query("p")], **enumerate_all | changed))
        return unit.id

    assert id_of() == id_of(seed=1) == id_of(num_generations=7)
    assert len({id_of(), id_of(min_probability=0.2), id_of(stop_strings=["x"]), id_of(stop_strings=["x", "y"])}) == 4


@settings(max_examples=50, derandomize=True)
@given(stop_strings=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3))
def test_stop_strings_survive_the_row_of_a_unit(stop_strings: list[str]) -> None:
    (unit,) = units_of(plan_of([query("p")], stop_strings=stop_strings))
    assert unit.law.stop_strings == tuple(stop_strings)
    assert SamplingUnit.from_row(unit.to_row()) == unit
