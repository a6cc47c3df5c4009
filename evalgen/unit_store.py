"""Finished sampling units on disk: a Parquet file each in the experiment's `samples/`, and a line each in its journal.

A unit is stored if its line is intact and its file is what the line says, bit for bit. All else is sampled again.
Files that share prompts (because draws were split, or more were wanted later) are put together at the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalgen.errors import JobStopped
from evalgen.files import parquet_bytes, remove_unfinished, set_aside, sha256_of, sync, write_bytes
from evalgen.journal import Journal, Record, read_journal, rewrite_journal
from evalgen.records import SamplingUnit
from evalgen.sample_tables import SamplesByPrompt, rows_of_prompts, united_samples
from evalgen.samples import SAMPLES_SCHEMA
from evalgen.units import sampling_key

log = logging.getLogger(__name__)

LINES = "units.jsonl"
# What assembly needs; the rest is one for all rows of a prompt.
COLUMNS = [name for name in SAMPLES_SCHEMA.names if name not in ("run", "checkpoint", "prompt")]
UNITS_IN_MEMORY = 4  # read for assembly: consecutive prompts are mostly in one
MAX_SAMPLES = 200_000  # of units that are put together, unless one prompt has more
Ranges = tuple[tuple[int, int], ...]  # draws [first, stop), ascending and disjoint; ((0, 0),): enumerated


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """What one unit took; seconds are wall time on its replica."""

    model_evaluations: int
    distinct_prefixes: int
    out_of_memory_halvings: int
    load_s: float  # reading the checkpoint, and waiting for its digest; 0 when the replica held it already
    sample_s: float
    finished_at: float  # Unix time, by the replica's clock
    weights_digest: str = ""  # SHA-256 of the checkpoint's weight files; "": not known, as in lines of an older version
    kv_bytes: int = 0  # most of keys, values and recurrent states at once; 0: not known


@dataclass(frozen=True, kw_only=True)
class StoredUnit:
    """A file of `samples/`: a unit as it was sampled, or what several of them have for some prompts."""

    unit_id: str  # the file's name, without `.parquet`
    dataset: str
    sampling_key: str  # of `evalgen.units`: one for the whole dataset
    ranges: Mapping[str, Ranges]  # which draws it has, by prompt id
    num_samples: int  # rows of the file
    sha256: str  # of the file
    costs: Mapping[str, SamplingCost]  # by the id of the unit that was sampled
    replaces: tuple[str, ...] = ()  # stored units that are of no use for these prompts any more

    def to_record(self) -> Record:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StoredUnit:
        ranges = {prompt: tuple((first, stop) for first, stop in parts) for prompt, parts in record["ranges"].items()}
        costs = {unit_id: SamplingCost(**cost) for unit_id, cost in record["costs"].items()}
        return cls(**{**record, "ranges": ranges, "costs": costs, "replaces": tuple(record["replaces"])})


class UnitStore:
    """The stored units of one experiment. For one process at a time."""

    def __init__(self, directory: Path) -> None:
        """Reads and checks all of them, and finishes what a kill interrupted. What is damaged is set aside."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        remove_unfinished(directory)
        self._units = _intact_units(directory)
        self._lines = Journal(directory / LINES)
        self._remove_replaced()
        self._by_prompt = lru_cache(maxsize=UNITS_IN_MEMORY)(self._read_by_prompt)

    @property
    def stored(self) -> Sequence[StoredUnit]:
        """In the order in which they were stored."""
        return list(self._units.values())

    def save(self, unit: SamplingUnit, samples: pa.Table, cost: SamplingCost) -> None:
        """Stores a unit, durable when this returns. Storing one again changes nothing: what was stored first stays.

        Raises:
            OSError: it is not stored, and may be saved again.
        """
        if unit.id in self._units:
            return
        draws = ((unit.first_draw, unit.first_draw + unit.num_draws),)
        self._write(
            samples,
            unit_id=unit.id,
            dataset=unit.dataset,
            sampling_key=sampling_key(unit),
            ranges={query.id: draws for query in unit.queries},
            costs={unit.id: cost},
        )

    def load(self, unit_id: str) -> pa.Table:
        """The samples of a stored unit, in `SAMPLES_SCHEMA`.

        Raises:
            JobStopped: they were damaged after the store was opened.
        """
        return self._read(unit_id, SAMPLES_SCHEMA.names)

    def ranges(self) -> dict[str, dict[str, Ranges]]:
        """Which draws are stored, by dataset and prompt id."""
        return {dataset: self.ranges_of(dataset) for dataset in {unit.dataset for unit in self._units.values()}}

    def ranges_of(self, dataset: str) -> dict[str, Ranges]:
        """Which draws of a dataset are stored, by prompt id."""
        return {
            prompt_id: _joined(self._units[unit_id].ranges[prompt_id] for unit_id in unit_ids)
            for prompt_id, unit_ids in self._holders(dataset).items()
        }

    def costs(self, dataset: str) -> list[SamplingCost]:
        """What sampling a dataset took, by sampled unit."""
        units = [unit for unit in self._units.values() if unit.dataset == dataset]
        return list({unit_id: cost for unit in units for unit_id, cost in unit.costs.items()}.values())

    def samples_of_prompts(self, dataset: str, prompt_ids: Iterable[str]) -> Iterator[pa.Table]:
        """The rows of one prompt after the other, in `COLUMNS`. After `compact`; all prompts must be stored.

        Quick where prompts that follow each other are mostly in one unit, as planning cuts them.
        """
        holders = self._holders(dataset)
        for prompt_id in prompt_ids:
            (unit_id,) = holders[prompt_id]
            yield self._by_prompt(unit_id).of(prompt_id)

    def compact(self, dataset: str) -> None:
        """Puts the units of a dataset together until no two share a prompt; a kill at any instant loses nothing.

        Prompts that are in the same units stay together, as far as memory can hold them.
        """
        prompts: dict[tuple[str, ...], list[str]] = {}
        for prompt_id, unit_ids in self._holders(dataset).items():
            prompts.setdefault(unit_ids, []).append(prompt_id)
        for unit_ids, prompt_ids in prompts.items():
            units = [self._units[unit_id] for unit_id in unit_ids]
            if len(units) == 1 and len(prompt_ids) == len(units[0].ranges):
                continue
            samples_per_prompt = sum(unit.num_samples / len(unit.ranges) for unit in units)
            num_at_once = max(1, int(MAX_SAMPLES / max(1, samples_per_prompt)))
            for start in range(0, len(prompt_ids), num_at_once):
                self._unite(units, prompt_ids[start : start + num_at_once])
        self._remove_replaced()

    def close(self) -> None:
        self._lines.close()

    def _unite(self, units: Sequence[StoredUnit], prompt_ids: Sequence[str]) -> None:
        """One unit with what `units` have for some prompts."""
        keys = {unit.sampling_key for unit in units}
        assert len(keys) == 1, f"{units[0].dataset}: sampled in different ways: {[unit.unit_id for unit in units]}"
        unit_ids = [unit.unit_id for unit in units]
        self._write(
            united_samples([rows_of_prompts(self.load(unit_id), prompt_ids) for unit_id in unit_ids]),
            unit_id=hashlib.sha256(json.dumps([unit_ids, prompt_ids]).encode()).hexdigest()[:16],
            dataset=units[0].dataset,
            sampling_key=keys.pop(),
            ranges={prompt_id: _joined(unit.ranges[prompt_id] for unit in units) for prompt_id in prompt_ids},
            costs={unit_id: cost for unit in units for unit_id, cost in unit.costs.items()},
            replaces=tuple(unit_ids),
        )

    def _write(self, samples: pa.Table, **fields: Any) -> None:
        content = parquet_bytes(samples.replace_schema_metadata(None))
        unit = StoredUnit(**fields, num_samples=len(samples), sha256=hashlib.sha256(content).hexdigest())
        num_draws = sum(stop - first for ranges in unit.ranges.values() for first, stop in ranges)
        num_counted = pc.sum(samples["sample_count"]).as_py() or 0  # nothing to add up where all are null: enumerated
        assert num_counted == num_draws, f"unit {unit.unit_id} has {num_counted} draws, expected {num_draws}"
        write_bytes(_path(self._directory, unit.unit_id), content)
        self._lines.append([unit.to_record()])
        self._units[unit.unit_id] = unit

    def _holders(self, dataset: str) -> dict[str, tuple[str, ...]]:
        """Which units have samples of a prompt that count, by prompt id."""
        replaced = self._replaced()
        holders: dict[str, list[str]] = {}
        for unit in self._units.values():
            for prompt_id in unit.ranges if unit.dataset == dataset else ():
                if (unit.unit_id, prompt_id) not in replaced:
                    holders.setdefault(prompt_id, []).append(unit.unit_id)
        return {prompt_id: tuple(sorted(unit_ids)) for prompt_id, unit_ids in holders.items()}

    def _replaced(self) -> set[tuple[str, str]]:
        """Units and the prompts for which another has all that they have."""
        units = self._units.values()
        return {(unit_id, prompt_id) for unit in units for unit_id in unit.replaces for prompt_id in unit.ranges}

    def _remove_replaced(self) -> None:
        replaced = self._replaced()
        for unit in self.stored:
            if replaced.issuperset((unit.unit_id, prompt_id) for prompt_id in unit.ranges):
                _path(self._directory, unit.unit_id).unlink(missing_ok=True)
                del self._units[unit.unit_id]
        sync(self._directory)

    def _read_by_prompt(self, unit_id: str) -> SamplesByPrompt:
        return SamplesByPrompt(self._read(unit_id, COLUMNS))

    def _read(self, unit_id: str, columns: Sequence[str]) -> pa.Table:
        path = _path(self._directory, unit_id)
        content = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(content).hexdigest() != self._units[unit_id].sha256:
            raise JobStopped(f"{path} was damaged while the job ran; its prompts have to be sampled again")
        # With the schema, columns that an older version did not have are null.
        return pq.read_table(pa.BufferReader(content), columns=list(columns), schema=SAMPLES_SCHEMA)


