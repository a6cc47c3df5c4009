"""The arrows between the packages: the science never imports Ray, and importing it does no work."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
COMMANDS = sorted(path for path in (REPOSITORY / "ray_jobs").glob("*.py") if "def main(" in path.read_text())
HEAVY = {"anthropic", "torch", "transformers", "datasets", "ray"}  # each takes a second or more to import
# Runs a script as `python SCRIPT ARGUMENT ...` does, and prints in its last line what it left imported.
RUN = """
import json, runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print(json.dumps([end.code or 0, list(sys.modules)]))
"""
MODULES = sorted((REPOSITORY / "evalgen").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, anywhere in it, also by name as text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {name.split(".")[0] for name in names}


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_evalgen_imports_neither_ray_nor_the_jobs_nor_the_tests(path: Path) -> None:
    assert not imported(path) & {"ray", "ray_jobs", "tests"}


def test_sampling_and_assembly_load_no_ray_and_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, logging, evalgen; print('torch' in sys.modules);"
        "import evalgen.sampling.replica, evalgen.finish, evalgen.grading.desk;"
        "print('ray' in sys.modules, logging.getLogger().handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "False []"]


def run(script: Path, *arguments: object) -> tuple[int, set[str], str]:
    """Exit code of a command, those of `HEAVY` that it imported, and what it said on stderr."""
    command = [sys.executable, "-c", RUN, str(script), *map(str, arguments)]
    environment = os.environ | {"ANTHROPIC_API_KEY": "none"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    return exit_code, HEAVY & set(modules), done.stderr


def job(tiny_run: Path, tmp_path: Path, **changed: object) -> list[object]:
    """Arguments of a job over the tiny run that needs neither key nor network."""
    settings: dict[str, object] = {
        "data_model_path": tiny_run,
        "extract_from_eval_datasets": "qa_1_no_fs",
        "grader_model": "offline/exact",
        "output_dir": tmp_path / "outputs",
    }
    return [part for name, value in (settings | changed).items() for part in (f"--{name}", value)]


def test_every_command_is_known() -> None:
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.stem)
def test_help_imports_nothing_heavy(script: Path) -> None:
    assert run(script, "--help") == (0, set(), "")


def no_instructions(tmp_path: Path) -> Path:
    (tmp_path / "grader.json").write_text("{}")
    return tmp_path / "grader.json"


def malformed_queries(tmp_path: Path) -> Path:
    (tmp_path / "queries.json").write_text('[{"id": "a"}]')
    return tmp_path / "queries.json"


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, object]], str]] = {
    "wrong flag": (lambda _: {"num_generation": 5}, "did you mean num_generations?"),
    "missing path": (lambda _: {"data_model_path": "/no/such/run"}, "does not exist"),
    "run without checkpoints": (lambda tmp: {"data_model_path": tmp}, "no checkpoints in"),
    "no checkpoint matches": (lambda _: {"checkpoint_patterns": "checkpoint_e9*"}, "there are: checkpoint_final"),
    "unknown pattern": (lambda _: {"extract_from_eval_datasets": "no_such_set"}, "matches none of"),
    "malformed queries": (lambda tmp: {"query_json_path": malformed_queries(tmp)}, "prompt: field required"),
    "missing grader key": (lambda tmp: {"grader_config_path": no_instructions(tmp)}, "grader_instructions"),
    "missing grader file": (lambda _: {"grader_config_path": "/no/such/grader.json"}, "cannot read"),
    "unknown grader": (lambda _: {"grader_model": "openai/gpt"}, "expected one of"),
    "impossible name": (lambda _: {"output_dataset_prefix": "sampled" + 250 * "x"}, "is too long by"),
    "no room for completions": (lambda _: {"max_new_tokens": 100_000}, "those of the prompt among them"),
    "no name of a repository": (lambda _: {"push_to_hub": "no//name"}, "no name of a repository"),
    "no price for a cap": (
        lambda _: {"grader_model": "anthropic/x", "max_grading_cost_usd": 1},
        "price of x is not known",
    ),
}


@pytest.mark.parametrize(("spoilt", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_before_anything_heavy_is_imported(
    spoilt: Callable[[Path], dict[str, object]], message: str, tiny_run: Path, tmp_path: Path
) -> None:
    arguments = job(tiny_run, tmp_path, **spoilt(tmp_path))
    exit_code, imported_by_it, said = run(REPOSITORY / "ray_jobs" / "generate_eval_datasets.py", *arguments)
    assert exit_code == 2 and message in said
    assert imported_by_it == set()


OTHER_MISTAKES = {
    "regrade": ["--experiment", "/no/such", "--grader_model", "offline/exact"],
    "report": ["/no/such"],
    "export_dataset": ["/no/such", "--to", "padded", "--output", "/no/such/output"],
    "push_dataset": ["/no/such", "--to", "user/name"],
    "calibrate_grader": [
        *("configs/calibration/mayors.jsonl", "--grader_model", "offline/person_name"),
        *("--attach_to", "/no/such"),
    ],
}


@pytest.mark.parametrize("command", OTHER_MISTAKES)
def test_other_commands_tell_of_a_missing_path_before_anything_heavy_is_imported(command: str) -> None:
    exit_code, imported_by_it, said = run(REPOSITORY / "ray_jobs" / f"{command}.py", *OTHER_MISTAKES[command])
    assert exit_code == 2 and "/no/such" in said
    assert imported_by_it == set()


def test_a_dry_run_loads_the_tokenizers_and_no_ray(tiny_run: Path, tmp_path: Path) -> None:
    arguments = job(tiny_run, tmp_path, dry_run="true")
    exit_code, imported_by_it, _ = run(REPOSITORY / "ray_jobs" / "generate_eval_datasets.py", *arguments)
    assert exit_code == 0
    assert "transformers" in imported_by_it and "ray" not in imported_by_it
