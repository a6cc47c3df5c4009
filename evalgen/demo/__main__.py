"""The command `python -m evalgen.demo`: builds the demo runs that are not there yet and logs where the time goes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import datasets
from transformers.utils import logging as transformers_logging

from evalgen.demo.build import build_demo


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evalgen.demo", description="Train the four demo runs.")
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--force", action="store_true", help="build again what is already there")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # Bars of the small files saved here would drown the lines that say where the time goes.
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    build_demo(arguments.output_dir, force=arguments.force)


if __name__ == "__main__":
    main()
