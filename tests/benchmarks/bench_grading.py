"""Grading against a server that limits, fails and bills: what its own books say afterwards.

    python -m tests.benchmarks.bench_grading [PART ...]

Parts, 30 minutes together: limits tokens drop throughput storm faults refused budget packs memory.

The server is `tests.chaos`, in a process of its own on loopback; the client is the real SDK. `limits` and `throughput`
run whole jobs on Ray whose engine is a stand-in; the others one grading desk in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from evalgen.demo.build import build_tiny_run
from evalgen.errors import GraderUnavailable, GradingBudgetSpent, JobStopped
from evalgen.grading.breaker import Breaker
from evalgen.grading.desk import GradingDesk
from evalgen.grading.prices import load_prices
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS
from evalgen.grading.rate_limiter import RateLimiter
from evalgen.grading.shared_verdicts import SharedVerdicts
from evalgen.grading.spending import Spending
from evalgen.load_config import load_config
from evalgen.records import GraderSpec, Question
from evalgen.verdict_store import VerdictStore, graded_keys, spent_usd
from evalgen.verdict_table import VERDICTS_FILE
from ray_jobs.generate_eval_datasets import run_job
from ray_jobs.sampling import Engine
from tests.benchmarks.scale_job import NUM_DRAWS, RECORDED_COUNTS, StandIn
from tests.benchmarks.sdk_alone import sdk_rate
from tests.chaos.books import Stats
from tests.chaos.limits import STRICT, Limits
from tests.chaos.server import ChaosApi
from tests.chaos.settings import Faults, Price, Storm

MODEL = "claude-haiku-4-5-20251001"
PRICES = {MODEL: Price(input_usd=1.0, output_usd=5.0)}
DISTINCT_OF_PROMPT = len(RECORDED_COUNTS)
REQUESTS_PER_MINUTE = 1_200


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    what: str
    measured: str
    target: str


def limits(directory: Path) -> Iterator[Figure]:
    """Jobs of three and a half minutes against a strict limit, from one grading actor and from eight."""
    for num_actors in (1, 8):
        with served(limits=Limits(requests_per_minute=REQUESTS_PER_MINUTE, **STRICT), latency_s=0.5) as api:
            num_prompts = 35 * REQUESTS_PER_MINUTE // 1_000
            job(directory / f"limits_{num_actors}", num_prompts, max_connections=100 * num_actors)
            stats = api.stats()
        counted = whole_seconds(stats)
        share = sum(stats.served_by_s.get(s, 0) for s in counted) / len(counted) / (REQUESTS_PER_MINUTE / 60)
        late = sum(stats.refused_by_s.get(second, 0) for second in counted)
        actors = f"{num_actors} grading actor{'s' * (num_actors > 1)}"
        yield Figure(what=f"share of the allowed rate, {actors}", measured=f"{share:.1%}", target="97%")
        early = sum(stats.refused_by_s.values()) - late
        yield Figure(what="  429s after the first minute (before)", measured=f"{late} ({early})", target="0")
        yield Figure(what="  calls per distinct question", measured=calls_per_question(stats), target="1.00")


def tokens(directory: Path) -> Iterator[Figure]:
    """Strict limits on tokens, at one desk."""
    for kind, per_minute in (("input", 350_000), ("output", 30_000)):
        strict = Limits(**{f"{kind}_tokens_per_minute": per_minute}, **STRICT)
        with served(limits=strict, latency_s=0.5) as api:
            grade(directory / f"tokens_{kind}", 2_800, max_connections=100)
            stats = api.stats()
        counted = whole_seconds(stats)
        num_served = sum(stats.served_by_s.get(second, 0) for second in counted)
        of_a_request = getattr(stats, f"{kind}_tokens") / sum(stats.served_by_s.values())
        share = num_served * of_a_request / len(counted) / (per_minute / 60)
        late = sum(stats.refused_by_s.get(second, 0) for second in counted)
        yield Figure(what=f"share of the allowed {kind} tokens", measured=f"{share:.1%}", target="97%")
        yield Figure(what="  429s after the first minute", measured=str(late), target="0")


def drop(directory: Path) -> Iterator[Figure]:
    """The limit is halved once a thousand requests have come."""
    before, after = (Limits(requests_per_minute=each, **STRICT) for each in (1_200, 600))
    with served(limits=before, latency_s=0.5) as api:
        is_over = Event()
        with ThreadPoolExecutor(1) as beside:
            halved = beside.submit(halve, api, after, is_over)
            try:
                grade(directory / "drop", 2_200, max_connections=100)
            finally:
                is_over.set()
        stats, at = api.stats(), halved.result()
    refused = [second - at for second, number in stats.refused_by_s.items() if second >= at and number]
    counted = range(at + 10, max(stats.arrivals_by_s) - 5)
    share = sum(stats.served_by_s.get(second, 0) for second in counted) / len(counted) / 10
    yield Figure(
        what="the limit is halved in mid-run: seconds until the last 429",
        measured=f"{max(refused, default=0)}",
        target="-",
    )
    num_refused = sum(stats.refused_by_s.get(at + second, 0) for second in refused)
    yield Figure(what="  429s until then", measured=str(num_refused), target="-")
    yield Figure(what="  share of the new rate, from the tenth second on", measured=f"{share:.1%}", target="97%")


def halve(api: ChaosApi, limits: Limits, is_over: Event) -> int:
    """Sets `limits` when a thousand requests have come; returns the second, as the server's books have it."""
    while (stats := api.stats()).calls < 1_000 and not is_over.wait(0.2):
        pass
    api.set(limits=limits)
    return max(stats.arrivals_by_s)


