"""Sampling and grading that take equally long: how far the job is from taking as long as one of them.

    python -m tests.benchmarks.bench_overlap [--num_prompts 30]        about a minute and a half

The engine is a stand-in that takes a second a prompt; the server of `tests.chaos` answers after so many milliseconds
that the questions of a prompt take a second, too. A unit is one prompt, so that there are as many as in a job of some
thousand: nothing is graded before the first is sampled. Exit code 1: together they take more than 1.15 times as long as
the slower one, from the first draw to the last verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from evalgen import units
from evalgen.records import SamplingUnit
from evalgen.unit_store import SamplingCost
from tests.benchmarks.bench_grading import DISTINCT_OF_PROMPT, job, served
from tests.benchmarks.scale_job import NUM_DRAWS, StandIn

TARGET = 1.15
PROMPT_S = 1.0
CONNECTIONS = 10


@dataclass(frozen=True)
class Slow:
    """An engine that takes its time, and writes down when it was at work."""

    file: Path

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        begun_at = time.monotonic()
        sampled = StandIn().sample(unit, next_checkpoint)
        time.sleep(max(0.0, PROMPT_S * len(unit.queries) - (time.monotonic() - begun_at)))
        with self.file.open("a") as file:
            file.write(json.dumps([begun_at, time.monotonic()]) + "\n")
        return sampled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_prompts", type=int, default=30)
    num_prompts = parser.parse_args().num_prompts
    latency_s = PROMPT_S * CONNECTIONS / DISTINCT_OF_PROMPT
    with tempfile.TemporaryDirectory(prefix="overlap-") as directory, served(latency_s=latency_s) as api:
        server_up_at = time.monotonic()
        units.MAX_DRAWS = NUM_DRAWS
        file = Path(directory) / "units.jsonl"
        job(Path(directory) / "job", num_prompts, CONNECTIONS, make_engine=lambda: Slow(file))
        sampled = [json.loads(line) for line in file.read_text().splitlines()]
        stats = api.stats()
    sampling_s = sum(ended - begun for begun, ended in sampled)
    grading_s = stats.calls * latency_s / CONNECTIONS
    last_answer_at = server_up_at + max(stats.arrivals_by_s) + 1 + latency_s  # the server counts in whole seconds
    together_s = last_answer_at - min(begun for begun, _ in sampled)
    ratio = together_s / max(sampling_s, grading_s)
    console = Console()
    console.print(f"{len(sampled)} units, {stats.calls:,} requests of {1000 * latency_s:.0f} ms", highlight=False)
    console.print(f"sampling {sampling_s:.1f} s, grading {grading_s:.1f} s at the least", highlight=False)
    console.print(f"both {together_s:.1f} s: {ratio:.2f} times the slower one; target {TARGET}", highlight=False)
    return 1 if ratio > TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
