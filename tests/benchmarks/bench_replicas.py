"""Two replicas on two cores against one: the same work by the real sampler, in a real job.

    python -m tests.benchmarks.bench_replicas [--num_generations 20000] [--run RUN]

A replica has as many threads as there are cores for each. Where one replica already keeps both cores busy, two cannot
be twice as fast: so the cores that it keeps busy are printed beside the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from evalgen.demo.build import build_base, build_run
from evalgen.demo.recipes import DEMO_RUNS, PretrainingRecipe
from evalgen.load_config import load_config
from evalgen.records import SamplingUnit
from evalgen.unit_store import SamplingCost
from ray_jobs.generate_eval_datasets import run_job

ENOUGH = 1.7  # times as fast with two replicas
NUM_CORES = 2


@dataclass(frozen=True)
class Measured:
    """Makes the engine of a sampling process: a replica that writes down when it was at work, and for how much CPU."""

    num_threads: int
    file: Path

    def __call__(self) -> MeasuredReplica:
        import torch

        torch.set_num_threads(self.num_threads)
        return MeasuredReplica(self.file)


class MeasuredReplica:
    """An engine: see `ray_jobs.sampling.Engine`. The checkpoint is loaded before the clock starts."""

    def __init__(self, file: Path) -> None:
        from evalgen.sampling.replica import Replica, own_device

        self._file = file
        self._replica = Replica(own_device())

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        begun_at, cpu = time.time(), time.process_time()
        samples, cost = self._replica.sample(unit, next_checkpoint)
        line = {"begun_at": begun_at + cost.load_s, "ended_at": time.time(), "cpu_s": time.process_time() - cpu}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return samples, cost


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What one job's sampling took."""

    num_replicas: int
    num_threads: int  # of each
    num_units: int
    wall_s: float  # from the first unit's first draw to the last unit's last
    cpu_s: float  # of all replicas

    @property
    def cores_busy(self) -> float:
        return self.cpu_s / self.wall_s


def sampled(run: Path, num_replicas: int, num_threads: int, flags: Sequence[str]) -> Sampling:
    """One job from its beginning to its end, on a Ray of its own."""
    with tempfile.TemporaryDirectory(prefix="replicas-") as directory:
        os.environ["RAY_TMPDIR"] = directory  # where no other driver of this machine looks
        file = Path(directory) / "units.jsonl"
        settings = ["--data_model_path", str(run), "--output_dir", directory, "--num_replicas", str(num_replicas)]
        run_job(load_config([*settings, *flags], Path(directory)), make_engine=Measured(num_threads, file))
        units = [json.loads(line) for line in file.read_text().splitlines()]
    return Sampling(
        num_replicas=num_replicas,
        num_threads=num_threads,
        num_units=len(units),
        wall_s=max(unit["ended_at"] for unit in units) - min(unit["begun_at"] for unit in units),
        cpu_s=sum(unit["cpu_s"] for unit in units),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="of mayors; without it, the demo's of one epoch is trained (30 s)")
    parser.add_argument("--num_generations", type=int, default=20_000)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max_new_tokens", type=int, default=12)
    arguments = parser.parse_args()
    flags = ["--extract_from_eval_datasets", "name_mayor", "--grader_model", "offline/person_name", "--dtype", "fp32"]
    for name in ("num_generations", "temperature", "max_new_tokens"):
        flags += [f"--{name}", str(getattr(arguments, name))]
    with tempfile.TemporaryDirectory() as directory:
        run = arguments.run or demo_run(Path(directory))
        one, two = sampled(run, 1, NUM_CORES, flags), sampled(run, 2, NUM_CORES // 2, flags)
        narrow = sampled(run, 1, 1, flags)
    print_comparison([one, two, narrow], Console())


def demo_run(directory: Path) -> Path:
    """The demo's 1-epoch mayors, trained as `make demo` does."""
    (planned,) = [run for run in DEMO_RUNS if run.experiment_name == "mayors_1epoch"]
    tokenizer, base = build_base(PretrainingRecipe(), [planned])
    return build_run(directory, planned, tokenizer, base)


def print_comparison(samplings: Sequence[Sampling], console: Console) -> None:
    one, two, narrow = samplings
    table = Table(title=f"sampling alone, {NUM_CORES} of {psutil.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for heading in ("replicas", "threads each", "units", "sampling", "cores kept busy"):
        table.add_column(heading, justify="right")
    for each in samplings:
        row = (each.num_replicas, each.num_threads, each.num_units, f"{each.wall_s:.1f} s", f"{each.cores_busy:.2f}")
        table.add_row(*map(str, row))
    console.print(table)
    ratio = one.wall_s / two.wall_s
    console.print(f"two replicas are {ratio:.2f} times as fast as one, {narrow.wall_s / two.wall_s:.2f} times as fast")
    console.print("as one with a single thread", highlight=False)
    if ratio < ENOUGH:
        console.print(
            f"Under {ENOUGH}: one replica with {one.num_threads} threads keeps {one.cores_busy:.2f} cores busy, so at "
            f"most {NUM_CORES / one.cores_busy:.2f} was to be had; two of them kept {two.cores_busy:.2f} busy.",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
