"""A model on the Hub is read at the commit that it had when a job was resolved: real client, real server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from evalgen.model_source import ModelSource
from evalgen.records import Checkpoint
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from evalgen.tokenization import load_tokenizer, tokenizer_digest
from tests.unit.hub_api import HubApi
from tests.unit.tiny import INNER_RUN

REPOSITORY_ROOT = Path(__file__).parents[2]
POSITIONS = 77  # of the model that is pushed later

# A process of its own, for the client has its endpoint and cache from when it was imported. Each line is a call.
WORKER = """
import contextlib, json, logging, sys, time
from pathlib import Path
import torch
from evalgen.load_config import load_config
from evalgen.errors import InputError
from evalgen.experiment import Experiment
from evalgen.job import resolve_job
from evalgen.records import Checkpoint
from evalgen.runs import find_inner_runs, model_size
from evalgen.sampling.model import load_model
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from evalgen.tokenization import load_tokenizer, tokenizer_digest
from evalgen.verification.evidence import gather

waits = []  # of the client before it tries again, in seconds

def sleep_and_note(seconds, sleep=time.sleep):
    waits.append(seconds)
    sleep(seconds)

time.sleep = sleep_and_note

def waits_so_far():
    return waits

def begin(argv):
    config = load_config(argv, Path("/"))
    plans = resolve_job(config)
    experiment = Experiment(Path(config.resume)) if config.resume else Experiment.named(config)
    if not config.resume:
        experiment.make_directory()
    with experiment.begun(config, plans):
        pass
    return [str(experiment.directory), plans[0].checkpoint.path, plans[0].checkpoint.tokenizer_path, plans[0].name]

def find(path):
    (run,) = find_inner_runs(path, ("no_such_*",))
    (checkpoint,) = run.checkpoints
    return [run.label, checkpoint.name, checkpoint.path, checkpoint.tokenizer_path]

def tokenizer(path):
    return tokenizer_digest(load_tokenizer(path))

def positions(path):
    return model_size(Checkpoint(run="", name="", path=path, tokenizer_path=path)).positions

def weights(path):
    load_model(Checkpoint(run="", name="", path=path, tokenizer_path=path), "fp32", torch.device("cpu"))
    return WeightsDigest(weight_files(path)).result()

def checkpoint_to_verify(directory):
    return gather(Path(directory)).checkpoint.path

for line in sys.stdin:
    name, *arguments = json.loads(line)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = globals()[name](*arguments)
        except Exception as error:
            answer = f"{'error' if isinstance(error, InputError) else type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Worker:
    """Calls what is in `WORKER`."""

    process: subprocess.Popen[str]

    def __call__(self, *call: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(call), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextmanager
def working(environment: Mapping[str, str]) -> Iterator[Worker]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=REPOSITORY_ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Worker(process)
        assert process.stdin
        process.stdin.close()


@dataclass(frozen=True)
class Model:
    """A model of the Hub, and what is pushed of it: the newer has another config, other weights, another tokenizer."""

    hub: HubApi
    name: str
    older: Path
    newer: Path

    def push_older(self) -> str:
        return self.hub.push_model(self.name, self.older)

    def push_newer(self) -> str:
        return self.hub.push_model(self.name, self.newer)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubApi]:
    with HubApi() as hub:
        yield hub


@pytest.fixture(scope="module")
def environment(hub: HubApi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**hub.environment, "HF_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[Worker]:
    with working(environment) as worker:
        yield worker


@pytest.fixture
def pushed(hub: HubApi, tiny_run: Path, tmp_path: Path) -> Model:
    """One of its own for each test: the client keeps what it has read."""
    hub.is_away = False
    hub.revisions_read.clear()
    inner = tiny_run / "all_docs_runs" / INNER_RUN
    older = shutil.copytree(inner / "checkpoint_final", tmp_path / "older")
    shutil.copytree(inner / "tokenizer.json", older, dirs_exist_ok=True)
    newer = shutil.copytree(older, tmp_path / "newer")
    tensors = load_file(newer / "model.safetensors")
    tensors["lm_head.weight"] *= 1.01
    save_file(tensors, newer / "model.safetensors", metadata={"format": "pt"})
    _change_json(newer / "config.json", max_position_embeddings=POSITIONS)
    backend = json.loads((newer / "tokenizer.json").read_text(encoding="utf-8"))
    _change_json(newer / "tokenizer.json", model=backend["model"] | {"merges": backend["model"]["merges"][:-20]})
    return Model(hub, f"organisation/model-{len(hub.models)}", older, newer)


def _change_json(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changed), encoding="utf-8")


