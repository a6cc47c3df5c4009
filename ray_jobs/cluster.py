"""Starts or joins Ray, and finds out what the cluster has."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import ray
from ray.data import DataContext
from ray.job_config import JobConfig

from evalgen.errors import JobStopped
from evalgen.job_log import RAY_IS_THERE, fields
from evalgen.timings import Timings
from ray_jobs.stop import SIGNALS, Interrupted

log = logging.getLogger("evalgen.cluster")

# Ray Data passes a handle to the constructors of its own actors, and Ray's core reports that as an error, for each pool
# of each job (ray-project/ray issues 53727 and 57733). What is passed from here makes no difference.
NOISE = "has constructor arguments in the object store and max_restarts > 0"


@contextmanager
def ray_session(
    timings: Timings, metadata: Mapping[str, str] | None = None, meanwhile: Callable[[], object] = lambda: None
) -> Iterator[ExitStack]:
    """Joins the cluster of the job or of this machine, or starts one, until the block ends.

    Yields a context that ends it earlier: when its own block does, or when it is closed.

    The dashboard's page of the job shows `metadata`; of a submitted one, what `ray job submit` was given instead.
    `meanwhile` runs in another thread while Ray starts, which is mostly waiting; what it raises is raised here.

    Raises:
        JobStopped: that fails.
        Interrupted: SIGTERM came before Ray was there.
    """
    with ExitStack() as until_ended:
        until_ended.enter_context(_without_noise())
        until_ended.callback(_stop, timings)
        with timings.stage("start_ray"):
            thread = ThreadPoolExecutor(1)
            done = thread.submit(meanwhile)
            thread.shutdown(wait=False)  # after this call; nobody waits for it where Ray does not start
            _start(metadata or {})
        with timings.stage("import"):
            done.result()
        log.info(RAY_IS_THERE, extra=fields(version=ray.__version__, cpus=num_cpus(), gpus=num_gpus()))
        yield until_ended


def _stop(timings: Timings) -> None:
    with timings.stage("stop_ray"), _signal_handlers_kept():
        ray.shutdown()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """A block after which those of before are there again: Ray sets its own, which would end a job before it says how.

    Raises:
        Interrupted: Ray's own handler was called.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except SystemExit:
        raise Interrupted(signal.SIGTERM) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(metadata: Mapping[str, str]) -> None:
    # Ray Data would start a process of its own to report that it was used: seconds of a small job.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    # The driver shows progress and errors in its own words; the workers' own logs are on the dashboard.
    try:
        with _signal_handlers_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, job_config=JobConfig(metadata=dict(metadata)))
    except Exception as error:  # of any kind: Ray raises a bare Exception where a process of its own does not start
        reason = " ".join(str(error).split())
        raise JobStopped(f"Ray does not start, or cannot be joined ({type(error).__name__}: {reason})") from error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a unit of a large model, or an overloaded judge, may take hours
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # we say why it stopped, in one line


@contextmanager
def _without_noise() -> Iterator[None]:
    """A block in which lines with `NOISE` do not reach stderr; all others do, even those of a crash.

    Ray's core writes past Python, to descriptor 2; so that goes through a `grep`, which outlives this process by what
    it has yet to print. Python's own `sys.stderr` stays where it was.
    """
    python_stderr, own = sys.stderr, os.dup(2)
    try:
        # A session of its own, so that Ctrl-C does not end it before us.
        command = ["grep", "--line-buffered", "-v", NOISE]
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=own, start_new_session=True)
    except OSError:  # no grep
        os.close(own)
        yield
        return
    assert grep.stdin is not None
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    is_descriptor_2 = _is_descriptor_2(python_stderr)
    if is_descriptor_2:
        sys.stderr = open(  # noqa: SIM115 (it is closed with the block, by its descriptor)
            own, "w", buffering=1, encoding=python_stderr.encoding, errors="backslashreplace", closefd=False
        )
    try:
        yield
    finally:
        if is_descriptor_2:
            sys.stderr = python_stderr
        os.dup2(own, 2)
        os.close(own)
        # What Ray left running may hold the pipe open: then grep stays for it.
        with suppress(subprocess.TimeoutExpired):
            grep.wait(timeout=0.5)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, OSError, ValueError):
        return False


def num_gpus() -> int:
    """GPUs of the whole cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def num_free_gpus() -> int:
    """Those that no other job has."""
    return int(ray.available_resources().get("GPU", 0))


def num_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
