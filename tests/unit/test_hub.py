"""Uploads to a real server by the Hub's real client: what goes there, what stays here, and what a failure costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, constants
from transformers import PreTrainedTokenizerFast

from evalgen.errors import ConfigError
from evalgen.eval_dataset import EvalDataset
from evalgen.experiment import Experiment
from evalgen.hub import check_can_push
from tests.unit.finished import HOSTILE, finished_experiment, summary_of
from tests.unit.hub_api import TOKEN, HubApi
from tests.unit.rendered import Rendered
from tests.unit.tiny import query

REPOSITORY_ROOT = Path(__file__).parents[2]
NAMES = ["sampled_a_checkpoint_final", "sampled | b_checkpoint_final"]
FILES = ["README.md", "eval_dataset/data/0000.parquet", "non_equivalent_completions.parquet", "prompts.parquet"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Experiment:
    return _experiment(tmp_path_factory.mktemp("one"), tokenizer, ["sampled_a"])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Experiment:
    return _experiment(tmp_path_factory.mktemp("two"), tokenizer, ["sampled_a", "sampled | b"])


def _experiment(directory: Path, tokenizer: PreTrainedTokenizerFast, prefixes: list[str]) -> Experiment:
    runs = [{"output_dataset_prefix": prefix} for prefix in prefixes]
    path = directory / "2026_01_21_03-12-40_4HloG_x"
    experiment, _, _ = finished_experiment(path, tokenizer, runs, [query("P"), query(HOSTILE)])
    return experiment


# One process for all pushes, for the client has its endpoint from when it was imported, which takes seconds.
WORKER = """
import contextlib, io, json, os, sys
from pathlib import Path
from evalgen.experiment import Experiment
from evalgen.hub import check_can_push, push_or_warn
from ray_jobs.push_dataset import main

def end_of_job(directory, repo_id):
    check_can_push(repo_id)
    print(push_or_warn(Experiment(Path(directory)), repo_id))
    return 0

