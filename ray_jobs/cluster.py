"""Starts or joins Ray, and finds out what the cluster has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext

from evalgen.errors import JobStopped
from evalgen.timings import Timings

log = logging.getLogger("evalgen.cluster")


@contextmanager
def ray_session(timings: Timings) -> Iterator[None]:
    """Joins the cluster of the job or of this machine, or starts one until the block ends.

    Raises:
        JobStopped: that fails.
    """
    with timings.stage("start_ray"):
        # The driver shows progress and errors in its own words; the workers' own logs are on the dashboard.
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of any kind: Ray raises a bare Exception where a process of its own does not start
            reason = " ".join(str(error).split())
            raise JobStopped(f"Ray does not start, or cannot be joined ({type(error).__name__}: {reason})") from error
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a unit of a large model, or an overloaded judge, may take hours
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we say why it stopped, in one line
    log.info("ray %s, resources %s", ray.__version__, ray.cluster_resources())
    try:
        yield
    finally:
        with timings.stage("stop_ray"):
            ray.shutdown()


def num_gpus() -> int:
    """GPUs of the whole cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def num_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
