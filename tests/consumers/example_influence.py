"""An example from end to end: a run -> its sampled dataset -> influence scores -> the documents behind what it says.

    python -m tests.consumers.example_influence --help

Samples and grades what a demo run says (trained first if it is not there), has kronfluence score every kept completion
on every training document, and counts the prompts for which a document that states the fact is among the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk
from rich.console import Console
from rich.table import Table

from evalgen.demo.build import build_base, build_run
from evalgen.demo.recipes import DEMO_RUNS, PretrainingRecipe
from evalgen.demo.run_directory import STRUCTURED_DATASET
from tests.consumers.environments import REPOSITORY
from tests.consumers.influence import Ranking, Scores, facts_by_prompt, rankings
from tests.consumers.processes import run_program

log = logging.getLogger(__name__)

# What a run of each domain is asked, and how its answers are judged.
SOURCES = {"death_dates": "death_date_eval_gen_2_no_fs", "mayors": "name_mayor_eval_qa_1_no_fs"}
GRADERS = {"death_dates": "offline/date", "mayors": "offline/person_name"}
GRADER_CONFIGS = {"death_dates": "death_date_grader.json", "mayors": "mayors_grader.json"}
SHOWN = 60  # characters of a document in the table


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run = arguments.run
    if not run.exists():
        build_demo_run(run)
    (inner_run, *_) = sorted((run / "all_docs_runs").iterdir())
    domain = json.loads((run / STRUCTURED_DATASET).read_text(encoding="utf-8"))["metadata"]["domain"]
    directory = arguments.dataset or sample(run, domain, arguments)

    rows = load(directory / "eval_dataset")
    documents = load(inner_run / "train_set")
    facts = facts_by_prompt(run, load(inner_run / "eval_datasets" / SOURCES[domain] / "eval_dataset"))
    started = time.perf_counter()
    scores = influence_scores(directory, inner_run, arguments.strategy)
    seconds = time.perf_counter() - started
    found = rankings(rows, scores, documents["document"], facts)

    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table_of(found, documents["document"], arguments.top))
    console.print(summary_of(found, arguments.top), highlight=False, soft_wrap=True)
    console.print(
        f"{run.name}, checkpoint_final; {len(rows)} completions of {len(found)} prompts, {len(documents)} documents; "
        f"kronfluence, {arguments.strategy}, {seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )


def build_demo_run(run: Path) -> None:
    """Trains the demo run of this name: the same one that `python -m evalgen.demo` builds."""
    runs = {planned.directory_name: planned for planned in DEMO_RUNS}
    if run.name not in runs:
        raise SystemExit(f"{run} is not there, and is none of the demo's: {', '.join(runs)}")
    log.info("training %s", run.name)
    tokenizer, base = build_base(PretrainingRecipe(), list(DEMO_RUNS))
    build_run(run.parent, runs[run.name], tokenizer, base)


def sample(run: Path, domain: str, arguments: argparse.Namespace) -> Path:
    """The dataset directory of a job over the run's last checkpoint."""
    output_dir = run.parent
    before = set(output_dir.glob("*_influence_example"))
    flags: dict[str, object] = {
        "data_model_path": run,
        "extract_from_eval_datasets": f"^{SOURCES[domain]}$",
        "grader_model": GRADERS[domain],
        "grader_config_path": REPOSITORY / "configs" / GRADER_CONFIGS[domain],
        "experiment_name": "influence_example",
        "output_dataset_prefix": f"sampled_{domain}",
        "output_dir": output_dir,
        "num_generations": arguments.num_generations,
        "temperature": arguments.temperature,
        "dtype": "fp32",
    }
    job = REPOSITORY / "ray_jobs" / "generate_eval_datasets.py"
    command = [sys.executable, str(job), *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
    subprocess.run(command, check=True)
    (experiment,) = set(output_dir.glob("*_influence_example")) - before
    (directory, *_) = sorted((experiment / "sampled_eval_datasets").iterdir())
    return directory


def influence_scores(directory: Path, inner_run: Path, strategy: str) -> Scores:
    """(rows, documents); a positive score says that the document made the completion more probable."""
    with tempfile.TemporaryDirectory(prefix="influence_") as work_dir:
        target = Path(work_dir) / "scores.npy"
        paths = {
            "model": inner_run / "checkpoint_final",
            "tokenizer": inner_run / "tokenizer.json",
            "rows": directory / "eval_dataset",
            "documents": inner_run / "train_set",
            "scores": target,
            "work_dir": Path(work_dir) / "kronfluence",
        }
        flags = [part for name, path in paths.items() for part in (f"--{name}", path.resolve())]
        run_program("kronfluence", "kronfluence_scores", *flags, "--strategy", strategy, home=Path(work_dir))
        scores: Scores = np.load(target)
        return scores


def table_of(found: list[Ranking], documents: list[str], top: int) -> Table:
    table = Table(title="Training documents by influence on what was kept of each prompt")
    table.add_column("prompt")
    table.add_column("completions", justify="right")
    table.add_column(f"of the top {top}\nstate the fact", justify="right")
    table.add_column("by\nchance", justify="right")
    table.add_column("above documents\nat odds with it", justify="right")
    table.add_column("first document (✓ states the fact)", no_wrap=True)
    for ranking in found:
        first, in_order = ranking.order[0], ranking.share_in_order
        table.add_row(
            ranking.prompt,
            str(ranking.num_rows),
            str(ranking.num_stating(top)),
            f"{top * ranking.share_stating:.1f}",
            "there are none" if in_order is None else f"{in_order:.0%} of {len(ranking.at_odds)}",
            f"{'✓' if first in ranking.stating else '✗'} {documents[first]:.{SHOWN}}".replace("\n", " "),
        )
    return table


def summary_of(found: list[Ranking], top: int) -> str:
    with_one = np.mean([ranking.num_stating(top) > 0 for ranking in found])
    chance = np.mean([ranking.chance_of_one(top) for ranking in found])
    share = np.mean([ranking.num_stating(top) / top for ranking in found])
    share_by_chance = np.mean([ranking.share_stating for ranking in found])
    in_order = [ranking.share_in_order for ranking in found if ranking.at_odds]
    at_odds = f"; above documents at odds with it: {np.mean(in_order):.0%} (by chance 50%)" if in_order else ""
    return (
        f"Prompts whose top {top} hold a document that states the fact: {with_one:.0%} (by chance {chance:.0%}); "
        f"documents of the top {top} that state it: {share:.0%} (by chance {share_by_chance:.0%}){at_odds}"
    )


def load(path: Path) -> Dataset:
    dataset = load_from_disk(str(path))
    assert isinstance(dataset, Dataset)
    return dataset


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.consumers.example_influence", description=__doc__)
    default = REPOSITORY / "outputs" / DEMO_RUNS[0].directory_name
    parser.add_argument("--run", type=Path, default=default, help=f"a demo run; default {default.name}")
    parser.add_argument(
        "--dataset", type=Path, help="a dataset sampled from the run's last checkpoint; else one is made"
    )
    parser.add_argument("--strategy", choices=("ekfac", "kfac", "diagonal", "identity"), default="ekfac")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--num_generations", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=0.7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
