"""The live view of a job in mid-run: the demo in tmux, with a judge that limits and bills.

The judge is the Messages API of `tests/chaos`. What the terminal shows, colours included, is drawn as it is.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from math import ceil
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from tests.browser.browsers import chromium, open_page, screenshot
from tests.chaos.limits import STRICT, Limits
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Price
from tests.ray.test_terminal import Terminal

MODEL = "claude-haiku-4-5-20251001"
LIMITS = Limits(
    requests_per_minute=1_000, input_tokens_per_minute=1_000_000, output_tokens_per_minute=100_000, **STRICT
)
PRICES = {MODEL: Price(input_usd=1.0, output_usd=5.0)}
COMMAND = rf"""python ray_jobs/generate_eval_datasets.py --config configs/demo.yaml \
--grader_model anthropic/{MODEL} --max_grading_cost_usd 5 \
--temperature 0.7"""
WIDTH, HEIGHT = 88, 16
COLOURS = 64  # of the picture


def take(directory: Path, path: Path) -> None:
    terminal = Terminal(directory / "tmux")
    with ChaosApi(limits=LIMITS, prices=PRICES, latency_s=0.5, latency_sigma=0.5) as api:
        try:
            start_shell(terminal, directory, api.environment())
            for line in COMMAND.split("\n"):
                terminal.tmux("send-keys", "-t", "job", "-l", "--", line)
                terminal.tmux("send-keys", "-t", "job", "Enter")
            terminal.wait_for(is_in_mid_run, "the job is in mid-run")
            screen = terminal.tmux("capture-pane", "-e", "-p", "-t", "job").rstrip()
            draw(screen, directory / "screen.html", path)
            terminal.tmux("send-keys", "-t", "job", "C-c")
            terminal.wait_for(lambda lines: lines[-1] == "$", "the job has stopped")
        finally:
            terminal.tmux("kill-server")


def start_shell(terminal: Terminal, directory: Path, environment: dict[str, str]) -> None:
    """In `directory`, as a user has it whose virtual environment is active."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = environment | {"PATH": path, "PS1": "$ ", "COLORTERM": "truecolor"}
    assignments = [f"{name}={value}" for name, value in settings.items()]
    command = ["env", f"--chdir={directory}", *assignments, "bash", "--norc", "--noprofile"]
    terminal.run(shlex.join(command), environment={})
    terminal.tmux("resize-window", "-t", "job", "-x", str(WIDTH), "-y", str(HEIGHT))
    terminal.wait_for(lambda lines: lines == ["$"], "the shell is there")


def is_in_mid_run(lines: list[str]) -> bool:
    """Half of the questions are answered, and every figure is known."""
    text = "\n".join(lines)
    graded = re.search(r"([\d,]+) of ([\d,]+)\n.*equivalent", text)
    if graded is None or "- of" in text or "- left" in text:
        return False
    done, total = (int(number.replace(",", "")) for number in graded.groups())
    return total <= 2 * done < 2 * total


def draw(screen: str, page: Path, path: Path) -> None:
    """`screen` is text with escape sequences; `page` is for the browser, `path` for the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen), soft_wrap=True)
    # Without fonts of the web: the machine's own stand in.
    svg = re.sub(r"@font-face {.*?}", "", console.export_svg(title="evalgen"), flags=re.DOTALL)
    width, height = (ceil(float(size)) for size in re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0])
    page.write_text(f"<body style='margin: 0'>{svg}", encoding="utf-8")
    with chromium() as driver:
        open_page(driver, page, width, height=height)
        screenshot(driver, path, whole=False)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
