"""PromQL over the job's metrics (`ray_jobs/metrics.py`), for the panels.

Counters live as long as a node's Ray, gauges as long as the process that sets them, and some seconds more. So totals
are taken of jobs that have a gauge: those that run. An actor whose process dies is begun anew, with series of its own.
Store and limiter are gone while a job waits for Message Batches; then the driver exports what there is to tell of
questions and requests.
"""

from __future__ import annotations

NODES = 'SessionName=~"$SessionName",ray_io_cluster=~"$Cluster"'
JOBS = f'{NODES},JobId=~"$JobId"'
CHECKPOINTS = f'{JOBS},run=~"$Run",checkpoint=~"$Checkpoint"'
JOB = "SessionName, JobId"  # an ID is that of another job after the next start of Ray


def sampled(name: str) -> str:
    """A total of the store's, by checkpoint: of its process that lives, which counts what others have stored, too."""
    living = f"ray_evalgen_{name}_total{{{CHECKPOINTS}}} and on (WorkerId) ray_evalgen_questions_waiting{{{JOBS}}}"
    return f"(max by ({JOB}, run, checkpoint) ({living}))"


def judged(name: str, more: str = "") -> str:
    """A total of those who have or had the verdicts, by grader; `more` label matchers."""
    return f"(ray_evalgen_{name}_total{{{JOBS}{more}}} and on ({JOB}) ray_evalgen_questions_waiting{{{JOBS}}})"


def asked(name: str) -> str:
    """A total of those who have or had the requests, but for what one that died had yet to export."""
    return f"(ray_evalgen_{name}_total{{{JOBS}}} and on ({JOB}) ray_evalgen_requests_in_flight{{{JOBS}}})"


def rate(name: str, labels: str = JOBS, over: str = "$__rate_interval") -> str:
    """What is added to a total each second."""
    return f"rate(ray_evalgen_{name}_total{{{labels}}}[{over}])"


def gauge(name: str, labels: str = JOBS) -> str:
    return f"ray_evalgen_{name}{{{labels}}}"


def level(name: str) -> str:
    """A gauge that one process of a job sets; the next may set it before the last value of one that died is gone."""
    return f"sum(max by ({JOB}) ({gauge(name)}))"


def or_zero(query: str, known: str) -> str:
    """0 in place of no answer where `known` has one: a grader that is not asked yet has no counter."""
    return f"{query} or 0 * {known}"


def priced(query: str) -> str:
    """Without the graders whose price is not known."""
    return f"{query} unless on (grader) ({UNPRICED} > 0)"


def known_cost(query: str) -> str:
    """-1 in its place where a price is not known."""
    return f"(0 * ({UNPRICED_IN_ALL} > 0) - 1) or {query}"


PLANNED_OF_EACH = f"max by ({JOB}, run, checkpoint) ({gauge('units_planned', CHECKPOINTS)})"
PLANNED = f"sum({PLANNED_OF_EACH})"
ENDED = f"((sum({sampled('units_done')}) or vector(0)) + (sum({sampled('units_failed')}) or vector(0)))"
UNITS_LEFT = f"({PLANNED} - {ENDED})"
WAITING = level("questions_waiting")
IN_FLIGHT = level("requests_in_flight")
SERVER_FAILS = f"max({gauge('breaker_open')})"
FAILING = 10**9  # no pause is as long
PAUSE_OR_FAILING = f"({FAILING} * {SERVER_FAILS} > 0) or max({gauge('held_seconds')})"
UNPRICED = f"sum by (grader) ({asked('requests_unpriced')})"
UNPRICED_IN_ALL = f"sum({asked('requests_unpriced')})"
ANSWERS = judged("questions_answered")
ANSWERED = f"(sum({ANSWERS}) or vector(0))"
ANSWERS_A_SECOND = f"(sum({rate('questions_answered', over='1m')}) > 0)"
EQUIVALENT, JUDGED = (judged("questions_answered", f",verdict{it}") for it in ('="equivalent"', '!="ungraded"'))
ASKED_IN_ALL = f"({ANSWERED} + {WAITING})"
FAILED_A_SECOND = rate("requests", f'{JOBS},outcome="failed"', "5m")


def actors(kinds: str) -> str:
    """Processes of these classes, by what they are doing."""
    return f'ray_actors{{{JOBS},Source="executor",Name=~".*({kinds}).*"}}'


# A unit appears when it is stored, which may be once in many minutes: no rate of the last few can be told.
UNIT_SECONDS = f"(sum({sampled('sampling_seconds')}) + sum({sampled('checkpoint_load_seconds')}))"
OF_EACH_UNIT = f"{UNIT_SECONDS} / (sum({sampled('units_done')}) > 0) / sum({actors('SamplingActor')})"
SAMPLING_LEFT = f"({UNITS_LEFT} * {OF_EACH_UNIT}) or ({UNITS_LEFT} == 0)"  # replicas end when nothing is left
