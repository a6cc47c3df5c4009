"""A job on several nodes: one of them dies while it samples, and the others do its work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cases import Undisturbed, run_case
from tests.faults.faults import cases_of_nodes
from tests.faults.nodes import Nodes, several_nodes


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    directory = tempfile.mkdtemp(prefix="ray-")  # short: it holds Unix sockets
    monkeypatch.setenv("RAY_TMPDIR", directory)
    with several_nodes(2) as nodes:
        yield nodes
    shutil.rmtree(directory, ignore_errors=True)


def test_a_node_dies_for_good_and_the_dataset_is_that_of_one_node(
    undisturbed: Undisturbed, nodes: Nodes, mayors_run: Path, tmp_path: Path
) -> None:
    (case,) = [case for case in cases_of_nodes(nodes) if case.name == "kill -9 of a worker node, none added, middle"]
    outcome = run_case(case, undisturbed, mayors_run, tmp_path / "several_nodes", {"RAY_ADDRESS": nodes.address})
    assert not outcome.problems
