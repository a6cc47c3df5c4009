"""The dashboard's panels, row by row: what each says, and from which query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.grafana.queries import (
    ANSWERED,
    ANSWERS,
    ANSWERS_A_SECOND,
    ASKED_IN_ALL,
    CHECKPOINTS,
    ENDED,
    EQUIVALENT,
    FAILED_A_SECOND,
    FAILING,
    IN_FLIGHT,
    JUDGED,
    NODES,
    PAUSE_OR_FAILING,
    PLANNED,
    PLANNED_OF_EACH,
    SAMPLING_LEFT,
    SERVER_FAILS,
    WAITING,
    actors,
    asked,
    gauge,
    judged,
    known_cost,
    or_zero,
    priced,
    rate,
    sampled,
)

MORE_THAN_0 = 1e-9
NO_JOB = "no job in this time"
NO_SAMPLING = "no sampling in this time"
NO_LIMITER = "no job, or it waits for batches"
NO_COST = "nothing is paid yet"
NO_PRICE = ((-1, "cost unknown: no price"),)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. `queries` are pairs: what each series is called, and PromQL."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"  # or stat, or gauge
    no_data: str = NO_JOB
    width: int = 12
    is_stacked: bool = False
    most: float | None = None  # of what a gauge shows
    colors: tuple[tuple[float, str], ...] = ()  # of numbers from these on; (): it is no bad news
    words: tuple[tuple[float, str], ...] = ()  # in place of numbers


def number(title: str, description: str, query: str, unit: str = "short", **more: Any) -> Panel:
    """A panel that is read at a glance."""
    settings: dict[str, Any] = {"kind": "stat", "width": 4, **more}
    return Panel(title=title, description=description, queries=((title, query),), unit=unit, **settings)


def trouble(title: str, description: str, query: str, known: str, *, worst: str = "red", **more: Any) -> Panel:
    """A number that should be 0, and is where only `known` has an answer."""
    colors = ((MORE_THAN_0, worst),)
    return number(title, description, or_zero(query, known), colors=colors, words=((0, "none"),), width=3, **more)


HOW_FAR = (
    number(
        "Sampled",
        "Sampling units that are stored or given up, of those that this part of the job has.",
        f"{ENDED} / {PLANNED}",
        "percentunit",
        kind="gauge",
        most=1,
        no_data=NO_SAMPLING,
    ),
    number(
        "Judged",
        "Distinct completions with a verdict, of those sampled so far. It falls when more are sampled.",
        f"{ANSWERED} / ({ASKED_IN_ALL} > 0)",
        "percentunit",
        kind="gauge",
        most=1,
    ),
    Panel(
        title="Time left",
        description="Sampling: as long for each unit that is left as for those so far, over all replicas; the last "
        "units are small, so it is less. Judging: of what is sampled, at the pace of the last minute. Both go on.",
        queries=(
            ("sampling", SAMPLING_LEFT),
            ("judging", f"{WAITING} / {ANSWERS_A_SECOND}"),
        ),
        unit="s",
        kind="stat",
        width=4,
        no_data="not known",
    ),
    number(
        "Equivalent",
        "Distinct completions that mean what the reference means, of those judged.",
        f"sum({EQUIVALENT}) / (sum({JUDGED}) > 0)",
        "percentunit",
        no_data="nothing is judged yet",
    ),
    number(
        "Cost",
        "What the judges have cost in this part of the job: requests and batches that have ended. Offline judges are "
        "free. Not known where the price of one is not.",
        known_cost(f"sum({asked('cost_usd')})"),
        "currencyUSD",
        no_data=NO_COST,
        words=NO_PRICE,
    ),
    number(
        "Cost of all that is sampled",
        "The cost so far, and as much again for each completion that waits. What is not sampled yet is not in it.",
        known_cost(f"sum({asked('cost_usd')}) * {ASKED_IN_ALL} / ({ANSWERED} > 0)"),
        "currencyUSD",
        no_data=NO_COST,
        words=NO_PRICE,
    ),
)

WRONG = (
    number(
        "Judge's server",
        "Failing: it answered five requests in a row with errors. All requests wait, and one at a time finds out "
        "whether it is well again. After --max_outage_minutes the job stops and says how to go on. A pause: the server "
        "wants no request for so long, and all wait.",
        PAUSE_OR_FAILING,
        unit="suffix: s of pause",
        width=3,
        no_data=NO_LIMITER,
        colors=((MORE_THAN_0, "orange"), (FAILING, "red")),
        words=((0, "well"), (FAILING, "failing")),
    ),
    trouble(
        "Units given up",
        "They failed three times, or their input is wrong. The exit code will be 1 and missing.json names the prompts; "
        "experiment.log has the reasons.",
        f"sum({sampled('units_failed')})",
        PLANNED,
        no_data=NO_SAMPLING,
    ),
    trouble(
        "Units tried again",
        "Attempts that failed, or whose process died, and were followed by another.",
        f"sum({sampled('units_retried')})",
        PLANNED,
        no_data=NO_SAMPLING,
        worst="orange",
    ),
    trouble(
        "Ungraded",
        "Questions without a judgement: the judge refused them, or its replies could not be read. "
        "left_out.json will have them.",
        f"sum({judged('questions_ungraded')})",
        WAITING,
    ),
    trouble(
        "Asked again",
        "Questions, or votes on them, that took several requests, because of faults or of unreadable replies.",
        f"sum({judged('questions_retried')})",
        WAITING,
        worst="orange",
    ),
    trouble(
        "Failed requests",
        "Requests of the last five minutes that ended in a fault of the server or of the line, of all that ended.",
        f"sum({FAILED_A_SECOND}) / (sum({rate('requests', over='5m')}) > 0)",
        IN_FLIGHT,
        unit="percentunit",
        worst="orange",
    ),
    trouble(
        "429s",
        "Requests that the server put off because of a rate limit. A few while its limits are learned are well; many "
        "mean that somebody else uses the same account: give lower limits, --requests_per_minute and the like.",
        f"sum({asked('throttled')})",
        SERVER_FAILS,
        no_data=NO_LIMITER,
        worst="orange",
    ),
    trouble(
        "Out of memory",
        "How often a batch was halved because memory ran out. No draw is lost; --kv_budget_gib begins with less.",
        f"sum({sampled('out_of_memory_halvings')})",
        PLANNED,
        no_data=NO_SAMPLING,
        worst="orange",
    ),
)

SAMPLING = (
    Panel(
        title="Units",
        description="Sampling units that are stored, and those that this part of the job has, by checkpoint.",
        queries=(
            ("{{run}} {{checkpoint}}", f"sum by (run, checkpoint) ({sampled('units_done')})"),
            ("{{run}} {{checkpoint}}, planned", f"sum by (run, checkpoint) ({PLANNED_OF_EACH})"),
        ),
        no_data=NO_SAMPLING,
    ),
    Panel(
        title="Draws a second",
        description="Completions sampled, by checkpoint. They arrive a unit at a time, when it is stored.",
        queries=(("{{run}} {{checkpoint}}", f"sum by (run, checkpoint) ({rate('draws', CHECKPOINTS)})"),),
        unit="cps",
        no_data=NO_SAMPLING,
        is_stacked=True,
    ),
    Panel(
        title="Distinct completions of the draws",
        description="The fewer, the cheaper: each is evaluated and judged once. High temperatures make many.",
        queries=(
            (
                "{{run}} {{checkpoint}}",
                f"sum by (run, checkpoint) ({sampled('distinct_completions')})"
                f" / (sum by (run, checkpoint) ({sampled('draws')}) > 0)",
            ),
        ),
        unit="percentunit",
        no_data=NO_SAMPLING,
    ),
    Panel(
        title="Forward passes a second",
        description="Evaluations of one sequence each, over all replicas.",
        queries=(("{{run}} {{checkpoint}}", f"sum by (run, checkpoint) ({rate('model_evaluations', CHECKPOINTS)})"),),
        unit="cps",
        no_data=NO_SAMPLING,
        is_stacked=True,
    ),
    Panel(
        title="What replicas spend their time on",
        description="Seconds of all replicas together since the job began: checkpoints being loaded, and sampling.",
        queries=(
            ("loading checkpoints", f"sum({sampled('checkpoint_load_seconds')})"),
            ("sampling", f"sum({sampled('sampling_seconds')})"),
        ),
        unit="s",
        no_data=NO_SAMPLING,
        is_stacked=True,
    ),
    Panel(
        title="Keys and values",
        description="The most that the last unit of each replica had of them at once, recurrent states included.",
        queries=(("{{NodeAddress}} {{checkpoint}}", f"{gauge('kv_bytes', CHECKPOINTS)} > 0"),),
        unit="bytes",
        no_data="nothing is sampled yet, or each draw by itself",
    ),
)

GRADING = (
    Panel(
        title="Verdicts",
        description="Distinct questions with a verdict, by kind.",
        queries=(("{{verdict}}", f"sum by (verdict) ({judged('questions_answered')})"),),
        is_stacked=True,
        no_data="nothing is judged yet",
    ),
    Panel(
        title="Completions that wait for a verdict",
        description="Grows where sampling is faster than judging; then the judge is what the job waits for.",
        queries=(("waiting", WAITING),),
    ),
    Panel(
        title="Verdicts a minute",
        description="By judge.",
        queries=(("{{grader}}", f"60 * sum by (grader) ({rate('questions_answered')})"),),
        is_stacked=True,
        no_data="nothing is judged yet",
    ),
    Panel(
        title="Questions asked, and paid for earlier",
        description="Those with a verdict, by judge: asked and answered in this part of the job, or paid for by an "
        "earlier experiment. The latter cost nothing again; --use_grader_cache false asks them anew.",
        queries=(
            ("{{grader}}, answered now", f"sum by (grader) ({judged('questions_asked')})"),
            ("{{grader}}, paid for earlier", f"sum by (grader) ({judged('questions_cached')})"),
        ),
        no_data="nothing is judged yet",
    ),
)


def against_limit(title: str, what: str, total: str, limit: str) -> Panel:
    return Panel(
        title=title,
        description=f"{what} in a minute, and the limit that the job keeps to: the server's, or yours if it is lower.",
        queries=(
            ("used", f"60 * sum({rate(total)})"),
            ("limit", f"min({gauge(f'limit_{limit}_per_minute')})"),
        ),
        no_data="no judge is asked that has limits",
    )


LIMITER = (
    against_limit("Requests a minute", "Requests that ended", "requests", "requests"),
    against_limit("Input tokens a minute", "Tokens sent to the judge", "input_tokens", "input_tokens"),
    against_limit("Output tokens a minute", "Tokens that it replied with", "output_tokens", "output_tokens"),
    Panel(
        title="Requests by outcome",
        description="A minute. answered; rejected: the server did not like the request; throttled: a 429; "
        "failed: a fault of the server or the line; abandoned: its grader died.",
        queries=(("{{outcome}}", f"60 * sum by (outcome) ({rate('requests')})"),),
        is_stacked=True,
        no_data="no judge is asked over a network",
    ),
    Panel(
        title="Requests in flight",
        description="At most --max_connections. At that most all the time, with the limits unused: the server is slow. "
        "Of Message Batches all requests in those that have not ended.",
        queries=(("in flight", IN_FLIGHT),),
    ),
    Panel(
        title="Requests that wait for their turn",
        description="On average, how many did at any time: seconds that all of them waited, by the second.",
        queries=(("waiting", f"sum({rate('limiter_wait_seconds')})"),),
        no_data="none had to",
    ),
)

NO_KNOWN_COST = f"{NO_COST}, or no price is known"
COST_OF_1000 = f"1000 * sum by (grader) ({asked('cost_usd')}) / (sum by (grader) ({ANSWERS}) > 0)"

COST = (
    Panel(
        title="Dollars",
        description="What each judge has cost in this part of the job.",
        queries=(("{{grader}}", priced(f"sum by (grader) ({asked('cost_usd')})")),),
        unit="currencyUSD",
        is_stacked=True,
        no_data=NO_KNOWN_COST,
    ),
    Panel(
        title="Dollars an hour",
        description="At the pace of the moment. --max_grading_cost_usd caps the sum, over all parts of a job.",
        queries=(("{{grader}}", priced(f"3600 * sum by (grader) ({rate('cost_usd')})")),),
        unit="currencyUSD",
        is_stacked=True,
        no_data=NO_KNOWN_COST,
    ),
    Panel(
        title="Tokens",
        description="Sent to the judge and replied by it, as it counts them.",
        queries=(("input", f"sum({asked('input_tokens')})"), ("output", f"sum({asked('output_tokens')})")),
        is_stacked=True,
        no_data="no judge is asked that counts tokens",
    ),
    Panel(
        title="Dollars for a thousand verdicts",
        description="Verdicts from the cache count among them.",
        queries=(("{{grader}}", priced(COST_OF_1000)),),
        unit="currencyUSD",
        no_data=NO_KNOWN_COST,
    ),
)

MACHINES = (
    Panel(
        title="Replicas and grading actors",
        description="Processes, by what they are doing. A replica that is idle waits for work or for the judge.",
        queries=(("{{Name}} {{State}}", f"sum by (Name, State) ({actors('SamplingActor|GradingActor')})"),),
        is_stacked=True,
        no_data="no such process",
    ),
    Panel(
        title="CPU",
        description="Of each node.",
        queries=(("{{ip}}", f"ray_node_cpu_utilization{{{NODES}}}"),),
        unit="percent",
        no_data="no node",
    ),
    Panel(
        title="Memory",
        description="Of each node: used, of what it has.",
        queries=(("{{ip}}", f"ray_node_mem_used{{{NODES}}} / ray_node_mem_total{{{NODES}}}"),),
        unit="percentunit",
        no_data="no node",
    ),
    Panel(
        title="GPUs at work",
        description="Of each GPU, as its driver counts it. Low while sampling: batches are small, or the disk is slow.",
        queries=(("{{ip}} {{GpuIndex}} {{GpuDeviceName}}", f"ray_node_gpus_utilization{{{NODES}}}"),),
        unit="percent",
        no_data="no GPU",
    ),
    Panel(
        title="GPU memory",
        description="Used on each GPU, by all processes.",
        queries=(("{{ip}} {{GpuIndex}} {{GpuDeviceName}}", f"1048576 * ray_node_gram_used{{{NODES}}}"),),
        unit="bytes",
        no_data="no GPU",
    ),
)

ROWS = {
    "How far is it, and what does it cost?": HOW_FAR,
    "What is wrong?": WRONG,
    "Sampling": SAMPLING,
    "Judging": GRADING,
    "Limits of the judge's server": LIMITER,
    "Cost": COST,
    "Replicas and machines": MACHINES,
}
