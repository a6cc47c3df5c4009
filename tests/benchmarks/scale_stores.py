"""How time and memory grow with the number of distinct completions, from storing units to written datasets.

    python -m tests.benchmarks.scale_stores
    python -m tests.benchmarks.scale_stores --completions 10000 --raised

No model: samples come from a rule, 100 distinct completions in 1000 draws of each prompt. Each stage is a process of
its own, so that its peak memory is its own; "import" is what a process has before it does anything. "us each" is CPU
time, which other processes on the machine do not change. `--raised` stores the draws in two halves, cut into units in
two ways, as `--resume` with a raised `--num_generations` leaves them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from evalgen.config import RunConfig
from evalgen.experiment import Experiment
from evalgen.finish import write_datasets
from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.job import DatasetPlan
from evalgen.records import Checkpoint, GraderSpec, Query, SamplingUnit
from evalgen.samples import SAMPLES_SCHEMA
from evalgen.timings import Timings
from evalgen.tokenization import load_tokenizer
from evalgen.unit_store import SamplingCost, UnitStore
from evalgen.units import plan_units
from evalgen.verdict_store import VerdictStore
from tests.unit.tiny import tiny_tokenizer

DRAWS = 1000  # of a prompt
DISTINCT = 100  # completions of a prompt
SIZES = (10_000, 100_000, 1_000_000)
REFERENCE = " Grace Miller"
COST = SamplingCost(
    model_evaluations=1, distinct_prefixes=1, out_of_memory_halvings=0, load_s=0.0, sample_s=0.0, finished_at=0.0
)


@dataclass(frozen=True)
class ScaleJob:
    """A job of one dataset in a directory of its own."""

    directory: Path
    num_prompts: int
    raised: bool = False

    @property
    def experiment(self) -> Experiment:
        return Experiment(self.directory)

    @cached_property
    def plan(self) -> DatasetPlan:
        return DatasetPlan(
            name="sampled_scale",
            checkpoint=Checkpoint(
                run="run", name="checkpoint_final", path="none", tokenizer_path=str(self.directory / "tokenizer")
            ),
            queries=tuple(
                Query(id=f"q{n}", prompt=f"Q: Who is the mayor of city {n}? A:", reference=REFERENCE, source_dataset="")
                for n in range(self.num_prompts)
            ),
            grader=GraderSpec(model="offline/exact", instructions="The same person by the same name. " * 4),
            settings=RunConfig(data_model_path="none", num_generations=DRAWS),
        )

    def begin(self) -> None:
        self.experiment.datasets.mkdir(parents=True)
        tiny_tokenizer().save_pretrained(self.directory / "tokenizer")

    def sample(self) -> None:
        half = replace(self.plan, settings=self.plan.settings.model_copy(update={"num_generations": DRAWS // 2}))
        for plan, num_replicas in [(half, 2), (self.plan, 3)] if self.raised else [(self.plan, 2)]:
            sample(self.experiment, plan, num_replicas)

    def grade(self) -> None:
        grade(self.experiment, self.plan)

    def close(self) -> None:
        """Opens what a killed job left, and ends it."""
        VerdictStore(self.experiment.verdicts).close()

    def assemble(self) -> None:
        (figures,), _ = write_datasets(self.experiment, [self.plan], {}, Timings())
        assert (figures.num_draws, figures.num_unique) == (self.num_prompts * DRAWS, self.num_prompts * DISTINCT)
        assert (figures.num_equivalent, figures.num_items) == (self.num_prompts * 2, self.num_prompts)

    def resume(self) -> None:
        """What going on with a finished job has to read."""
        assert UnitStore(self.experiment.samples).ranges_of(self.plan.name).keys() == {q.id for q in self.plan.queries}
        VerdictStore(self.experiment.verdicts, self.experiment.earlier_verdicts()).close()


def sample(experiment: Experiment, plan: DatasetPlan, num_replicas: int, num_distinct: int = DISTINCT) -> int:
    """Stores every unit of the plan whose draws are not stored yet. Returns how many draws that took."""
    store = UnitStore(experiment.samples)
    rule = SampleRule(load_tokenizer(plan.checkpoint.tokenizer_path), num_distinct)
    units = plan_units([plan], num_replicas, store.ranges())
    for unit in units:
        store.save(unit, rule.samples(unit), COST)
    store.close()
    return sum(unit.num_draws * len(unit.queries) for unit in units)


def grade(experiment: Experiment, plan: DatasetPlan) -> VerdictStore:
    """Judges every completion of every unit, deduplicated as the pipeline does it: within the unit."""
    store, verdicts = UnitStore(experiment.samples), VerdictStore(experiment.verdicts)
    desk = GradingDesk(
        SharedVerdicts(verdicts), RateLimiter(max_connections=1, breaker=Breaker(900)), max_connections=1
    )
    queries = {query.id: query for query in plan.queries}
    for unit in store.stored:
        table = store.load(unit.unit_id).select(["prompt_id", "completion"])
        pairs = dict.fromkeys(zip(*(column.to_pylist() for column in table.columns), strict=True))
        asyncio.run(desk.grade([plan.question(queries[prompt_id], text) for prompt_id, text in pairs]))
    store.close()
    return verdicts


STAGES: dict[str, Callable[[ScaleJob], None]] = {
    "import": ScaleJob.begin,
    "sample": ScaleJob.sample,
    "grade": ScaleJob.grade,
    "close": ScaleJob.close,
    "assemble": ScaleJob.assemble,
    "resume": ScaleJob.resume,
}


class SampleRule:
    """What each draw of each prompt is. Two of a prompt's 100 completions are right, one of them to be trimmed."""

    def __init__(self, tokenizer: object, num_distinct: int = DISTINCT) -> None:
        self._num_distinct = num_distinct
        vocabulary = {tokenizer.decode([number]): number for number in range(2, len(tokenizer))}  # type: ignore
        self._reference = [vocabulary[piece] for piece in (" Grace", " Mil", "ler")]
        self._digits = [vocabulary[str(digit)] for digit in range(10)]
        self._newline = vocabulary["\n"]

    def samples(self, unit: SamplingUnit) -> pa.Table:
        draws = np.arange(unit.first_draw, unit.first_draw + unit.num_draws)
        rows = []
        for query in unit.queries:
            number = int(query.id[1:])
            for which in range(self._num_distinct):
                ids, text = self._completion(number, which)
                found = draws[(draws * 7 + number) % self._num_distinct == which].tolist()
                if found:
                    rows.append((query, ids, text, found))
        lengths = [len(ids) for _, ids, _, _ in rows]
        columns = {
            "run": [unit.checkpoint.run] * len(rows),
            "checkpoint": [unit.checkpoint.name] * len(rows),
            "prompt_id": [query.id for query, _, _, _ in rows],
            "prompt": [query.prompt for query, _, _, _ in rows],
            "completion": [text for _, _, text, _ in rows],
            "token_ids": [ids for _, ids, _, _ in rows],
            "token_logprobs": [[-0.5] * length for length in lengths],
            "logprob": [-0.5 * length for length in lengths],
            "logprob_sampling": [-0.25 * length for length in lengths],
            "sample_count": [len(found) for _, _, _, found in rows],
            "generation_indices": [found for _, _, _, found in rows],
            "finish_reason": ["length"] * len(rows),
            "token_logprobs_sampling": [[-0.25] * length for length in lengths],
            "is_greedy": [False] * len(rows),
        }
        return pa.table(columns, schema=SAMPLES_SCHEMA)

    def _completion(self, prompt: int, which: int) -> tuple[list[int], str]:
        if which < 2:
            return self._reference + [self._newline] * which, REFERENCE + "\n" * which
        digits = f"{prompt:06d}{which:02d}"
        return self._reference[:1] + [self._digits[int(digit)] for digit in digits], f" Grace{digits}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, nargs="+", default=SIZES, help="distinct ones, of all prompts")
    parser.add_argument("--raised", action="store_true", help="the draws of each prompt are in two units")
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary one, removed at the end")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        job = ScaleJob(arguments.directory, arguments.completions[0] // DISTINCT, arguments.raised)
        _run_stage(arguments.stage, job)
        return
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="scale_stores_"))
    try:
        for line in _table_lines(directory, arguments.completions, arguments.raised):
            _say(line)
    finally:
        if not arguments.directory:
            shutil.rmtree(directory)


def _table_lines(directory: Path, sizes: Sequence[int], raised: bool) -> Iterator[str]:
    yield "  prompts        draws   distinct  stage       wall s    CPU s  us each  peak MiB"
    for size in sizes:
        job = directory / f"{size}_completions"
        for stage in STAGES:
            command = [sys.executable, "-m", "tests.benchmarks.scale_stores", "--stage", stage]
            command += ["--completions", str(size), "--directory", str(job)] + ["--raised"] * raised
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            wall_s, cpu_s, peak_mib = json.loads(done.stdout.splitlines()[-1])
            yield (
                f"{size // DISTINCT:>9,} {size // DISTINCT * DRAWS:>12,} {size:>10,}  {stage:<9} {wall_s:>8.2f} "
                f"{cpu_s:>8.2f} {cpu_s / size * 1e6:>8.1f} {peak_mib:>9.0f}"
            )


def _run_stage(stage: str, job: ScaleJob) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    STAGES[stage](job)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Of this process alone: getrusage would count what its parent had.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    _say(json.dumps([wall, cpu, int(status["VmHWM"].split()[0]) / 1024]))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
