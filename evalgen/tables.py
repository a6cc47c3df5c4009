"""What a person at a terminal sees of a job before it and after it: what it may cost, its figures and its files."""

from __future__ import annotations

from collections.abc import Sequence

from evalgen.experiment import Experiment
from evalgen.forecast import REPLY_TOKENS, DatasetForecast
from evalgen.plain_lines import print_lines, tell
from evalgen.statistics import DatasetStatistics
from evalgen.timings import Timings

# Heading and width. "graded" and "rate" are of distinct completions, "per draw" of all samples (of all probability that
# was covered, where there are no draws).
COLUMNS = (
    ("draws", 10),
    ("graded", 8),
    ("equivalent", 11),
    ("rate", 8),
    ("per draw", 10),
    ("items", 7),
    ("prompts", 9),
    ("calls", 7),
    ("cost", 10),
)


LEAST_OTHER_S = 0.1  # that is worth a word

FORECAST_COLUMNS = (
    ("prompts", 10),
    ("draws", 13),
    ("questions", 13),
    ("calls", 13),
    ("per 1,000", 13),
    ("cost", 15),
)


def print_forecast(datasets: Sequence[DatasetForecast], prices_as_of: str, cap_usd: float | None) -> None:
    """What a job would ask and cost at most, for `--dry_run`."""
    lines = [
        "At most, if every draw gave another completion, none the greedy one, and no verdict were known yet; "
        f"costs are for replies of {REPLY_TOKENS} tokens"
    ]
    lines.append("".join(heading.rjust(width) for heading, width in FORECAST_COLUMNS))
    for dataset in datasets:
        figures = (
            f"{dataset.num_prompts:,}",
            "-" if dataset.num_draws is None else f"{dataset.num_draws:,}",
            f"{dataset.most_questions:,}",
            f"{dataset.most_calls:,}",
            _dollars(dataset.usd_per_thousand),
            _dollars(dataset.likely_usd),
        )
        lines.append(f"{dataset.name}  ({dataset.grader_model})")
        lines.append("".join(it.rjust(width) for it, (_, width) in zip(figures, FORECAST_COLUMNS, strict=True)))
    costs = [dataset.likely_usd for dataset in datasets]
    num_prompts, num_questions = (
        sum(getattr(it, name) for it in datasets) for name in ("num_prompts", "most_questions")
    )
    total = _dollars(None if None in costs else sum(cost for cost in costs if cost is not None))
    counts = f"{len(datasets)} datasets, {num_prompts:,} prompts, at most {num_questions:,} questions"
    lines.append(f"{counts}, about {total}")
    if None in costs:
        lines.append("A price is unknown: add it to a file like configs/prices.yaml and give --prices_path")
    elif any(costs):
        most = sum(dataset.most_usd or 0.0 for dataset in datasets)
        lines += [
            f"Never more than {_dollars(most)}, with the longest completions and replies, and each asked for twice "
            f"(replies that get lost aside). Prices of {prices_as_of}.",
            "Draws at a low temperature repeat: most jobs ask a small part of this.",
        ]
    if cap_usd is not None:
        lines.append(f"--max_grading_cost_usd stops the job, resumable, before it has cost more than ${cap_usd:,.2f}")
    print_lines(lines)


def print_results(
    experiment: Experiment, datasets: Sequence[DatasetStatistics], timings: Timings, on_hub: str | None = None
) -> None:
    """The statistics table, the seconds by stage, and where everything is; `on_hub`: the datasets' address there."""
    from evalgen.seed_report import REPORT_FILE  # a forecast does not wait for it

    places = {
        "Datasets": experiment.datasets,
        "Older ones that are whole": experiment.earlier_datasets,
        "Samples, verdicts, summary.json": experiment.directory,
        "Report": experiment.page,
        "How they were made": experiment.directory / REPORT_FILE,
        "Weights & Biases": experiment.directory / "wandb",
    }
    lines = [*statistics_lines(datasets), "", f"Seconds by stage: {_stages(timings)}"]
    lines += [f"{what}: {path}" for what, path in places.items() if path.exists()]
    tell([*lines, *([f"Pushed to {on_hub}"] if on_hub else [])])


def _stages(timings: Timings) -> str:
    seconds = timings.whole()
    total = seconds.pop("total")
    if seconds["other"] < LEAST_OTHER_S:
        del seconds["other"]
    return f"{', '.join(f'{name} {it:.1f} s' for name, it in seconds.items())}; total {total:.1f} s"


def statistics_lines(datasets: Sequence[DatasetStatistics]) -> list[str]:
    """Each dataset's figures under its name, which is as long as it likes: 80 columns, for any terminal or log."""
    lines = ["Grading statistics", "".join(heading.rjust(width) for heading, width in COLUMNS)]
    for dataset in datasets:
        figures = (
            "-" if dataset.num_draws is None else f"{dataset.num_draws:,}",
            f"{dataset.num_graded:,}",
            f"{dataset.num_equivalent:,}",
            _percent(dataset.equivalence_rate),
            _percent(dataset.draw_equivalence_rate),
            f"{dataset.num_items:,}",
            f"{dataset.num_unique_prompts}/{dataset.num_prompts}",
            f"{dataset.api_calls:,}",
            "unknown" if dataset.cost_usd is None else f"${dataset.cost_usd:.4f}",
        )
        lines.append(dataset.name)
        lines.append("".join(figure.rjust(width) for figure, (_, width) in zip(figures, COLUMNS, strict=True)))
        if dataset.covered_mass is not None:
            covered = _percent(dataset.covered_mass)
            lines.append(f'    enumerated: covers {covered} of the probability; "per draw" is by probability')
        if dataset.input_tokens:
            tokens = f"{dataset.input_tokens:,} tokens to the judge, {dataset.output_tokens:,} back"
            alpha = dataset.grader_alpha
            if dataset.api_calls < dataset.num_asked:
                num_calls_saved = dataset.num_asked - dataset.api_calls
                tokens += f"; packs saved {num_calls_saved:,} calls, about {dataset.input_tokens_saved:,} tokens"
            lines.append(f"    {tokens}" + ("" if alpha is None else f"; votes agree with alpha {alpha:.2f}"))
        if dataset.num_ungraded:
            lines.append(f"    and {dataset.num_ungraded:,} ungraded; left_out.json says why")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _dollars(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:,.2f}"
