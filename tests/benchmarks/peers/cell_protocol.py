"""How an engine's process is asked for cells and answers: a request file in, one JSON line for each event out.

Every engine script calls `serve`; nothing but the standard library is needed, so it runs in every environment. The
request is `{"model": {...}, "threads": 2, "cells": [{...}], "result_path": "..."}`; events are `loaded`, and for
each cell `warming_up`, `started`, and then `done` or `skipped`. Loading and warming up lie outside the clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

MOST_REPEATS = 25
REPEAT_FOR_S = 4.0  # a cell is sampled again until this much time is spent, or MOST_REPEATS is reached
WARM_UP_PROMPTS, WARM_UP_DRAWS = 2, 4

Completion = tuple[float, list[int]]  # how many draws, their token ids
Cell = dict[str, Any]  # prompts, prompt_ids, num_draws, temperature, max_new_tokens, eos_ids, key, ...


class SkippedCell(Exception):
    """The engine cannot do this cell; the message is the reason."""


class Engine(Protocol):
    """What an engine script implements."""

    versions: dict[str, str]

    def sample(self, cell: Cell) -> Any:
        """Draws `num_draws` completions of every prompt; this is what is timed.

        Raises:
            SkippedCell: it cannot be done.
        """

    def completions(self, drawn: Any, cell: Cell) -> list[list[Completion]]:
        """What `sample` returned, for each prompt; EOS and what follows it may be there or not."""


def serve(
    load: Callable[[dict[str, Any], int], Engine], extra: Callable[[Engine], dict[str, Any]] = lambda _: {}
) -> None:
    """Loads the model and answers every cell of the request whose path is the script's argument."""
    request = json.loads(Path(sys.argv[1]).read_text())
    with Path(request["result_path"]).open("a") as results:

        def tell(event: str, **fields: Any) -> None:
            results.write(json.dumps({"event": event, **fields}) + "\n")
            results.flush()

        start = time.perf_counter()
        try:
            engine = load(request["model"], request["threads"])
        except SkippedCell as reason:
            tell("unsupported", reason=str(reason))
            return
        tell("loaded", load_s=time.perf_counter() - start, versions=engine.versions)
        for cell in request["cells"]:
            tell("warming_up", key=cell["key"])
            try:
                _warm_up(engine, cell)
                tell("started", key=cell["key"])
                tell("done", key=cell["key"], **_measure(engine, cell, extra))
            except SkippedCell as reason:
                tell("skipped", key=cell["key"], reason=str(reason))


def _warm_up(engine: Engine, cell: Cell) -> None:
    few = {name: cell[name][:WARM_UP_PROMPTS] for name in ("prompts", "prompt_ids")}
    engine.sample(cell | few | {"num_draws": min(WARM_UP_DRAWS, cell["num_draws"])})


def _measure(engine: Engine, cell: Cell, extra: Callable[[Engine], dict[str, Any]]) -> dict[str, Any]:
    _forget_peak_memory()
    seconds: list[float] = []
    own_s, all_s = time.process_time(), _busy_cpu_s()
    while not seconds or (len(seconds) < MOST_REPEATS and sum(seconds) < REPEAT_FOR_S):
        start = time.perf_counter()
        drawn = engine.sample(cell)
        seconds.append(time.perf_counter() - start)
    own_s, all_s = time.process_time() - own_s, _busy_cpu_s() - all_s
    return {
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "cpu_s": own_s / len(seconds),
        "cores_of_others": max(0.0, all_s - own_s) / sum(seconds),
        "peak_bytes": _peak_memory_bytes(),
        **extra(engine),
        **check_of(engine.completions(drawn, cell), cell["eos_ids"], cell["num_draws"]),
    }


def check_of(by_prompt: list[list[Completion]], eos_ids: list[int], num_draws: int) -> dict[str, Any]:
    """What must be alike in all engines, and the number of distinct completions.

    Shares are of a prompt's `num_draws`, then the mean over prompts; lengths count tokens before EOS.
    """
    top, top_first, lengths, distinct = [], [], [], 0
    for completions in by_prompt:
        draws: dict[tuple[int, ...], float] = defaultdict(float)
        first: dict[int, float] = defaultdict(float)
        for count, token_ids in completions:
            until = next((i for i, token in enumerate(token_ids) if token in eos_ids), len(token_ids))
            draws[tuple(token_ids[:until])] += count
            first[token_ids[0] if until else eos_ids[0]] += count
        top.append(max(draws.values()) / num_draws)
        top_first.append(max(first.values()) / num_draws)
        lengths.append(sum(len(ids) * count for ids, count in draws.items()) / num_draws)
        distinct += len(draws)
    return {
        "num_completions": [round(sum(count for count, _ in completions), 3) for completions in by_prompt],
        "top_share": statistics.fmean(top),
        "top_first_token_share": statistics.fmean(top_first),
        "mean_length": statistics.fmean(lengths),
        "num_distinct": distinct,
    }


def _busy_cpu_s() -> float:
    """Seconds of CPU that the whole machine has used, and that were stolen from it (Linux; 0 elsewhere)."""
    with suppress(OSError):
        user, nice, system, _idle, _io, *interrupts_and_steal = Path("/proc/stat").read_text().split()[1:9]
        return sum(map(int, (user, nice, system, *interrupts_and_steal))) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _forget_peak_memory() -> None:
    """Gives freed memory back and sets the peak to what is resident now (Linux; elsewhere the peak is of all time)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_bytes() -> int | None:
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{os.getpid()}/status").read_text())
        return int(found[1]) * 1024 if found else None
    return None
