"""The README's pictures of the demo, from real runs of it. What `make demo` has trained must be in `outputs`.

    python -m tests.screenshots                      all of them; needs tmux, chromium and chromedriver
    python -m tests.screenshots terminal dashboard   these

They run in a directory of their own that looks like this repository's: nothing is left in `outputs`, and no path that
can be read on a picture is one of this machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.browser import picture
from tests.ray.conftest import REPOSITORY
from tests.screenshots import dashboard, terminal

HERE = Path(__file__).parent
DEMO = Path("configs", "demo.yaml")


def main(names: Sequence[str]) -> None:
    for name in names or TAKE:
        with demo_directory() as directory:
            TAKE[name](directory)


@contextmanager
def demo_directory() -> Iterator[Path]:
    """As a clone of this repository after the demo's training."""
    with TemporaryDirectory(prefix="evalgen-") as temporary:
        directory = Path(temporary)
        for name in ("configs", "ray_jobs"):
            (directory / name).symlink_to(REPOSITORY / name)
        (directory / "outputs").mkdir()
        for run in yaml.safe_load((REPOSITORY / DEMO).read_text())["runs"]:
            (directory / run["data_model_path"]).symlink_to(REPOSITORY / run["data_model_path"])
        yield directory


def take_report(directory: Path) -> None:
    """Of the demo as it is; beside the tests of reports."""
    command = [sys.executable, "ray_jobs/generate_eval_datasets.py", "--config", str(DEMO)]
    subprocess.run(command, cwd=directory, check=True)
    (page,) = directory.glob("outputs/*_demo/report.html")
    picture.main(page)


TAKE: dict[str, Callable[[Path], None]] = {
    "terminal": lambda directory: terminal.take(directory, HERE / "terminal.png"),
    "dashboard": lambda directory: dashboard.take(directory, HERE / "dashboard.png"),
    "report": take_report,
}

if __name__ == "__main__":
    main(sys.argv[1:])
