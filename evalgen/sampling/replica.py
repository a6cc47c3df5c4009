"""A model replica: holds one checkpoint on one device and samples units from it."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import torch

from evalgen.records import Checkpoint, SamplingUnit
from evalgen.samples import samples_table
from evalgen.sampling.enumeration import enumerate_completions
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.memory import Capacity, free_bytes
from evalgen.sampling.model import SPREAD, Device, LoadedModel, load_model, read_ahead
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from evalgen.unit_store import SamplingCost

log = logging.getLogger(__name__)

SAMPLERS = {"tree": sample_tree, "independent": sample_independently, "enumerate": enumerate_completions}


def own_device() -> Device:
    """Where the replica of this process lives: the GPU that the process sees, all that it sees, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return SPREAD if torch.cuda.device_count() > 1 else torch.device("cuda")


@dataclass(frozen=True, kw_only=True)
class _Held:
    checkpoint: Checkpoint
    dtype: str
    loaded: LoadedModel
    digest: WeightsDigest  # of the files that it was loaded from


class Replica:
    """Samples unit after unit; a checkpoint is loaded when the first unit of it comes, in place of the one before."""

    def __init__(self, device: Device, budget_bytes: int | None = None, num_sharing: int = 1) -> None:
        """`budget_bytes` is for what is kept between evaluations; None: a share of the memory that is free then.

        `num_sharing` replicas have that memory together.
        """
        self._device = device
        self._budget_bytes = budget_bytes
        self._num_sharing = num_sharing
        self._capacities: defaultdict[int, Capacity] = defaultdict(Capacity)  # by prompt length, about
        self._ran_out_of_memory = False
        self._read_ahead: set[str] = set()  # paths of checkpoints
        self._held: _Held | None = None

    def sample(self, unit: SamplingUnit, next_checkpoint: str = "") -> tuple[pa.Table, SamplingCost]:
        """The unit's rows of `samples/*.parquet`, and what they cost.

        `next_checkpoint` is the path of the one that is likely to be wanted next, if any: it is read while this one
        samples.
        """
        start = time.perf_counter()
        held = self._hold(unit.checkpoint, unit.dtype)
        loaded = held.loaded
        if next_checkpoint and next_checkpoint not in self._read_ahead:
            self._read_ahead.add(next_checkpoint)
            threading.Thread(target=read_ahead, args=(next_checkpoint,), daemon=True).start()
        ready = time.perf_counter()
        budget_bytes = self._budget_bytes
        if budget_bytes is None and self._num_sharing > 1:
            budget_bytes = free_bytes(loaded.devices) // self._num_sharing
        capacity = self._capacities[max(len(query.prompt) for query in unit.queries).bit_length()]
        result = SAMPLERS[unit.sampler](loaded, unit, budget_bytes, capacity)
        if result.out_of_memory_halvings and not self._ran_out_of_memory:
            log.warning("out of memory while sampling; going on with smaller batches, no draw is lost")
            self._ran_out_of_memory = True
        table = samples_table(unit, result.sequences, loaded.tokenizer)
        num_prefixes = distinct_prefixes(result.sequences)
        if unit.sampler == "tree":
            assert result.model_evaluations == num_prefixes, (result.model_evaluations, num_prefixes)
        sampled = time.perf_counter()
        digest = self._digest(held)
        return table, SamplingCost(
            model_evaluations=result.model_evaluations,
            distinct_prefixes=num_prefixes,
            out_of_memory_halvings=result.out_of_memory_halvings,
            load_s=ready - start + time.perf_counter() - sampled,
            sample_s=sampled - ready,
            finished_at=time.time(),
            weights_digest=digest,
            kv_bytes=result.kv_bytes,
        )

    def _hold(self, checkpoint: Checkpoint, dtype: str) -> _Held:
        if self._held is None or (self._held.checkpoint, self._held.dtype) != (checkpoint, dtype):
            self._held = None  # before the next is read: two models may not fit on the device
            loaded = load_model(checkpoint, dtype, self._device)
            digest = WeightsDigest(weight_files(checkpoint.path))
            self._capacities.clear()
            self._held = _Held(checkpoint=checkpoint, dtype=dtype, loaded=loaded, digest=digest)
        return self._held

    def _digest(self, held: _Held) -> str:
        """Of the weights, waited for.

        Raises:
            OSError: they were loaded and cannot be read any more. The next unit loads them again, or says why not.
        """
        try:
            return held.digest.result()
        except OSError:
            self._held = None
            raise
