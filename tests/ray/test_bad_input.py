"""A user's mistake is one line and exit code 2; nothing is created, no model is loaded, no Ray is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from ray_jobs.generate_eval_datasets import main
from tests.ray.conftest import RayCluster
from tests.ray.jobs import mayors_arguments


class Case:
    """A correct job that a test breaks in one place."""

    def __init__(self, run: Path, directory: Path) -> None:
        self.run = directory / "run"
        shutil.copytree(run, self.run)
        (self.inner,) = (self.run / "all_docs_runs").iterdir()
        self.checkpoint = self.inner / "checkpoint_final"
        self.output_dir = directory / "outputs"
        self.file = directory / "input.json"
        self.arguments: dict[str, object] = {}

    def write(self, content: object) -> Path:
        self.file.write_text(content if isinstance(content, str) else json.dumps(content))
        return self.file


def queries(case: Case, *entries: dict[str, object]) -> None:
    case.arguments["query_json_path"] = case.write(list(entries))


def remove_weights(case: Case) -> None:
    for file in case.checkpoint.glob("*.safetensors"):
        file.unlink()


def cut_weights(case: Case) -> None:
    (file,) = case.checkpoint.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])


def shrink_vocabulary(case: Case) -> None:
    config = case.checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 50}))


def arguments(**changed: object) -> Callable[[Case], None]:
    return lambda case: case.arguments.update(changed)


def grader(content: object) -> Callable[[Case], None]:
    return lambda case: case.arguments.update(grader_config_path=case.write(content))


MISTAKES: dict[str, tuple[Callable[[Case], None], str]] = {
    "missing run": (lambda case: shutil.rmtree(case.run), "does not exist"),
    "empty run": (lambda case: shutil.rmtree(case.run / "all_docs_runs"), "no checkpoints in"),
    "no checkpoint matches": (arguments(checkpoint_patterns="checkpoint_e9*"), "there are: checkpoint_start"),
    "no query matches": (arguments(extract_from_eval_datasets="no_such_set"), "matches none of"),
    "bad regex": (arguments(extract_from_eval_datasets="(unclosed"), "not a regular expression"),
    "unknown flag": (arguments(num_generation=5), "did you mean num_generations?"),
    "unknown config key": (
        lambda c: c.arguments.update(config=c.write({"temprature": 1})),
        "did you mean temperature?",
    ),
    "negative number": (arguments(num_generations=-3), "num_generations: found '-3'"),
    "temperature 0 with sampling": (arguments(temperature=0), "--do_sample false"),
    "unknown grader": (arguments(grader_model="openai/gpt"), "anthropic/<model>, anthropic-batch/<model>, offline/"),
    "missing grader file": (arguments(grader_config_path="/no/such/grader.json"), "cannot read"),
    "grader file without instructions": (grader({}), "grader_instructions"),
    "malformed grader file": (grader("{"), "not valid JSON"),
    "malformed query file": (lambda case: case.arguments.update(query_json_path=case.write("[")), "not valid JSON"),
    "query without prompt": (lambda case: queries(case, {"id": "a"}), "queries[0].prompt: field required"),
    "empty prompt": (
        lambda case: queries(case, {"id": "a", "prompt": " ", "original_completion": "x"}),
        "empty prompt",
    ),
    "duplicate ids": (
        lambda case: queries(case, *[{"id": "a", "prompt": p, "original_completion": "x"} for p in "pq"]),
        "duplicate query id 'a'",
    ),
    "checkpoint without weights": (remove_weights, "has no weights"),
    "prompt and completion too long": (arguments(max_new_tokens=511), "shorten one of them"),
    "cut weights": (cut_weights, "damaged or not whole"),
    "tokenizer that does not fit": (shrink_vocabulary, "does not fit checkpoint"),
    "wandb without a project": (arguments(logging_type="wandb"), "--wandb_project"),
}


@pytest.mark.parametrize(("spoil", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_nothing_is_created(
    spoil: Callable[[Case], None],
    message: str,
    joined_cluster: RayCluster,
    mayors_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = Case(mayors_run, tmp_path)
    spoil(case)
    assert main(mayors_arguments(case.run, case.output_dir, **case.arguments)) == 2
    output = capsys.readouterr()
    (line,) = [line for line in output.err.splitlines() if not line.startswith("WARNING: ")]
    assert line.startswith("error: ")
    assert message in line
    assert output.out == ""
    assert not case.output_dir.exists()
    assert not ray.is_initialized()


def test_an_output_directory_that_cannot_be_made_is_named(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_the_way = tmp_path / "outputs"
    in_the_way.write_text("a file")
    assert main(mayors_arguments(mayors_run, in_the_way)) == 2
    error = capsys.readouterr().err
    assert (
        error == f"error: output_dir: cannot make {in_the_way}: {in_the_way} is there and no directory; move it, or "
        "give another --output_dir\n"
    )


def test_a_cluster_that_cannot_be_joined_is_one_line_and_nothing_is_created(
    mayors_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no address at all")
    output_dir = tmp_path / "outputs"
    assert main(mayors_arguments(mayors_run, output_dir)) == 1
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("error: Ray does not start, or cannot be joined")
    assert not output_dir.exists()