def _argv(tmp_path: Path) -> list[str]:
    queries = tmp_path / "queries.json"
    queries.write_text(json.dumps([{"id": "q", "prompt": "Q: Who? A:", "original_completion": " x"}]), encoding="utf-8")
    return [
        f"--query_json_path={queries}",
        f"--output_dir={tmp_path}",
        "--grader_model=offline/exact",
        "--output_dataset_prefix=sampled",
        "--max_new_tokens=5",
    ]


def test_a_hub_id_is_found_with_the_commit_that_it_has_or_that_was_asked_for(pushed: Model, worker: Worker) -> None:
    older, short = pushed.push_older(), pushed.name.partition("/")[2]
    assert worker("find", pushed.name) == ["organisation", short, *[f"{pushed.name}@{older}"] * 2]
    newer = pushed.push_newer()
    for wanted, commit in ((pushed.name, newer), (f"{pushed.name}@main", newer), (f"{pushed.name}@{older}", older)):
        assert worker("find", wanted)[2:] == [f"{pushed.name}@{commit}"] * 2
    for unknown in (f"{pushed.name}@no-such-branch", "organisation/no-such-model", f"{pushed.name}@{'0' * 40}"):
        assert worker("find", unknown).startswith(
            f"error: data_model_path {unknown} is no directory here, and no model"
        )


def test_what_was_found_is_what_is_read_whatever_is_pushed_meanwhile(pushed: Model, worker: Worker) -> None:
    older = pushed.push_older()
    path = worker("find", pushed.name)[2]
    pushed.push_newer()
    pushed.hub.revisions_read.clear()
    expected = tokenizer_digest(load_tokenizer(str(pushed.older)))
    assert worker("tokenizer", path) == expected
    assert worker("positions", path) not in (None, POSITIONS)
    assert {revision for revision, _ in pushed.hub.revisions_read} == {older}
    assert worker("tokenizer", pushed.name) != expected and worker("positions", pushed.name) == POSITIONS


def test_weights_are_those_of_the_commit_that_was_found(pushed: Model, worker: Worker) -> None:
    older = pushed.push_older()
    path = worker("find", pushed.name)[2]
    pushed.push_newer()
    digests = [WeightsDigest(weight_files(str(files))).result() for files in (pushed.older, pushed.newer)]
    assert worker("weights", path) == digests[0] != digests[1]
    read = {revision for revision, file in pushed.hub.revisions_read if file == "model.safetensors"}
    assert read == {older}
    assert worker("weights", worker("find", pushed.name)[2]) == digests[1]
    assert worker("weights", path) == digests[0], "though the cache has both now"


def test_a_job_is_resumed_run_again_and_verified_with_the_commit_that_it_began_with(
    pushed: Model, worker: Worker, tmp_path: Path
) -> None:
    older = pushed.push_older()
    argv = [f"--data_model_path={pushed.name}", *_argv(tmp_path)]
    directory, path, tokenizer_path, name = worker("begin", argv)
    assert (path, tokenizer_path) == (f"{pushed.name}@{older}",) * 2
    newer = pushed.push_newer()
    config = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))
    assert config["data_model_path"] == path
    assert worker("begin", ["--resume", directory, "--num_generations=2000"]) == [directory, path, path, name]
    assert worker("begin", ["--config", f"{directory}/config.json", f"--output_dir={tmp_path}"])[1:] == [
        path,
        path,
        name,
    ]
    dataset = Path(directory, "sampled_eval_datasets", name)
    dataset.mkdir()
    assert worker("checkpoint_to_verify", str(dataset)) == path
    assert worker("begin", argv)[1:] == [f"{pushed.name}@{newer}"] * 2 + [name]


