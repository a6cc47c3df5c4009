"""PromQL over the job's metrics (`ray_jobs/metrics.py`), for the panels.

Counters live as long as a node's Ray, gauges as long as the process that sets them. So totals are taken of processes
that have a gauge: those of jobs that run. Store and limiter are gone while a job waits for Message Batches; then the
driver exports what there is to tell of questions and requests.
"""

from __future__ import annotations

NODES = 'SessionName=~"$SessionName",ray_io_cluster=~"$Cluster"'
JOBS = f'{NODES},JobId=~"$JobId"'
CHECKPOINTS = f'{JOBS},run=~"$Run",checkpoint=~"$Checkpoint"'


def sampled(name: str) -> str:
    """A total of the store's, by checkpoint."""
    return f"(ray_evalgen_{name}_total{{{CHECKPOINTS}}} and on (WorkerId) ray_evalgen_questions_waiting{{{JOBS}}})"


def judged(name: str, more: str = "") -> str:
    """A total of whoever has the verdicts, by grader; `more` label matchers."""
    return f"(ray_evalgen_{name}_total{{{JOBS}{more}}} and on (WorkerId) ray_evalgen_questions_waiting{{{JOBS}}})"


def asked(name: str) -> str:
    """A total of whoever has the requests."""
    return f"(ray_evalgen_{name}_total{{{JOBS}}} and on (WorkerId) ray_evalgen_requests_in_flight{{{JOBS}}})"


def rate(name: str, labels: str = JOBS, over: str = "$__rate_interval") -> str:
    """What is added to a total each second."""
    return f"rate(ray_evalgen_{name}_total{{{labels}}}[{over}])"


def gauge(name: str, labels: str = JOBS) -> str:
    return f"ray_evalgen_{name}{{{labels}}}"


def or_zero(query: str, known: str) -> str:
    """0 in place of no answer where `known` has one: what never happened has no counter."""
    return f"{query} or 0 * {known}"


# A process of the store that follows one that died plans all units again.
PLANNED = f"sum(max by (run, checkpoint) ({gauge('units_planned', CHECKPOINTS)}))"
ENDED = f"((sum({sampled('units_done')}) or vector(0)) + (sum({sampled('units_failed')}) or vector(0)))"
UNITS_LEFT = f"({PLANNED} - {ENDED})"
WAITING = f"sum({gauge('questions_waiting')})"
IN_FLIGHT = f"sum({gauge('requests_in_flight')})"
SERVER_FAILS = f"max({gauge('breaker_open')})"
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
OF_EACH_UNIT = f"{UNIT_SECONDS} / sum({sampled('units_done')}) / sum({actors('SamplingActor')})"
SAMPLING_LEFT = f"({UNITS_LEFT} * {OF_EACH_UNIT}) or ({UNITS_LEFT} == 0)"  # replicas end when nothing is left
