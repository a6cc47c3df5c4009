"""Starts or joins Ray, and finds out what the cluster has."""

from __future__ import annotations

import logging

import ray
from ray.data import DataContext

log = logging.getLogger("evalgen.cluster")


def start_or_join_ray() -> None:
    """Joins the cluster of the job or of this machine, or starts one for the time being."""
    # The driver shows progress and errors in its own words; the workers' own logs are on the dashboard.
    ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    log.info("ray %s, resources %s", ray.__version__, ray.cluster_resources())


def stop_ray() -> None:
    """Leaves the cluster, or ends the one that was started for this job."""
    ray.shutdown()


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def num_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
