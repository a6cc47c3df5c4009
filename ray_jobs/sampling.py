"""The actors from which a job's questions come: one samples units, the other reads those of an earlier part."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import ray

from evalgen.errors import LoadFailed, UserError
from evalgen.records import Query, SamplingUnit
from ray_jobs.actor_logs import forward_warnings, in_one_line
from ray_jobs.metrics import ReplicaMetrics

if TYPE_CHECKING:
    from evalgen.unit_store import SamplingCost

QUESTIONS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("unit_id", "dataset", "prompt", "reference", "completion")),
        ("num_questions", pa.int64()),  # of the whole unit, which may be several blocks
    ]
)


class Engine(Protocol):
    """What samples units in a process of its own; see `evalgen.sampling.replica.Replica`."""

    def sample(self, unit: SamplingUnit, next_checkpoint: str) -> tuple[pa.Table, SamplingCost]: ...


class SamplingActor:
    """Ray Data UDF, one per replica: a ticket in, the questions of one unit out. Which unit, the store says.

    The unit is stored before it moves on, so that Ray may lose or repeat anything after that.
    """

    def __init__(self, store: Any, make_engine: Callable[[], Engine]) -> None:
        self._store = store
        forward_warnings(store, "sampling replica")
        self._engine = make_engine()
        self._metrics = ReplicaMetrics()
        context = ray.get_runtime_context()
        self._name, self._node_id = context.get_actor_id(), context.get_node_id()
        self._node = ray.util.get_node_ip_address()
        self._device = f"{self._node_id} {','.join(map(str, ray.get_gpu_ids())) or self._name}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        try:
            return self._questions(row["ticket"])
        except Exception as error:  # whatever it is, it ends the job: the driver is to say why in one line
            ray.get(self._store.note_failure.remote(in_one_line(error)))
            raise

    def _questions(self, ticket: int) -> pa.Table:
        while (work := ray.get(self._store.take.remote(ticket, self._name, self._device, self._node_id))) is not None:
            if work.is_stored:
                samples = ray.get(self._store.load_unit.remote(work.unit.id))
            else:
                samples = self._sampled(work.unit, work.next_checkpoint)
            if samples is not None:
                return questions_table(work.unit.id, work.unit.dataset, work.unit.queries, samples)
        return QUESTIONS_SCHEMA.empty_table()

    def _sampled(self, unit: SamplingUnit, next_checkpoint: str) -> pa.Table | None:
        """The unit's samples, stored; None: it failed, and the store knows why."""
        try:
            samples, cost = self._engine.sample(unit, next_checkpoint)
        except Exception as error:  # one unit's failure is not the job's
            reason = f"{in_one_line(error)} (node {self._node})"
            if _is_of_device(error):
                ray.get(self._store.device_failed.remote(unit.id, self._device, reason))
                os._exit(1)  # CUDA does not recover within a process: Ray starts another
            if isinstance(error, LoadFailed):
                ray.get(self._store.load_failed.remote(unit.id, self._name, reason))
                return None
            ray.get(self._store.unit_failed.remote(unit.id, reason, isinstance(error, UserError)))
            return None
        self._metrics.export(unit.checkpoint, cost.kv_bytes)
        ray.get(self._store.save_unit.remote(unit, samples, cost))
        return samples


class StoredUnits:
    """Ray Data UDF: the id of a stored unit in, its questions out. For units that a stopped job had sampled."""

    def __init__(self, store: Any, queries: Mapping[str, Sequence[Query]]) -> None:
        """`queries` are by dataset name."""
        self._store, self._queries = store, queries

    def __call__(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        samples = ray.get(self._store.load_unit.remote(row["unit_id"]))
        return questions_table(row["unit_id"], row["dataset"], self._queries[row["dataset"]], samples)


def questions_table(unit_id: str, dataset: str, queries: Sequence[Query], samples: pa.Table) -> pa.Table:
    """A unit's distinct completions as questions, undrawn greedy ones too: here its draws are deduplicated."""
    by_id = {query.id: query for query in queries}
    pairs = dict.fromkeys(
        zip(samples["prompt_id"].to_pylist(), samples["completion"].to_pylist(), strict=True)
    )  # a dict keeps the order of the samples
    rows = [
        {
            "unit_id": unit_id,
            "dataset": dataset,
            "prompt": by_id[prompt_id].prompt,
            "reference": by_id[prompt_id].reference,
            "completion": completion,
            "num_questions": len(pairs),
        }
        for prompt_id, completion in pairs
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS_SCHEMA)


def _is_of_device(error: Exception) -> bool:
    """Whether a GPU failed, and not what was computed on it."""
    import torch

    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