def throughput(directory: Path) -> Iterator[Figure]:
    """Jobs with many connections to a server that answers after 200 ms, and with so few that two cores are enough."""
    for connections, num_questions in ((200, 20_000), (50, 8_000)):
        with served(latency_s=0.2) as api:
            job(directory / f"throughput_{connections}", num_questions // DISTINCT_OF_PROMPT, connections)
            stats = api.stats()
            times = psutil.Process(api.pid).cpu_times()
        # Whole seconds: without those in which questions begin to come, and run out.
        counted = range(min(stats.arrivals_by_s) + 2, max(stats.arrivals_by_s) - 1)
        rate = sum(stats.arrivals_by_s.get(second, 0) for second in counted) / len(counted)
        ideal = connections / 0.2
        yield Figure(what=f"200 ms server, {connections} connections: requests/s", measured=f"{rate:.0f}", target="-")
        yield Figure(what="  of the ideal", measured=f"{rate / ideal:.1%}", target="95%")
        with served(latency_s=0.2):
            alone = sdk_rate(connections, num_questions // 2)
        what = f"  the SDK alone, without limits, budget or store: {alone:.0f}; of that"
        yield Figure(what=what, measured=f"{rate / alone:.1%}", target="-")
        # The server itself may take longer than 200 ms where CPU is short. Idle connections are the client's doing.
        in_use = sum(stats.in_flight_by_s.get(second, 0) for second in counted) / len(counted) / connections
        yield Figure(what="  connections in use", measured=f"{in_use:.1%}", target="95%")
        server_ms = 1000 * (times.user + times.system) / stats.calls
        yield Figure(what="  CPU of the server, ms a request", measured=f"{server_ms:.2f}", target="-")


def storm(directory: Path) -> Iterator[Figure]:
    """Everything is 529 for two minutes, from the fifth second on."""
    with served(latency_s=0.05, storm=Storm(start_s=5, duration_s=120)) as api:
        took = grade(directory / "storm", 3_000, max_connections=1_000, per_minute=6_000)
        stats = api.stats()
    lost = 3_000 - len(graded_keys(directory / "storm"))
    yield Figure(
        what="529 for 120 s, 1,000 connections: requests during it", measured=f"{stats.faults['storm']}", target="-"
    )
    yield Figure(what="  seconds in all (35 s without the storm)", measured=f"{took:.0f}", target="-")
    yield Figure(what="  verdicts lost", measured=str(lost), target="0")


def faults(directory: Path) -> Iterator[Figure]:
    """One request in five goes wrong in some way."""
    wrong = Faults(
        **{"server_error": 0.02, "bad_gateway": 0.02, "overloaded": 0.03, "reset": 0.02, "not_a_message": 0.01},
        **{
            "lost": 0.02,
            "slow": 0.02,
            "cut": 0.02,
            "malformed": 0.02,
            "refusal": 0.01,
            "max_tokens": 0.01,
            "prose": 0.01,
        },
    )
    with served(latency_s=0.1, latency_sigma=0.5, slow_s=2, faults=wrong, clock_skew_s=-3600) as api:
        grade(directory / "faults", 3_000, max_connections=100)
        stats = api.stats()
    kinds = pq.read_table(directory / "faults" / VERDICTS_FILE, columns=["verdict"])["verdict"].to_pylist()
    struck = sum(stats.faults.values())
    lost = str(3_000 - len(kinds))
    yield Figure(what=f"{struck} faults in {stats.calls} requests: verdicts lost", measured=lost, target="0")
    ungraded = str(kinds.count("ungraded"))
    yield Figure(what="  ungraded, twice without a usable reply", measured=ungraded, target="-")
    yield Figure(what="  calls per distinct question", measured=calls_per_question(stats), target="-")
    with served(latency_s=0.01) as api:
        grade(directory / "no_faults", 3_000, max_connections=100, num_desks=4, times=3)
        stats = api.stats()
    yield Figure(what="no faults, 4 desks, each question 3 times", measured=calls_per_question(stats), target="1.00")


def refused(directory: Path) -> Iterator[Figure]:
    """A server that takes no request any more, with 50 connections to it."""
    with served(latency_s=0.05) as api:
        os.environ["ANTHROPIC_API_KEY"] = "sk-ant-wrong"
        stopped(directory / "wrong_key", 3_000)
        calls = api.stats().calls
    yield Figure(what="a wrong key: requests until the job stops", measured=str(calls), target="-")
    with served(latency_s=0.05, spend_cap_requests=1_000) as api:
        stopped(directory / "spend_cap", 3_000)
        calls, kept = api.stats().calls, len(graded_keys(directory / "spend_cap"))
        api.set(spend_cap_requests=None)
        grade(directory / "spend_cap", 3_000, max_connections=50)
        stats = api.stats()
    yield Figure(
        what="the account's spend cap, after 1,000 requests: more of them", measured=str(calls - 1_000), target="-"
    )
    yield Figure(what="  verdicts lost of those billed, in flight then", measured=str(1_000 - kept), target="-")
    again = sum(times * number for times, number in stats.times_answered.items()) - 3_000
    yield Figure(what="  questions paid for twice after it is lifted", measured=str(again), target="-")


def stopped(directory: Path, num_questions: int) -> None:
    try:
        grade(directory, num_questions, max_connections=50)
    except GraderUnavailable:
        return
    raise AssertionError("the job did not stop")


def budget(directory: Path) -> Iterator[Figure]:
    """A cap of 50 cents over two parts of a job, while requests are lost on their way back."""
    cap_usd = 0.5
    with served(latency_s=0.02, faults=Faults(lost=0.02, overloaded=0.02), prices=PRICES) as api:
        for start in (0, 10_000):
            try:
                grade(directory / "budget", 10_000, max_connections=50, cap_usd=cap_usd, start=start)
            except GradingBudgetSpent:
                continue
            raise AssertionError("the cap did not hold")
        billed_usd = api.stats().billed_usd
    over_usd = max(0.0, billed_usd - cap_usd)
    yield Figure(what=f"cap of ${cap_usd:.2f}: the server billed", measured=f"${billed_usd:.4f}", target="-")
    yield Figure(what="  dollars over budget", measured=f"${over_usd:.4f}", target="$0")


def packs(directory: Path) -> Iterator[Figure]:
    """What packs save, by the server's own count."""
    books = {}
    for size in (1, 10):
        with served(latency_s=0.01, prices=PRICES) as api:
            grade(directory / f"packs_{size}", 2_000, max_connections=50, pack_size=size)
            books[size] = api.stats()
    one, ten = books[1], books[10]
    yield Figure(
        what="2,000 questions in packs of 10, and one by one: requests",
        measured=f"{ten.calls}; {one.calls}",
        target="-",
    )
    tokens = "; ".join(f"{it.input_tokens / 2_000:.0f} and {it.output_tokens / 2_000:.0f}" for it in (ten, one))
    yield Figure(what="  tokens to and from the judge a question", measured=tokens, target="-")
    yield Figure(what="  the server billed", measured=f"${ten.billed_usd:.2f}; ${one.billed_usd:.2f}", target="-")


def memory(directory: Path) -> Iterator[Figure]:
    """100,000 questions at one desk."""
    with served(latency_s=0.01):
        before = psutil.Process().memory_info().rss
        took = grade(directory / "memory", 100_000, max_connections=100)
        grown = psutil.Process().memory_info().rss - before
    yield Figure(what="100,000 questions: memory grew by", measured=f"{grown / 2**20:.0f} MiB", target="bounded")
    yield Figure(
        what="  questions/s (this process and the server, two cores)", measured=f"{1e5 / took:.0f}", target="-"
    )


def whole_seconds(stats: Stats) -> range:
    """Without the first minute, and without the last seconds, in which questions run out."""
    return range(min(stats.arrivals_by_s) + 60, max(stats.arrivals_by_s) - 5)


def calls_per_question(stats: Stats) -> str:
    num_more = round((stats.asked_per_question - 1) * stats.num_questions)
    return f"{stats.asked_per_question:.3f} ({num_more} more)"


@contextmanager
def served(**settings: Any) -> Iterator[ChaosApi]:
    """The server, for the SDK of this process and of its children."""
    before = dict(os.environ)
    with ChaosApi(**settings) as api:
        os.environ.update(api.environment())
        try:
            yield api
        finally:
            os.environ.clear()
            os.environ.update(before)


def job(directory: Path, num_prompts: int, max_connections: int, make_engine: Callable[[], Engine] = StandIn) -> None:
    """A whole job with 100 distinct completions of each prompt."""
    directory.mkdir()
    run = build_tiny_run(directory / "run")
    queries = [
        {"id": str(n), "prompt": f"Who rules {directory.name} {n}?", "original_completion": f" answer 0 of {n}"}
        for n in range(num_prompts)
    ]
    (directory / "queries.json").write_text(json.dumps(queries))
    settings = {
        "data_model_path": run,
        "query_json_path": directory / "queries.json",
        "grader_model": f"anthropic/{MODEL}",
        "num_generations": NUM_DRAWS,
        "max_connections": max_connections,
        "output_dir": directory / "outputs",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    run_job(load_config(flags, directory), make_engine=make_engine)


def grade(
    directory: Path,
    num_questions: int,
    max_connections: int,
    *,
    per_minute: float | None = None,
    cap_usd: float | None = None,
    start: int = 0,
    num_desks: int = 1,
    times: int = 1,
    pack_size: int = 1,
) -> float:
    """Questions `start` to `start + num_questions`, so many times at once, in this process; returns the seconds."""
    from evalgen.records import Limits as OwnLimits

    grader = GraderSpec(model=f"anthropic/{MODEL}", instructions=DEFAULT_INSTRUCTIONS, pack_size=pack_size)
    store = VerdictStore(directory)

    async def run() -> None:
        gate = RateLimiter(
            max_connections=max_connections,
            limits=OwnLimits(requests=per_minute),
            breaker=Breaker(900),
            spending=None if cap_usd is None else Spending(directory, cap_usd, spent_usd(directory)),
        )
        shared = SharedVerdicts(store)
        desks = [GradingDesk(shared, gate, max_connections, load_prices()) for _ in range(num_desks)]
        prompts = range(start // DISTINCT_OF_PROMPT, (start + num_questions) // DISTINCT_OF_PROMPT)
        batches = [
            [
                Question(grader=grader, prompt=f"Who rules {n}?", reference=f" {n}", completion=f" {n}, {rank} times")
                for rank in range(DISTINCT_OF_PROMPT)
            ]
            for n in prompts
        ]
        waiting = iter([(desks[i % num_desks], batch) for batch in batches for i in range(times)])

        async def work() -> None:
            for desk, batch in waiting:
                await desk.grade(batch)

        async with AsyncExitStack() as open_desks, asyncio.TaskGroup() as group:
            for desk in desks:
                open_desks.push_async_callback(desk.aclose)
            for _ in range(16):
                group.create_task(work())

    begun = time.monotonic()
    try:
        asyncio.run(run())
    except* JobStopped as stop:
        raise stop.exceptions[0] from None
    finally:
        store.close()
    return time.monotonic() - begun


PARTS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    part.__name__: part for part in (limits, tokens, drop, throughput, storm, faults, refused, budget, packs, memory)
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS), metavar="part")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table("", "measured", "target", title=f"Grading, {os.cpu_count()} cores for client and server together")
    with tempfile.TemporaryDirectory(prefix="grading-") as root:
        for name in arguments.parts:
            for figure in PARTS[name](Path(root)):
                console.print(f"{figure.what}: {figure.measured}", highlight=False)
                table.add_row(figure.what, figure.measured, figure.target)
    console.print(table)


if __name__ == "__main__":
    main()
