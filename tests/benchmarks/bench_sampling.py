"""Times evalgen's samplers and their peers on the same checkpoints, prompts and laws, in one run.

    make bench                            about 40 minutes, once the peers' environments are there
    make bench BENCH="--full"             every regime: hours
    make bench BENCH="--engine tree --engine vllm --regime 'T=0.1.*n=1,000'"
    make bench BENCH="--report .bench/results/<date>.json"    prints a run again

Peers live in environments of their own under `.bench`, made when first needed (llama.cpp is compiled, which takes about
ten minutes). Every engine runs in a process of its own, one at a time; results are written after every cell.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import re
import subprocess
from pathlib import Path

import psutil
from rich.console import Console

from tests.benchmarks.checkpoints import prepare
from tests.benchmarks.engines import ENGINES
from tests.benchmarks.environments import EnvironmentFailed, python_of
from tests.benchmarks.outcomes import Outcome, Report
from tests.benchmarks.processes import THREADS, EngineProcess
from tests.benchmarks.regimes import DEFAULT, FULL, TIME_LIMIT_S, Regime
from tests.benchmarks.tables import WIDTH, print_report, seconds_text

log = logging.getLogger("bench")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every regime")
    parser.add_argument("--regime", default="", help="only regimes whose name has this regex")
    parser.add_argument("--engine", action="append", choices=list(ENGINES), help="only this; may be repeated")
    parser.add_argument("--checkpoint", choices=("demo", "smollm2"))
    parser.add_argument("--time_limit_s", type=float, help="of one call; one that runs past it is shown as '> N s'")
    parser.add_argument("--directory", type=Path, default=Path(".bench"), help="environments, models and results")
    parser.add_argument("--report", type=Path, help="print this run again, measure nothing")
    parser.add_argument("--list", action="store_true", help="print the regimes, measure nothing")
    return parser.parse_args()


def chosen(arguments: argparse.Namespace) -> list[tuple[str, str, list[Regime]]]:
    """Checkpoint, engine and the engine's regimes, those with fewer draws first."""
    regimes = [
        regime
        for regime in (FULL if arguments.full else DEFAULT)
        if re.search(arguments.regime, regime.name) and arguments.checkpoint in (None, regime.checkpoint)
    ]
    plan = []
    for checkpoint in dict.fromkeys(regime.checkpoint for regime in regimes):
        for engine in arguments.engine or ENGINES:
            its = [r for r in regimes if r.checkpoint == checkpoint and engine in r.engines]
            if its:
                plan.append((checkpoint, engine, sorted(its, key=lambda r: r.num_draws)))
    return plan


def machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor(),
        "cores": f"{os.cpu_count()}, {THREADS} threads for each engine",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "load": f"{os.getloadavg()[0]:.1f} when it began",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "precision": "float32",
    }


def measure(arguments: argparse.Namespace, path: Path) -> Report:
    """Every chosen cell; the report is saved after each."""
    limit_s = arguments.time_limit_s or TIME_LIMIT_S["full" if arguments.full else "default"]
    about, versions = machine(), {}
    outcomes: list[Outcome] = []
    plan = chosen(arguments)
    checkpoints = {name: prepare(name, arguments.directory) for name in dict.fromkeys(name for name, _, _ in plan)}
    for name, engine, regimes in plan:
        process = EngineProcess(
            engine=engine,
            checkpoint=checkpoints[name],
            directory=arguments.directory,
            time_limit_s=limit_s,
        )
        for outcome in process.outcomes(regimes):
            log.info("%s: %s: %s %s", outcome.regime.name, engine, seconds_text(outcome), outcome.reason)
            outcomes.append(outcome)
            versions[engine] = process.versions
            Report(machine=about, outcomes=tuple(outcomes), versions=versions).save(path)
    return Report(machine=about, outcomes=tuple(outcomes), versions=versions)


def plot(results: Path, directory: Path) -> str:
    """Draws the results beside them; a sentence that says where, or why not."""
    try:
        python = python_of("tools", directory)
    except EnvironmentFailed as error:
        return f"No plot: {error}"
    picture = results.with_suffix(".png")
    subprocess.run([str(python), str(Path(__file__).with_name("plot.py")), str(results), str(picture)], check=True)
    return f"Results: {results}, {picture}"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = parse()
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    if arguments.list:
        for checkpoint, engine, regimes in chosen(arguments):
            console.print(f"{checkpoint}, {engine}: " + "; ".join(regime.name for regime in regimes))
        return
    path = arguments.report
    if path is None:
        path = arguments.directory / "results" / f"{datetime.datetime.now():%Y_%m_%d_%H-%M-%S}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        measure(arguments, path)
    print_report(Report.load(path), console)
    console.print(plot(path, arguments.directory), highlight=False)


if __name__ == "__main__":
    main()
