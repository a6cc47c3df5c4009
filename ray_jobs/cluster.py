"""Starts or joins Ray, and finds out what the cluster has."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import ray
from ray.data import DataContext
from ray.job_config import JobConfig

from evalgen.errors import JobStopped
from evalgen.job_log import RAY_IS_THERE, fields
from evalgen.timings import Timings
from ray_jobs.garbage import imported_for_good
from ray_jobs.noise import without_noise
from ray_jobs.stop import SIGNALS

log = logging.getLogger("evalgen.cluster")


@contextmanager
def ray_session(
    timings: Timings, metadata: Mapping[str, str], meanwhile: Callable[[], object]
) -> Iterator[tuple[ExitStack, str | None]]:
    """Joins the cluster of the job or of this machine, or starts one, until the block ends.

    Yields a context that ends it earlier: when its own block does, or when it is closed; and the address of the
    dashboard, if there is one.

    The dashboard's page of the job shows `metadata`; of a submitted one, what `ray job submit` was given instead.
    `meanwhile` runs in another thread while Ray starts, which is mostly waiting; what it raises is raised here.

    Raises:
        JobStopped: that fails.
    """
    with ExitStack() as until_ended:
        until_ended.enter_context(without_noise())
        until_ended.callback(_stop, timings)
        with imported_for_good():
            with timings.stage("start_ray"):
                thread = ThreadPoolExecutor(1)
                done = thread.submit(meanwhile)
                thread.shutdown(wait=False)  # after this call; where Ray does not start, Python waits for it at its end
                dashboard = _start(metadata)
            with timings.stage("import"):
                done.result()
        log.info(RAY_IS_THERE, extra=fields(version=ray.__version__, cpus=num_cpus(), gpus=num_gpus()))
        yield until_ended, dashboard


def _stop(timings: Timings) -> None:
    # In this thread: where another drops a reference of Ray's meanwhile, Ray ends the process.
    with timings.stage("stop_ray"), _signal_handlers_kept():
        ray.shutdown()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """A block after which those of before are there again: Ray's own would end a job before it says how to go on."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except SystemExit:  # by Ray's, in the place of ours
        if callable(handler := before[signal.SIGTERM]):
            handler(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(metadata: Mapping[str, str]) -> str | None:
    """Returns the dashboard's address, without the token that it may ask for."""
    # Ray Data would start a process of its own to report that it was used: seconds of a small job.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    # The driver shows progress and errors in its own words; the workers' own logs are on the dashboard.
    try:
        with _signal_handlers_kept():
            started = ray.init(
                log_to_driver=False, logging_level=logging.ERROR, job_config=JobConfig(metadata=dict(metadata))
            )
    except Exception as error:  # of any kind: Ray raises a bare Exception where a process of its own does not start
        reason = " ".join(str(error).split())
        raise JobStopped(f"Ray does not start, or cannot be joined ({type(error).__name__}: {reason})") from error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a unit of a large model, or an overloaded judge, may take hours
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we say why it stopped, in one line
    address = os.environ.get("RAY_OVERRIDE_DASHBOARD_URL") or (
        started.dashboard_url and f"http://{started.dashboard_url}"
    )
    return address.partition("?")[0] if address else None


def num_gpus() -> int:
    """GPUs of the whole cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def num_free_gpus() -> int:
    """Those that no other job has."""
    return int(ray.available_resources().get("GPU", 0))


def num_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