for line in sys.stdin:
    call = json.loads(line)
    os.environ["HF_TOKEN"] = call["token"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        code = end_of_job(*call["job"]) if "job" in call else main(call["command"])
    print(json.dumps([code, out.getvalue(), error.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a push ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Pusher:
    """The process that pushes to `hub`."""

    hub: HubApi
    process: subprocess.Popen[str]

    def push(self, experiment: Path, to: str, token: str = TOKEN) -> Done:
        return self._call(command=[str(experiment), "--to", to], token=token)

    def end_job(self, experiment: Path, to: str) -> Done:
        return self._call(job=[str(experiment), to], token=TOKEN)

    def _call(self, **call: object) -> Done:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        done = Done(*json.loads(self.process.stdout.readline()))
        assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pusher]:
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    with HubApi() as hub:
        env = kept | {"HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY_ROOT)} | hub.environment
        command = [sys.executable, "-c", WORKER]
        with subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=home
        ) as process:
            yield Pusher(hub, process)
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def pusher(running: Pusher) -> Pusher:
    running.hub.begin_anew()
    return running


@pytest.fixture
def hub(pusher: Pusher) -> HubApi:
    return pusher.hub


def downloaded(hub: HubApi, name: str, directory: Path) -> Path:
    for path, content in hub.repositories[name].files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def rows(directory: Path, config: str | None = None) -> list[dict[str, object]]:
    dataset = load_dataset(str(directory), config, split="train", cache_dir=str(directory / "cache"))
    assert isinstance(dataset, Dataset)
    found: list[dict[str, object]] = dataset.to_list()
    return found


def test_one_dataset_is_the_repository(hub: HubApi, pusher: Pusher, one: Experiment, tmp_path: Path) -> None:
    hub.num_outages = 2
    done = pusher.push(one.directory, "user/sampled")
    assert done.code == 0, done.stderr
    assert f"{hub.endpoint}/datasets/user/sampled" in done.stdout
    repository = hub.repositories["user/sampled"]
    assert repository.private and hub.num_outages == 0, "it was asked again after the outages"
    assert sorted(repository.files) == FILES, "neither the pickle nor what is there twice"
    saved = EvalDataset.load(one.datasets / NAMES[0]).dataset.to_list()
    assert rows(downloaded(hub, "user/sampled", tmp_path / "got")) == saved != []

    stale = one.datasets / NAMES[0] / "left_out.json"
    stale.write_text("[]")
    assert pusher.push(one.directory, "sampled").code == 0, "one's own name need not be given"
    assert "left_out.json" in repository.files
    stale.unlink()
    repository.files["notes.txt"] = b"of somebody"
    assert pusher.push(one.directory, "user/sampled").code == 0
    assert sorted(repository.files) == sorted([*FILES, "notes.txt"]), "what is not there any more goes, and no more"


def test_several_datasets_are_configurations_of_one_repository(
    hub: HubApi, pusher: Pusher, two: Experiment, tmp_path: Path
) -> None:
    done = pusher.push(two.directory, "org/many")
    assert done.code == 0, done.stderr
    repository = hub.repositories["org/many"]
    folders = ["sampled_a_checkpoint_final", "sampled___b_checkpoint_final"]
    assert set(repository.files) == {"README.md", *(f"{folder}/{file}" for folder in folders for file in FILES)}
    assert repository.num_commits == 1, "nobody sees half of it"
    got = downloaded(hub, "org/many", tmp_path / "got")
    for name, folder in zip(NAMES, folders, strict=True):
        assert rows(got, folder) == EvalDataset.load(two.datasets / name).dataset.to_list() != []
        assert {row["prompt"] for row in rows(got, f"{folder}.prompts")} == {"P", HOSTILE}
        assert rows(got, f"{folder}.rejects")
    page = Rendered(DatasetCard.load(got / "README.md").text)
    figures = summary_of(two)["datasets"][1]
    cells = page.texts["td"]
    place = cells.index(NAMES[1])
    assert cells[place + 8] == str(figures["num_items"]) and page.row_lengths == [10] * 3
    assert ("href", "sampled___b_checkpoint_final/README.md") in page.attributes


@pytest.mark.parametrize(
    ("to", "token", "said"),
    [
        ("user/x", "", "no token"),
        ("user/x", "hf_x", "HF_HUB_OFFLINE is set"),
        ("a/b/c", "hf_x", "no name of a repository"),
        ("--x", "hf_x", "no name of a repository"),
    ],
)
def test_what_cannot_work_is_said_without_asking_the_hub(
    to: str, token: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    # Which the client reads from the environment once: other tests may have imported it before.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=said) as error:
        check_can_push(to)
    assert "\n" not in str(error.value)


def test_a_token_that_is_not_known_or_may_only_read_is_refused(hub: HubApi, pusher: Pusher, one: Experiment) -> None:
    done = pusher.push(one.directory, "user/x", token="hf_another")
    assert done.code == 2 and "refuses the token" in done.stderr and len(done.stderr.splitlines()) == 1
    hub.role = "read"
    done = pusher.push(one.directory, "user/x")
    assert done.code == 2 and "may only read" in done.stderr and not hub.repositories


def test_a_refusal_is_one_line_without_what_is_secret(hub: HubApi, pusher: Pusher, one: Experiment) -> None:
    hub.refuses_commits = True
    done = pusher.push(one.directory, "user/x")
    assert done.code == 1 and "signature=secret" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not pushed to the Hub: ")


def test_what_is_no_experiment_is_said(hub: HubApi, pusher: Pusher, tmp_path: Path) -> None:
    done = pusher.push(tmp_path, "user/x")
    assert done.code == 2 and "summary.json" in done.stderr and not hub.num_requests


def test_a_job_ends_well_when_the_hub_refuses_and_says_how_to_push_later(
    hub: HubApi, pusher: Pusher, two: Experiment
) -> None:
    hub.refuses_commits = True
    done = pusher.end_job(two.directory, "user/x")
    assert done.stdout == "None\n"
    assert f"later: python ray_jobs/push_dataset.py {two.directory} --to user/x" in done.stderr


def test_a_job_begins_and_ends_well_when_there_is_no_hub(hub: HubApi, pusher: Pusher, one: Experiment) -> None:
    hub.is_away = True
    done = pusher.end_job(one.directory, "user/x")
    assert done.stdout == "None\n"
    assert "cannot reach the Hub" in done.stderr and "not pushed to the Hub" in done.stderr


def test_only_whole_datasets_with_cards_are_pushed(
    hub: HubApi, pusher: Pusher, two: Experiment, tmp_path: Path
) -> None:
    copy = Experiment(Path(shutil.copytree(two.directory, tmp_path / "e")))
    summary = copy.directory / "summary.json"
    summary.write_text(summary.read_text().replace('"num_missing_prompts": 0', '"num_missing_prompts": 1', 1))
    done = pusher.push(copy.directory, "user/x")
    assert done.code == 0 and "prompts are missing" in done.stderr
    assert sorted(hub.repositories["user/x"].files) == FILES
    (copy.datasets / NAMES[1] / "README.md").unlink()
    done = pusher.push(copy.directory, "user/x")
    assert done.code == 2 and "--resume" in done.stderr
