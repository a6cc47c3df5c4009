"""The arrows between the packages: the science never imports Ray, and importing it does no work."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
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
