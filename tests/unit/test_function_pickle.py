"""eval_functions.pkl: ours is read by name, a hostile one runs nothing, and a source set's is never opened."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalgen.errors import InputError
from evalgen.eval_dataset import EvalDataset
from evalgen.eval_functions import eval_accuracy_and_loss
from tests.unit.sampled_experiment import sampled_experiment

OURS = b"cevalgen.eval_functions\neval_accuracy_and_loss\n"


def short(text: str) -> bytes:
    """Pushes a string."""
    content = text.encode()
    return b"\x8c" + bytes([len(content)]) + content


def frame(*, protocol: int = 4, body: bytes) -> bytes:
    return b"\x80" + bytes([protocol]) + body


# What each would do, if it were run, is make the directory `trap`.
HOSTILE: dict[str, Callable[[str], bytes]] = {
    "os.system by REDUCE": lambda trap: b"cos\nsystem\n(S'mkdir " + trap.encode() + b"'\ntR.",
    "in our list, by REDUCE": lambda trap: b"(l" + OURS + b"acos\nmkdir\n(S'" + trap.encode() + b"'\ntRa.",
    "builtins.eval by GLOBAL": lambda trap: (
        b"cbuiltins\neval\n(S'__import__(\"os\").mkdir(\"" + trap.encode() + b"\")'\ntR."
    ),
    "eval named alone": lambda trap: b"]cbuiltins\neval\na.",
    "by STACK_GLOBAL": lambda trap: frame(body=short("os") + short("mkdir") + b"\x93" + short(trap) + b"\x85R."),
    "by INST": lambda trap: b"(S'" + trap.encode() + b"'\nios\nmkdir\n.",
    "by OBJ": lambda trap: b"(cos\nmkdir\nS'" + trap.encode() + b"'\no.",
    "by NEWOBJ": lambda trap: frame(protocol=2, body=b"cpathlib\nPath\n" + short(trap) + b"\x85\x81."),
    "by NEWOBJ_EX": lambda trap: frame(body=b"cpathlib\nPath\n" + short(trap) + b"\x85}\x92."),
    "BUILD on our function": lambda trap: b"]" + OURS + b"(N}S'__defaults__'\n(K\x00tstba.",
    "our function's globals": lambda trap: b"]" + frame(
        body=short("evalgen.eval_functions") + short("eval_accuracy_and_loss.__globals__") + b"\x93a."
    ),
    "through a dotted name": lambda trap: b"]" + frame(
        body=short("evalgen.eval_functions") + short("torch.os.system") + b"\x93a."
    ),
    "another name of our module": lambda trap: b"]cevalgen.eval_functions\npad_sequence\na.",
    "our name in another module": lambda trap: b"]cevalgen.eval_dataset\neval_accuracy_and_loss\na.",
    "a module that runs when imported": lambda trap: b"]cantigravity\neval_accuracy_and_loss\na.",
    "nested lists": lambda trap: b"]" * 200_000 + b"a" * 199_999 + b".",
    "a list in our list": lambda trap: b"]]" + OURS + b"aa.",
    "a list that holds itself": lambda trap: b"]q\x00h\x00a.",
    "a dict that hashes it": lambda trap: b"}" + OURS + b"Ns.",
    "a set": lambda trap: frame(body=b"\x8f(" + OURS + b"\x90."),
    "a number": lambda trap: b"]K\x01a.",
    "cut short": lambda trap: pickle.dumps([eval_accuracy_and_loss])[:-4],
    "cut in a string": lambda trap: frame(body=b"]\x8c\xffevalgen"),
    "a huge memo index": lambda trap: b"]" + OURS + b"r\xff\xff\xff\x7fa.",
    "a huge memo index to read": lambda trap: b"]j\xff\xff\xff\x7fa.",
    "a string of petabytes": lambda trap: frame(body=b"]\x8d\x00\x00\x00\x00\x00\x00\xff\x00a."),
    "a frame of petabytes": lambda trap: frame(body=b"\x95\x00\x00\x00\x00\x00\x00\xff\x00]."),
    "an extension code": lambda trap: b"]\x82\x01a.",
    "an extension code of four bytes": lambda trap: b"]\x84\x01\x00\x00\x00a.",
    "a persistent id": lambda trap: b"]P" + trap.encode() + b"\na.",
    "a binary persistent id": lambda trap: b"]" + short(trap) + b"Qa.",
    "an unknown opcode": lambda trap: b"]\xfea.",
    "a protocol of the future": lambda trap: frame(protocol=99, body=b"]."),
    "a second pickle behind ours": lambda trap: b"cos\nmkdir\n(S'" + trap.encode() + b"'\ntR0]" + OURS + b"a.",
    "nothing": lambda trap: b"",
    "an empty stack": lambda trap: b".",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment = sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"), num_generations=5)
    (path,) = experiment.datasets.iterdir()
    return path


@pytest.fixture
def pickle_file(dataset: Path) -> Iterator[Path]:
    path = dataset / "eval_functions.pkl"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


@pytest.fixture
def stolen() -> Iterator[None]:
    """Fails if a test has changed our function, and changes it back."""
    before = dict(vars(eval_accuracy_and_loss)), eval_accuracy_and_loss.__defaults__
    yield
    after = dict(vars(eval_accuracy_and_loss)), eval_accuracy_and_loss.__defaults__
    vars(eval_accuracy_and_loss).clear()
    vars(eval_accuracy_and_loss).update(before[0])
    eval_accuracy_and_loss.__defaults__ = before[1]
    assert after == before


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    attack: str, pickle_file: Path, tmp_path: Path, stolen: None
) -> None:
    trap = tmp_path / "trap"
    modules = set(sys.modules)
    pickle_file.write_bytes(HOSTILE[attack](str(trap)))
    with pytest.raises(InputError):
        EvalDataset.load(pickle_file.parent)
    assert not trap.exists()
    assert "antigravity" not in set(sys.modules) - modules


RUNS = ["os.system by REDUCE", "in our list, by REDUCE", "builtins.eval by GLOBAL", "by STACK_GLOBAL", "by INST"]
RUNS += ["by OBJ", "a second pickle behind ours"]


@pytest.mark.parametrize("attack", RUNS)
def test_the_attacks_are_real(attack: str, tmp_path: Path) -> None:
    """An ordinary unpickler runs them."""
    trap = tmp_path / "trap"
    pickle.loads(HOSTILE[attack](str(trap)))
    assert trap.is_dir()


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_our_own_pickle_names_the_function_and_nothing_else(protocol: int, pickle_file: Path) -> None:
    pickle_file.write_bytes(pickle.dumps([eval_accuracy_and_loss], protocol=protocol))
    assert list(EvalDataset.load(pickle_file.parent).eval_functions) == [eval_accuracy_and_loss]


class _Bomb:
    def __init__(self, trap: Path) -> None:
        self._trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trap),)


JOB = """
import sys
from pathlib import Path

opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from tests.unit.sampled_experiment import sampled_experiment
sampled_experiment(Path(sys.argv[1]), Path(sys.argv[2]), num_generations=2, grader_model="offline/exact",
                   extract_from_eval_datasets="qa", checkpoint_patterns="checkpoint_final")
assert any("eval_dataset" in path for path in opened), "the hook hears of every file"
touched = [path for path in opened if path.endswith(".pkl") and path.startswith(sys.argv[1])]
assert not touched, touched
"""


def test_a_job_never_opens_the_pickles_of_the_run_that_it_samples(mayors_run: Path, tmp_path: Path) -> None:
    """From finding the prompts to the finished dataset; every pickle of the run is a trap, and none is even read."""
    run, trap = tmp_path / mayors_run.name, tmp_path / "trap"
    shutil.copytree(mayors_run, run)
    traps = [*run.rglob("eval_functions.pkl")]
    traps += [path.with_name("eval_functions.pkl") for path in run.rglob("dataset_info.json")]
    traps += [path / "eval_functions.pkl" for path in (run, *run.glob("all_docs_runs/*"), *run.rglob("checkpoint_*"))]
    for path in traps:
        path.write_bytes(pickle.dumps([_Bomb(trap)]))
    assert len(traps) > 10
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(run), str(tmp_path / "outputs")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not trap.exists()
    assert list((tmp_path / "outputs").glob("*/sampled_eval_datasets/*/eval_dataset"))
