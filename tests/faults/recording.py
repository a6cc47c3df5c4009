"""A real replica that writes down which units it samples, and that can be stopped before any of them."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from evalgen.records import SamplingUnit
from evalgen.unit_store import SamplingCost
from tests.faults.gates import Gate

Draw = tuple[str, int]  # prompt id and generation index


@dataclass(frozen=True, kw_only=True)
class Event:
    """A sampling process began a unit, or had all of its samples."""

    kind: Literal["begun", "finished"]
    unit_id: str
    prompt_ids: tuple[str, ...]
    first_draw: int
    num_draws: int
    process: int

    @property
    def draws(self) -> set[Draw]:
        indices = range(self.first_draw, self.first_draw + self.num_draws)
        return {(prompt_id, index) for prompt_id in self.prompt_ids for index in indices}


class Record:
    """The events of one experiment, from all of its processes, whichever were killed."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "events.jsonl"

    def events(self) -> list[Event]:
        """In the order in which they happened."""
        if not self._path.exists():
            return []
        fields = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [Event(**each | {"prompt_ids": tuple(each["prompt_ids"])}) for each in fields]

    def begun(self) -> list[Event]:
        return [event for event in self.events() if event.kind == "begun"]

    def add(self, event: Event) -> int:
        """Returns how many of its kind there are now."""
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(asdict(event)) + "\n")
            file.flush()
            return sum(other.kind == event.kind for other in self.events())


@dataclass(frozen=True)
class Recording:
    """Makes the engine of a sampling process; `directory` holds the record, and the gates `unit 1`, `unit 2`, ..."""

    directory: Path

    def __call__(self) -> RecordingReplica:
        import torch

        torch.set_num_threads(1)
        return RecordingReplica(self.directory)


class RecordingReplica:
    """An engine: see `ray_jobs.sampling.Engine`."""

    def __init__(self, directory: Path) -> None:
        from evalgen.sampling.replica import Replica, own_device

        self._directory = directory
        self._record = Record(directory)
        self._replica = Replica(own_device())

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]:
        number = self._note("begun", unit)
        Gate(self._directory, f"unit {number}").pass_through()
        result = self._replica.sample(unit, next_checkpoint)
        self._note("finished", unit)
        return result

    def _note(self, kind: Literal["begun", "finished"], unit: SamplingUnit) -> int:
        event = Event(
            kind=kind,
            unit_id=unit.id,
            prompt_ids=tuple(query.id for query in unit.queries),
            first_draw=unit.first_draw,
            num_draws=unit.num_draws,
            process=os.getpid(),
        )
        return self._record.add(event)
