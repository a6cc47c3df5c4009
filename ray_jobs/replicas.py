"""How many model replicas a job has, and how each is made."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from evalgen.errors import ConfigError
from ray_jobs.cluster import num_cpus, num_free_gpus, num_gpus
from ray_jobs.garbage import imported_for_good

if TYPE_CHECKING:  # a sampling process finds `MakeReplica` here, and needs nothing of what these import
    from evalgen.config import JobConfig
    from ray_jobs.sampling import Engine

log = logging.getLogger("evalgen.replicas")


def choose_num_replicas(config: JobConfig) -> int:
    """As many as asked for and there are GPUs for; by default all of them, and one on a machine without.

    Raises:
        ConfigError: one replica needs more GPUs than there are.
    """
    gpus = num_gpus()
    if not gpus:
        return config.num_replicas or 1
    most = gpus // config.num_gpus_per_replica
    if most == 0:
        raise ConfigError(f"num_gpus_per_replica: {config.num_gpus_per_replica} asked for, but the cluster has {gpus}")
    if config.num_replicas and config.num_replicas > most:
        log.warning("num_replicas: %d asked for, but there are GPUs for %d: %d", config.num_replicas, most, most)
    num_replicas = min(config.num_replicas or most, most)
    wanted, free = num_replicas * config.num_gpus_per_replica, num_free_gpus()
    if free < wanted:
        log.warning(
            "%d GPUs wanted, %d of %d are free: replicas wait for those that other jobs have", wanted, free, gpus
        )
    return num_replicas


@dataclass(frozen=True, kw_only=True)
class MakeReplica:
    """Makes the engine of a sampling process: a model replica on its GPUs, or on its share of the CPUs."""

    num_replicas: int
    num_threads: int
    budget_bytes: int | None

    @classmethod
    def of_job(cls, config: JobConfig, num_replicas: int) -> MakeReplica:
        num_threads = max(1, num_cpus() // num_replicas)
        return cls(num_replicas=num_replicas, num_threads=num_threads, budget_bytes=config.kv_budget_bytes)

    def __call__(self) -> Engine:
        import os

        with imported_for_good():
            import torch

            from evalgen.sampling.replica import Replica, own_device

        if (given := ray.get_gpu_ids()) and not torch.cuda.is_available():
            log.warning("Ray gave this replica GPU %s, and torch sees none: it samples on the CPU", given)
        torch.set_num_threads(min(self.num_threads, os.cpu_count() or 1))  # Ray sets OMP_NUM_THREADS to 1
        device = own_device()
        num_sharing = self.num_replicas if device == torch.device("cpu") else 1  # all of them may be on this node
        return Replica(device, self.budget_bytes, num_sharing)
