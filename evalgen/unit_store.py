"""Finished sampling units on disk: one Parquet file each, in the experiment's `samples/`.

What sampling a unit cost travels in its file's schema metadata, so that a unit is one file, whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evalgen.files import write_parquet

COST_KEY = b"evalgen.sampling_cost"


@dataclass(frozen=True, kw_only=True)
class SamplingCost:
    """What one unit took; seconds are wall time on its replica."""

    model_evaluations: int
    distinct_prefixes: int
    out_of_memory_halvings: int
    load_s: float  # reading the checkpoint; 0 when the replica held it already
    sample_s: float
    finished_at: float  # Unix time, by the replica's clock


def save_unit(directory: Path, unit_id: str, samples: pa.Table, cost: SamplingCost) -> None:
    """Stores a unit, durable when this returns. Equal units have equal content: storing one twice changes nothing."""
    metadata = {COST_KEY: json.dumps(asdict(cost)).encode()}
    write_parquet(_path(directory, unit_id), samples.replace_schema_metadata(metadata))


def load_units(directory: Path, unit_ids: Iterable[str]) -> tuple[pa.Table, list[SamplingCost]]:
    """The samples of some stored units, in that order, and what each of them cost."""
    tables = [pq.read_table(_path(directory, unit_id)) for unit_id in unit_ids]
    costs = [SamplingCost(**json.loads(table.schema.metadata[COST_KEY])) for table in tables]
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]), costs


def _path(directory: Path, unit_id: str) -> Path:
    return directory / f"{unit_id}.parquet"