def _intact_units(directory: Path) -> dict[str, StoredUnit]:
    """Those whose last line and whose file are whole. All else goes: files are set aside, damaged lines dropped."""
    records, num_damaged = read_journal(directory / LINES)
    lines = {record["unit_id"]: StoredUnit.from_record(record) for record in records}
    intact = {unit_id: unit for unit_id, unit in lines.items() if _is_intact(_path(directory, unit_id), unit)}
    for path in sorted(directory.glob("*.parquet")):
        if path.stem not in intact:
            log.warning("%s is damaged, or was never finished: set aside, and its prompts are sampled again", path)
            set_aside(path)
    if num_damaged:
        log.warning("%s: %d lines are torn or damaged; what only they had is sampled again", directory, num_damaged)
        rewrite_journal(directory / LINES, [unit.to_record() for unit in intact.values()])
    return intact


def _is_intact(path: Path, unit: StoredUnit) -> bool:
    return path.exists() and sha256_of(path) == unit.sha256


def _joined(ranges: Iterable[Ranges]) -> Ranges:
    """The union of some ranges."""
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(part for parts in ranges for part in parts):
        if joined and first <= joined[-1][1]:
            first, stop = joined[-1][0], max(stop, joined[-1][1])
            joined.pop()
        joined.append((first, stop))
    return tuple(joined)


def _path(directory: Path, unit_id: str) -> Path:
    return directory / f"{unit_id}.parquet"
