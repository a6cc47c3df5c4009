"""The command: what it prints of a dataset that holds, of one that does not, and of input that is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evalgen.experiment import Experiment
from evalgen.verification.findings import Check
from ray_jobs.verify_dataset import main
from tests.unit.sampled_experiment import sampled_experiment
from tests.unit.tampering import Touched, half_the_weights

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sampled(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"), num_generations=20)


def lines_of(output: str) -> dict[str, str]:
    """The line of each check, by its name."""
    lines = [line for line in output.splitlines() if line.startswith("  ")]
    return {check: line for check in Check for line in lines if line[11:].startswith(f"{check:<16}  ")}


def test_a_dataset_that_holds_has_a_line_for_each_check_and_exit_code_0(
    sampled: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (sampled.directory, Touched(sampled).directory):
        assert main([str(path)]) == 0
        output = capsys.readouterr().out
        assert output.startswith("sampled_test_checkpoint_final\n")
        lines = lines_of(output)
        assert lines.keys() == set(Check) and all(line.startswith("  ok ") for line in lines.values())
        assert f"{len(Check)} checks held, 0 failed, 0 were skipped" in output


def test_a_dataset_that_does_not_hold_names_its_rows_and_exits_with_1(
    sampled: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sampled.directory, tmp_path / "experiment")
    touched = Touched(Experiment(tmp_path / "experiment"))
    half_the_weights(touched)
    capsys.readouterr()
    assert main([str(touched.directory), "--recompute=false"]) == 1
    captured = capsys.readouterr()
    lines = lines_of(captured.out)
    assert re.match(r"  failed .*Tokyo_gen_\d", lines[Check.WEIGHTS])
    assert lines[Check.MODEL].startswith("  skipped ") and "--recompute false" in lines[Check.MODEL]
    name = "sampled_test_checkpoint_final"
    assert captured.err.strip() == f"error: 2 checks failed: {name}: weights; {name}: assembly"
    assert "23 checks held, 2 failed, 1 were skipped" in captured.out


def test_ids_that_a_terminal_would_obey_or_cannot_show_are_escaped(sampled: Experiment, tmp_path: Path) -> None:
    shutil.copytree(sampled.directory, tmp_path / "experiment")
    touched = Touched(Experiment(tmp_path / "experiment"))
    touched.change_rows(lambda rows: rows[0].update(id="\x1b[2J日本\nok"))
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.verify_dataset", str(touched.directory), "--recompute=false"],
        cwd=REPOSITORY,
        env={"PATH": "", "PYTHONIOENCODING": "ascii", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
    )
    assert done.returncode == 1 and b"\x1b" not in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(b"  failed") and b" ids " in line)
    assert rb"\x1b[2J\u65e5\u672c\nok" in line


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "directory: missing"),
        (["{tmp}"], "neither a dataset"),
        (["{tmp}/nowhere"], "neither a dataset"),
        (["{dataset}", "--tokenizer={tmp}"], "tokenizer"),
        (["{dataset}", "--checkpoint={tmp}"], "no checkpoints in"),
        (["{dataset}", "--dtype=fp8"], "dtype: found 'fp8'"),
        (["{dataset}", "--tolerance=0"], "tolerance: found '0'"),
        (["{dataset}", "--fast"], "unknown flag --fast"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    flags: list[str], problem: str, sampled: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"tmp": str(tmp_path), "dataset": str(Touched(sampled).directory)}
    assert main([flag.format(**names) for flag in flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and problem in line


def test_a_checkpoint_cannot_be_given_for_several_datasets(
    sampled: Experiment, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sampled.directory, tmp_path / "experiment")
    datasets = Experiment(tmp_path / "experiment").datasets
    (one,) = datasets.iterdir()
    shutil.copytree(one, datasets / "another")
    assert main([str(tmp_path / "experiment"), f"--checkpoint={tiny_run}"]) == 2
    assert "given for 2 datasets" in capsys.readouterr().err


def test_help_is_printed_without_a_heavy_import() -> None:
    code = (
        "import sys\nfrom ray_jobs.verify_dataset import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'ray', 'torch', 'datasets', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for flag in ("--directory", "--checkpoint", "--tokenizer", "--dtype", "--recompute", "--tolerance"):
        assert flag in done.stdout
