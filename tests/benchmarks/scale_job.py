"""A whole job with up to a million distinct completions: seconds by stage, and memory of each of its processes.

    python -m tests.benchmarks.scale_job [--num_prompts 100 1000 10000]
    python -m tests.benchmarks.scale_job --num_prompts 1000 --num_generations 1000 10000

Everything is real but the model: what is drawn is a recorded distribution, 100 distinct completions in 1,000 draws of
each prompt, or in so many times as many. Each size runs in a process of its own, on a Ray of its own. Exit code 1: time
or memory grew faster than completions and draws, the driver's memory with the draws, or the driver took 2 GiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from evalgen.demo.build import build_tiny_run
from evalgen.load_config import load_config
from evalgen.records import Query, SampledSequence, SamplingUnit
from evalgen.samples import samples_table
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.tokenization import load_tokenizer
from evalgen.unit_store import SamplingCost
from ray_jobs.generate_eval_datasets import run_job

# How often each distinct completion came in 1,000 draws of one prompt, from the tests' tiny run at T=0.8.
RECORDED_COUNTS = (
    *(243, 181, 59, 41, 37, 34, 30, 29, 21, 19, 18, 17, 14, 13, 13, 13, 13, 12, 12, 11, 10, 9, 7, 6, 6),
    *(5, 5, 5, 5, 5, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2),
    *[1] * 50,
)
NUM_DRAWS = sum(RECORDED_COUNTS)
MOST_BYTES_OF_DRIVER = 2 << 30
LINEAR = 1.15  # times as fast as the number of completions: more is not linear
STAGES = ("start_ray", "plan", "sample_and_grade", "assemble", "total")
ROLES = {
    "store": "ray::StoreActor",
    "sampling": "(SamplingActor)",
    "grading": "(GradingActor)",
    "raylet": "raylet/raylet",
}
POLL_S = 0.2
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class StandIn:
    """An engine that needs no model: what a draw gives is a function of seed, prompt and draw, and nothing else."""

    num_generations: int = NUM_DRAWS  # of a prompt in all units; so many times `NUM_DRAWS`

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        start = time.perf_counter()
        tokenizer = load_tokenizer(unit.checkpoint.tokenizer_path)
        shared = [tokenizer.encode(f" answer {rank}", add_special_tokens=False) for rank in range(len(RECORDED_COUNTS))]
        eos_id = tokenizer.eos_token_id
        sequences = []
        for query in unit.queries:
            own = tokenizer.encode(f" of {query.id}", add_special_tokens=False)
            completions = self._completions_of_draws(unit, query)
            for rank in np.unique(completions).tolist():
                draws = unit.first_draw + np.flatnonzero(completions == rank)
                sequences.append(_sequence(query, [*shared[rank], *own, eos_id], rank, draws.tolist()))
        return samples_table(unit, sequences, tokenizer), SamplingCost(
            model_evaluations=0,
            distinct_prefixes=distinct_prefixes(sequences),
            out_of_memory_halvings=0,
            load_s=0.0,
            sample_s=time.perf_counter() - start,
            finished_at=time.time(),
        )

    def _completions_of_draws(self, unit: SamplingUnit, query: Query) -> np.ndarray[Any, Any]:
        """The rank of what each draw of the unit gives for a prompt."""
        digest = hashlib.sha256(f"{unit.seed} {query.id}".encode()).digest()
        places = np.random.default_rng(int.from_bytes(digest[:8])).permutation(self.num_generations)
        ranks = np.searchsorted(np.cumsum(RECORDED_COUNTS), places % NUM_DRAWS, side="right")
        return ranks[unit.first_draw : unit.first_draw + unit.num_draws]


def _sequence(query: Query, token_ids: Sequence[int], rank: int, draws: Sequence[int]) -> SampledSequence:
    logprob = math.log(RECORDED_COUNTS[rank] / NUM_DRAWS)
    logprobs = (logprob, *[0.0] * (len(token_ids) - 1))
    return SampledSequence(
        prompt_id=query.id,
        token_ids=tuple(token_ids),
        token_logprobs=logprobs,
        logprob=logprob,
        logprob_sampling=logprob,
        token_logprobs_sampling=logprobs,
        generation_indices=tuple(draws),
        finish_reason="eos",
        is_greedy=rank == 0,
    )


def run_size(num_prompts: int, num_generations: int, run: Path, directory: Path) -> None:
    """One job, in this process; leaves its timings and this process's peak memory in `driver.json`."""
    queries = [
        {
            "id": f"district {n}",
            "prompt": f"Who rules district {n}?",
            "original_completion": f" answer 0 of district {n}",
        }
        for n in range(num_prompts)
    ]
    (directory / "queries.json").write_text(json.dumps(queries))
    settings = {
        "data_model_path": run,
        "query_json_path": directory / "queries.json",
        "grader_model": "offline/exact",
        "num_generations": num_generations,
        "temperature": 0.8,
        "output_dir": directory / "outputs",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    experiment = run_job(load_config(flags, directory), make_engine=lambda: StandIn(num_generations))
    summary = json.loads((experiment.directory / "summary.json").read_text())
    (figures,) = summary["datasets"]
    assert figures["num_unique"] == num_prompts * len(RECORDED_COUNTS), figures
    assert figures["num_items"] == figures["num_equivalent"] == num_prompts, figures
    driver = {
        "timings": summary["timings"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "disk_bytes": sum(path.stat().st_size for path in experiment.directory.rglob("*") if path.is_file()),
    }
    (directory / "driver.json").write_text(json.dumps(driver))


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a job of one size took."""

    num_completions: int  # distinct
    num_draws: int
    seconds: dict[str, float]  # by stage
    peak_bytes: dict[str, int]  # resident, memory shared with Ray's object store included; by role
    disk_bytes: int


def measured(num_prompts: int, num_generations: int, run: Path, directory: Path) -> Size:
    """Runs a job in a process of its own, and watches the memory of all that it starts."""
    command = [sys.executable, "-m", "tests.benchmarks.scale_job", "--one", str(num_prompts), str(num_generations)]
    command += [str(run), str(directory)]
    with (directory / "printed").open("w") as printed:
        job = psutil.Popen(command, env=os.environ | {"RAY_TMPDIR": str(directory)}, stdout=printed, stderr=printed)
        peaks: Counter[str] = Counter()
        while job.poll() is None:
            for process in job.children(recursive=True):
                peaks |= Counter(_peak(process))
            time.sleep(POLL_S)
    assert job.returncode == 0, (directory / "printed").read_text()[-2000:]
    driver = json.loads((directory / "driver.json").read_text())
    return Size(
        num_completions=num_prompts * len(RECORDED_COUNTS),
        num_draws=num_prompts * num_generations,
        seconds=driver["timings"],
        peak_bytes={"driver": driver["peak_bytes"], **peaks},
        disk_bytes=driver["disk_bytes"],
    )


def _peak(process: psutil.Process) -> dict[str, int]:
    """The most memory that was resident in a process so far, by its role; nothing for other processes."""
    try:
        title = " ".join(process.cmdline())
        role = next((role for role, part in ROLES.items() if part in title), None)
        found = PEAK.search(Path(f"/proc/{process.pid}/status").read_text()) if role else None
    except (psutil.Error, OSError):
        return {}  # it has ended
    return {role: int(found[1]) * 1024} if role and found else {}


def table(sizes: Sequence[Size]) -> Table:
    result = Table(title="seconds by stage, and the most resident memory of a process (shared memory included)")
    roles = ["driver", *ROLES]
    for heading in ("distinct completions", "draws", *STAGES, *roles, "on disk"):
        result.add_column(heading.replace("_", " "), justify="right")
    for size in sizes:
        result.add_row(
            f"{size.num_completions:,}",
            f"{size.num_draws:,}",
            *(f"{size.seconds.get(stage, 0.0):.1f} s" for stage in STAGES),
            *(f"{size.peak_bytes.get(role, 0) / 1e6:,.0f} MB" for role in roles),
            f"{size.disk_bytes / 1e6:,.0f} MB",
        )
    return result


def too_much(sizes: Sequence[Size]) -> list[str]:
    """What grew too fast, and a driver that takes too much; a line each."""
    lines = []
    for small, large in pairwise(sizes):
        completions, draws = large.num_completions / small.num_completions, large.num_draws / small.num_draws
        most = LINEAR * max(completions, draws)
        allowed = {stage: (small.seconds[stage], large.seconds[stage], most) for stage in STAGES}
        allowed |= {role: (small.peak_bytes[role], large.peak_bytes[role], most) for role in ROLES}
        driver = (small.peak_bytes["driver"], large.peak_bytes["driver"], LINEAR * completions)
        lines += [
            f"{name}: {after / before:.1f} times for {completions:.0f} times the completions, {draws:.0f} the draws"
            for name, (before, after, factor) in (allowed | {"driver": driver}).items()
            if after > factor * max(before, 1.0)
        ]
    return lines + [
        f"driver: {size.peak_bytes['driver'] / 2**30:.2f} GiB"
        for size in sizes
        if size.peak_bytes["driver"] >= MOST_BYTES_OF_DRIVER
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_prompts", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--num_generations", type=int, nargs="+", default=[NUM_DRAWS], help="multiples of 1,000")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        num_prompts, num_generations, run, directory = arguments.one
        run_size(int(num_prompts), int(num_generations), Path(run), Path(directory))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 170)
    sizes = []
    with tempfile.TemporaryDirectory(prefix="scale-") as root:  # a short name: Unix sockets are in it
        run = build_tiny_run(Path(root) / "run")
        for num_prompts, num_generations in product(arguments.num_prompts, arguments.num_generations):
            directory = Path(root) / f"{num_prompts}x{num_generations}"
            directory.mkdir()
            sizes.append(measured(num_prompts, num_generations, run, directory))
            size = f"{num_prompts:,} prompts x {num_generations:,}"
            console.print(f"{size}: {sizes[-1].seconds['total']:.1f} s", highlight=False)
    console.print(table(sizes))
    problems = too_much(sizes)
    console.print("\n".join(problems) if problems else "Growth is at most linear; the driver stays under 2 GiB.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
