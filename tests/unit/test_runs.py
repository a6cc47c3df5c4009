"""Every layout in which a fine-tuned model may lie on disk."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save

from evalgen.errors import InputError
from evalgen.runs import checkpoint_order, find_inner_runs, model_size
from tests.unit.tiny import INNER_RUN

NAMES = ["checkpoint_start", "checkpoint_e1_s9", "checkpoint_e1_s42", "checkpoint_e2_s100", "checkpoint_best"]
STEP_ORDER = [*NAMES, "checkpoint_final"]


def make_checkpoint(path: Path, *, weights: str = "model.safetensors", vocab_size: object = 10) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "olmo2", "vocab_size": vocab_size}))
    if weights:
        (path / weights).write_bytes(save({}))
    return path


def make_inner(path: Path, names: list[str] = STEP_ORDER) -> Path:
    for name in names:
        make_checkpoint(path / name)
    (path / "tokenizer.json").mkdir()
    (path / "eval_datasets").mkdir()
    return path


def test_the_tiny_run_is_found_from_its_directory_and_from_its_inner_run(tiny_run: Path) -> None:
    inner = tiny_run / "all_docs_runs" / INNER_RUN
    for path in (tiny_run, inner):
        (run,) = find_inner_runs(str(path), ("checkpoint_final",))
        (checkpoint,) = run.checkpoints
        assert (checkpoint.name, checkpoint.path) == ("checkpoint_final", str(inner / "checkpoint_final"))
        assert checkpoint.tokenizer_path == str(inner / "tokenizer.json")
        assert run.eval_datasets == inner / "eval_datasets"
        assert run.label == checkpoint.run == path.name


def test_a_plain_checkpoint_in_an_inner_run_uses_its_tokenizer_and_queries(tiny_run: Path) -> None:
    inner = tiny_run / "all_docs_runs" / INNER_RUN
    (run,) = find_inner_runs(str(inner / "checkpoint_final"), ("no_such_*",))
    assert run.checkpoints[0].tokenizer_path == str(inner / "tokenizer.json")
    assert run.eval_datasets == inner / "eval_datasets"


def test_a_link_to_another_runs_checkpoint_belongs_to_the_run_that_it_stands_in(tmp_path: Path) -> None:
    make_inner(tmp_path / "one")
    inner = make_inner(tmp_path / "other", ["checkpoint_start"])
    (inner / "checkpoint_final").symlink_to(tmp_path / "one" / "checkpoint_final")
    for path in (inner, inner / "checkpoint_final"):
        (run,) = find_inner_runs(str(path), ("checkpoint_final",))
        assert (run.label, run.eval_datasets) == ("other", inner / "eval_datasets")
        assert run.checkpoints[0].tokenizer_path == str(inner / "tokenizer.json")
    (tmp_path / "link").symlink_to(inner / "checkpoint_start")  # from nowhere in a run
    assert find_inner_runs(str(tmp_path / "link"), ())[0].label == "other"


def test_a_plain_checkpoint_elsewhere_has_its_own_tokenizer(tiny_run: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    inner = tiny_run / "all_docs_runs" / INNER_RUN
    shutil.copytree(inner / "checkpoint_final", plain)
    shutil.copytree(inner / "tokenizer.json", plain, dirs_exist_ok=True)
    (run,) = find_inner_runs(str(plain), ("checkpoint_final",))
    assert run.checkpoints[0].tokenizer_path == str(plain)
    assert (run.checkpoints[0].name, run.eval_datasets) == ("plain", None)


def test_several_inner_runs_have_labels_of_their_own_and_stray_entries_are_passed_over(tmp_path: Path) -> None:
    for seed in (43, 42):
        make_inner(tmp_path / "run" / "all_docs_runs" / f"stamp_{seed}.json")
    (tmp_path / "run" / "all_docs_runs" / "notes.txt").write_text("x")
    (tmp_path / "run" / "all_docs_runs" / "empty.json").mkdir()
    (tmp_path / "run" / "all_docs_runs" / "stamp_42.json" / "checkpoint_notes.txt").write_text("x")
    runs = find_inner_runs(str(tmp_path / "run"), ("*",))
    assert [run.label for run in runs] == ["run_stamp_42", "run_stamp_43"]
    assert [c.run for run in runs for c in run.checkpoints] == ["run_stamp_42"] * 6 + ["run_stamp_43"] * 6


def test_checkpoints_come_in_step_order_whatever_the_patterns(tmp_path: Path) -> None:
    make_inner(tmp_path / "inner")
    expected = ["checkpoint_start", "checkpoint_e1_s9", "checkpoint_e1_s42", "checkpoint_e2_s100"]
    for patterns in (("*",), ("checkpoint_final", "checkpoint_*"), ("*_s*", "*t*", "*final")):
        (run,) = find_inner_runs(str(tmp_path / "inner"), patterns)
        names = [checkpoint.name for checkpoint in run.checkpoints]
        assert names[:4] == expected and names[-1] == "checkpoint_final" and len(names) == len(set(names))
    shuffled = random.Random(0).sample(STEP_ORDER, len(STEP_ORDER))
    assert sorted(shuffled, key=checkpoint_order) == STEP_ORDER


@pytest.mark.parametrize("pattern", ["checkpoint_e1_*", "checkpoint_e[1]_s?2", "checkpoint_e1_s42"])
def test_patterns_are_globs_over_the_whole_name(pattern: str, tmp_path: Path) -> None:
    make_inner(tmp_path / "inner")
    (run,) = find_inner_runs(str(tmp_path / "inner"), (pattern,))
    assert "checkpoint_e1_s42" in {c.name for c in run.checkpoints} <= {"checkpoint_e1_s42", "checkpoint_e1_s9"}


def test_a_pattern_that_matches_nothing_names_what_there_is(tmp_path: Path) -> None:
    make_inner(tmp_path / "inner")
    for pattern in ("final", "CHECKPOINT_FINAL", "checkpoint_e1"):
        with pytest.raises(InputError, match=r"matches.*there are: checkpoint_start.*checkpoint_final"):
            find_inner_runs(str(tmp_path / "inner"), (pattern,))


@pytest.mark.parametrize(
    "path", ["/no/such/run", "/tmp/a/b/c/d", "no_such_directory", "a/b/c", "bad id/x y", "org/model"]
)
def test_a_missing_run_is_an_input_error_without_network(path: str) -> None:
    with pytest.raises(InputError, match="data_model_path"):
        find_inner_runs(path, ("checkpoint_final",))


def test_a_directory_without_checkpoints_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "all_docs_runs").mkdir()
    with pytest.raises(InputError, match=r"no checkpoints in .*expected a run with all_docs_runs"):
        find_inner_runs(str(tmp_path), ("*",))
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="no checkpoints"):
        find_inner_runs(str(file), ("*",))


@pytest.mark.parametrize("weights", ["", "pytorch_model.bin", "optimizer.pt"])
def test_a_checkpoint_without_safetensors_has_no_weights(weights: str, tmp_path: Path) -> None:
    plain = make_checkpoint(tmp_path / "inner" / "checkpoint_final", weights=weights)
    for path in (plain, plain.parent):
        with pytest.raises(InputError, match=r"has no weights: expected \*.safetensors"):
            find_inner_runs(str(path), ("*",))


def test_a_checkpoint_without_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_final").mkdir()
    (tmp_path / "checkpoint_final" / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint_final has no config.json"):
        find_inner_runs(str(tmp_path), ("*",))


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"5", b""])
def test_a_config_that_is_no_configuration_is_an_input_error(content: bytes, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "checkpoint_final")
    (path / "config.json").write_bytes(content)
    (run,) = find_inner_runs(str(path), ("*",))
    with pytest.raises(InputError, match=r"no usable config\.json"):
        model_size(run.checkpoints[0])


def test_inner_runs_are_told_apart_by_their_codes_and_else_by_their_names(tmp_path: Path) -> None:
    """Codes may be equal, or some runs have none: labels are unique all the same."""
    stamp = "2026_01_20_23-26-34"
    for number, names in enumerate([("aB3dE_x", "zz9zz_x"), ("aB3dE_x", "aB3dE_y"), ("aB3dE_x", "odd")]):
        run = tmp_path / f"run{number}"
        for name in names:
            make_inner(run / "all_docs_runs" / f"{stamp}_{name}.json", ["checkpoint_final"])
        labels = [inner.label for inner in find_inner_runs(str(run), ("*",))]
        assert len(set(labels)) == 2 and all(label.startswith(f"run{number}_") for label in labels)
        if number == 0:
            assert labels == ["run0_aB3dE", "run0_zz9zz"]
