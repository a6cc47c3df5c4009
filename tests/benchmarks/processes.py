"""Runs an engine in a process of its own, cell after cell, and ends it when a cell takes too long or too much."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.checkpoints import BenchCheckpoint
from tests.benchmarks.engines import ENGINES, SCRIPTS
from tests.benchmarks.environments import EnvironmentFailed, python_of
from tests.benchmarks.outcomes import Outcome
from tests.benchmarks.regimes import Regime

THREADS = 2
LOADING_LIMIT_S = 300.0
POLL_S = 0.05
LEAST_FREE_BYTES = 1_000_000_000


@dataclass(kw_only=True)
class EngineProcess:
    """One engine with one checkpoint. A process that was ended or died is followed by another for the cells left."""

    engine: str
    checkpoint: BenchCheckpoint
    directory: Path
    time_limit_s: float
    versions: Mapping[str, str] = field(default_factory=dict)  # known once the first process has loaded

    def outcomes(self, regimes: list[Regime]) -> Iterator[Outcome]:
        """An outcome for every regime, as they come."""
        waiting = list(regimes)
        while waiting:
            for outcome in self._one_process(waiting):
                yield outcome
                waiting.remove(outcome.regime)
                if outcome.status == "over_time":
                    longer = [regime for regime in waiting if _outlasts(regime, outcome.regime)]
                    yield from (self._not_run(regime, outcome) for regime in longer)
                    waiting = [regime for regime in waiting if regime not in longer]

    def _not_run(self, regime: Regime, shorter: Outcome) -> Outcome:
        return replace(shorter, regime=regime, reason=f"not run: n={shorter.regime.num_draws:,} was too long")

    def _one_process(self, regimes: list[Regime]) -> Iterator[Outcome]:
        try:
            python = python_of(ENGINES[self.engine].environment, self.directory)
        except EnvironmentFailed as error:
            yield from (self._outcome(regime, "failed", reason=str(error)) for regime in regimes)
            return
        stem = (self.directory / "runs" / f"{self.engine}-{self.checkpoint.name}").resolve()
        stem.parent.mkdir(parents=True, exist_ok=True)
        results = stem.with_suffix(".results.jsonl")
        results.write_text("")
        stem.with_suffix(".request.json").write_text(json.dumps(self._request(regimes, results)))
        with stem.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                [str(python), str(SCRIPTS / ENGINES[self.engine].script), str(stem.with_suffix(".request.json"))],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=stem.parent,
                env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"},
                start_new_session=True,  # so that its own children end with it
            )
        try:
            yield from self._watch(process, results, regimes, stem.with_suffix(".log"))
        finally:
            _end(process)

    def _watch(
        self, process: subprocess.Popen[bytes], results: Path, regimes: list[Regime], log: Path
    ) -> Iterator[Outcome]:
        by_key = {regime.name: regime for regime in regimes}
        pending = list(regimes)
        state, since, seen = "loading", time.monotonic(), 0
        while pending:
            time.sleep(POLL_S)
            ended = process.poll() is not None  # before reading, so that nothing it wrote last is missed
            events = [json.loads(line) for line in results.read_text().splitlines(keepends=True) if line[-1] == "\n"]
            for event in events[seen:]:
                state, since = event.pop("event"), time.monotonic()
                if state == "loaded":
                    self.versions = event["versions"]
                elif state == "unsupported":
                    yield from (self._outcome(regime, "skipped", reason=event["reason"]) for regime in pending)
                    return
                elif state in ("done", "skipped"):
                    yield self._finished(state, by_key[event["key"]], event)
                    pending.remove(by_key[event["key"]])
            seen = len(events)
            if pending and (ended or state in ("loading", "warming_up", "started")):
                failed = self._trouble(pending, state, since, _last_line(log) if ended else None)
                yield from failed
                if failed:
                    return

    def _finished(self, state: str, regime: Regime, event: dict[str, Any]) -> Outcome:
        if state == "skipped":
            return self._outcome(regime, "skipped", reason=event["reason"])
        measured = {name: value for name, value in event.items() if name not in ("key", "seconds")}
        return self._outcome(regime, "done", seconds=event["seconds"], measured=measured)

    def _trouble(self, pending: list[Regime], state: str, since: float, last_words: str | None) -> list[Outcome]:
        """Outcomes of what went wrong, if anything: of all cells while loading, else of the one at work."""
        at_work = pending if state == "loading" else pending[:1]
        waited_s = time.monotonic() - since
        if last_words is not None:
            return [self._outcome(regime, "failed", reason=f"its process ended: {last_words}") for regime in at_work]
        if psutil.virtual_memory().available < LEAST_FREE_BYTES:
            return [self._outcome(regime, "failed", reason="memory ran out") for regime in at_work]
        if state == "started" and waited_s > self.time_limit_s:
            load = os.getloadavg()[0]
            busy = f"the machine was busy: load {load:.1f}" if load > THREADS + 0.5 else ""
            return [self._outcome(pending[0], "over_time", seconds=self.time_limit_s, reason=busy)]
        if waited_s > (LOADING_LIMIT_S if state == "loading" else self.time_limit_s):
            return [
                self._outcome(regime, "failed", reason=f"still {state} after {waited_s:.0f} s") for regime in at_work
            ]
        return []

    def _outcome(self, regime: Regime, status: Any, **fields: Any) -> Outcome:
        return Outcome(regime=regime, engine=self.engine, status=status, **fields)

    def _request(self, regimes: list[Regime], results: Path) -> dict[str, Any]:
        checkpoint = self.checkpoint
        path = checkpoint.vllm_path if self.engine == "vllm" else checkpoint.path
        model = {
            "name": checkpoint.name,
            "path": str(path),
            "tokenizer_path": str(checkpoint.tokenizer_path),
            "gguf_path": str(checkpoint.gguf_path),
            "work_dir": str((self.directory / "models" / f"{checkpoint.name}_converted").resolve()),
            "max_length": checkpoint.max_length,
            "options": dict(ENGINES[self.engine].options),
        }
        cells = [self._cell(regime) for regime in regimes]
        return {"model": model, "threads": THREADS, "cells": cells, "result_path": str(results)}

    def _cell(self, regime: Regime) -> dict[str, Any]:
        prompts = self.checkpoint.prompts(regime.num_prompts, regime.prompt_tokens)
        return {
            "key": regime.name,
            "prompts": prompts,
            "prompt_ids": [self.checkpoint.encode(prompt) for prompt in prompts],
            "num_draws": regime.num_draws,
            "temperature": regime.temperature,
            "max_new_tokens": regime.max_new_tokens,
            "eos_ids": list(self.checkpoint.eos_ids),
        }


def _outlasts(regime: Regime, other: Regime) -> bool:
    """Whether `regime` is `other` with more draws."""
    same_work = replace(regime, num_draws=0, engines=()) == replace(other, num_draws=0, engines=())
    return same_work and regime.num_draws > other.num_draws


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines or ["no output"])[-1][:200]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Waits a moment for a process that is done, and ends one that is not, with its children."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