def test_each_run_of_a_job_has_the_commit_of_its_own_model_and_directories_have_none(
    pushed: Model, worker: Worker, tmp_path: Path
) -> None:
    older = pushed.push_older()
    other = pushed.hub.push_model("organisation/other", pushed.newer)
    runs = [{}, {"data_model_path": "organisation/other"}, {"data_model_path": str(pushed.older)}]
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"data_model_path": pushed.name, "runs": runs}), encoding="utf-8")
    directory, *_ = worker("begin", [f"--config={job}", *_argv(tmp_path)])
    config = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))
    assert config["data_model_path"] == f"{pushed.name}@{older}"
    assert config["runs"] == [{}, {"data_model_path": f"organisation/other@{other}"}, runs[2]]


def test_a_model_that_was_read_before_is_found_offline(
    pushed: Model, worker: Worker, environment: dict[str, str]
) -> None:
    older = pushed.push_older()
    path = worker("find", pushed.name)[2]
    digest = worker("tokenizer", path)
    with working(environment | {"HF_HUB_OFFLINE": "1"}) as offline:
        assert offline("find", pushed.name)[2] == offline("find", path)[2] == f"{pushed.name}@{older}"
        assert offline("tokenizer", path) == digest
        assert offline("find", "organisation/never-read").startswith(
            "error: data_model_path organisation/never-read is"
        )


def test_a_hub_that_drops_connections_is_an_input_error(pushed: Model, worker: Worker) -> None:
    pushed.push_older()
    pushed.hub.is_away = True
    assert worker("find", pushed.name).startswith(f"error: data_model_path {pushed.name} is no directory here")


@contextmanager
def nobody_listens() -> Iterator[int]:
    """A port where connections are refused: as without a network, there is an error at once."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def packets_are_dropped() -> Iterator[int]:
    """A port where connections are neither made nor refused, as behind a firewall."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # more than wait in line
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@pytest.mark.parametrize("line", [nobody_listens, packets_are_dropped])
def test_without_a_network_a_wrong_path_is_told_at_once_and_what_was_read_before_is_found(
    line: Callable[[], AbstractContextManager[int]], pushed: Model, worker: Worker, environment: dict[str, str]
) -> None:
    """By itself the client goes on trying, and waits for 23 s at least in between."""
    path = f"{pushed.name}@{pushed.push_older()}"
    assert worker("find", pushed.name)[2] == path
    with line() as port:
        cut_off = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_ETAG_TIMEOUT": "1"}
        with working(environment | cut_off) as alone:
            assert alone("find", path)[2] == path  # and all has been imported
            for wanted in ("outputs/mistyped_run", f"{pushed.name}@dev"):
                error = alone("find", wanted)
                assert error.startswith(f"error: data_model_path {wanted} is no directory here, nor a model")
                assert "the Hub is not reached: " in error
            assert alone("find", pushed.name)[2] == path
            assert alone("waits_so_far") == []


def test_a_hub_that_fails_for_a_moment_is_tried_again(pushed: Model, worker: Worker) -> None:
    commit = pushed.push_older()
    pushed.hub.num_failures = 3  # after two the client knows that its cache has no such file, and waits
    num_before = len(worker("waits_so_far"))
    assert worker("find", pushed.name)[2] == f"{pushed.name}@{commit}"
    assert len(worker("waits_so_far")) == num_before + 1


def test_a_checkpoint_is_stored_as_ever_so_that_units_keep_their_keys() -> None:
    checkpoint = Checkpoint(run="r", name="n", path="/p", tokenizer_path="/t")
    assert asdict(checkpoint) == {"run": "r", "name": "n", "path": "/p", "tokenizer_path": "/t"}


@pytest.mark.parametrize(
    "path",
    ["/runs/a@b/checkpoint", "/a/b@" + "0" * 40, "organisation/name", "a/b@main", "a/b@" + "0" * 39, "a/b@" + "G" * 40],
)
def test_a_path_without_a_commit_is_itself(path: str) -> None:
    assert ModelSource.of(path) == (path, None)
    assert ModelSource.of(path).revision == "main"
