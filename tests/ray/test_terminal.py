"""What a person sees on a real terminal in mid-run: the job in tmux, captured in `captures.txt` of its directory."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.chaos.limits import STRICT, Limits
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import mayors_arguments
from tests.waiting import wait_until

MODEL = "claude-haiku-4-5-20251001"
WIDTH, HEIGHT = 80, 24
PATIENCE_S = 300
pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


@dataclass(frozen=True)
class Terminal:
    """A tmux server of its own, with one window of 80 x 24."""

    socket: Path

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *arguments]
        # Without the size of the terminal that runs the tests: the job would take it for that of its own.
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p", "-t", "job").rstrip("\n").split("\n")

    def run(self, command: str, environment: dict[str, str]) -> None:
        settings = [part for name, value in environment.items() for part in ("-e", f"{name}={value}")]
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        self.tmux("new-session", "-d", "-s", "job", *size, "-c", str(REPOSITORY), *settings, command)

    def wait_for(self, condition: Callable[[list[str]], bool], what: str) -> list[str]:
        """The screen at which it held."""
        seen: list[list[str]] = [[]]

        def holds() -> bool:
            seen[0] = self.screen()
            return condition(seen[0])

        try:
            wait_until(holds, PATIENCE_S, what)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *seen[0]])) from None
        return seen[0]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path / "tmux")
    yield terminal
    subprocess.run(["tmux", "-S", str(terminal.socket), "kill-server"], check=False, capture_output=True)


def begun_with(lines: list[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(word)]


def test_the_view_stays_in_its_place_and_fits_80_columns(
    joined_cluster: RayCluster, mayors_run: Path, tmp_path: Path, terminal: Terminal
) -> None:
    limits = Limits(requests_per_minute=60, input_tokens_per_minute=600_000, output_tokens_per_minute=90_000, **STRICT)
    prices = {MODEL: Price(input_usd=1.0, output_usd=5.0)}
    faults = Faults(overloaded=0.05)
    with ChaosApi(limits=limits, prices=prices, latency_s=0.5, latency_sigma=0.5, faults=faults) as api:
        settings = {"grader_model": f"anthropic/{MODEL}", "max_grading_cost_usd": 5}
        arguments = mayors_arguments(mayors_run, tmp_path / "out", **settings)
        command = shlex.join([sys.executable, "ray_jobs/generate_eval_datasets.py", *arguments])
        kept = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
        environment = {
            **kept,
            **api.environment(),
            "RAY_ADDRESS": joined_cluster.address,
            "PYTHONPATH": str(REPOSITORY),
        }
        terminal.run(f"{command}; echo ended with $?; sleep 600", environment)

        def is_in_mid_run(lines: list[str]) -> bool:
            text = "\n".join(lines)
            return " requests a minute" in text and "- of" not in text and " -, " not in text

        early = terminal.wait_for(lambda lines: bool(begun_with(lines, "grading")), "something is graded")
        screen = terminal.wait_for(is_in_mid_run, "rates are known")
        captures = tmp_path / "captures.txt"
        captures.write_text("\n".join([*early, "=" * WIDTH, *screen]))
        for word in ("sampling", "grading", "judge"):
            assert len(begun_with(screen, word)) == 1, screen
        assert max(map(len, screen)) <= WIDTH and not [line for line in screen if line.endswith("…")]
        terminal.tmux("resize-window", "-t", "job", "-x", "110", "-y", "60")
        terminal.wait_for(lambda lines: len(begun_with(lines, "sampling")[0]) > WIDTH, "it is as wide as its window")
        api.set(limits=replace(limits, requests_per_minute=6000))  # it has been watched long enough
        end = terminal.wait_for(lambda lines: bool(begun_with(lines, "ended with")), "the job ends")
        captures.write_text("\n".join([captures.read_text(), "=" * WIDTH, *end]))
    assert begun_with(end, "ended with 0") and begun_with(end, "Grading statistics")
    (last,) = begun_with(end, "grading")
    done, of, total = last.split()[-3:]
    assert of == "of" and done == total, "the last state stays"
    assert not [line for line in end if "core_worker.cc" in line], "Ray's own noise"
