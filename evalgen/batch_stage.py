"""The stage of a job that asks in batches: what is sampled for judges that are asked that way, when all of it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress

from evalgen.config import JobConfig
from evalgen.experiment import Experiment
from evalgen.grading.batch_api import BatchSettings
from evalgen.grading.batch_progress import BatchProgress
from evalgen.grading.batches import grade_in_batches
from evalgen.grading.prices import load_prices
from evalgen.grading.spending import Spending
from evalgen.job import DatasetPlan
from evalgen.records import Question
from evalgen.unit_store import UnitStore
from evalgen.verdict_store import VerdictStore, spent_usd
from evalgen.work import questions_of_unit


def grade_stored_in_batches(
    config: JobConfig,
    experiment: Experiment,
    plans: Sequence[DatasetPlan],
    show: Sequence[Callable[[BatchProgress], None]] = (),
) -> None:
    """Asks what the experiment's samples leave open. Waits for hours, if need be, and can be resumed at any time.

    `show` is called each time that the batches were looked at: every 30 s, and more often at first.

    Raises:
        JobStopped: as `grade_in_batches`.
    """
    cap_usd, directory = config.max_grading_cost_usd, experiment.verdicts
    spending = None if cap_usd is None else Spending(directory, cap_usd, spent_usd(directory))
    earlier = experiment.earlier_verdicts() if config.use_grader_cache else []
    with closing(VerdictStore(directory, earlier)) as verdicts:
        grade_in_batches(
            _questions(experiment, plans),
            verdicts,
            experiment.directory / "batches",
            prices=load_prices(config.prices),
            progress=lambda progress: _show_all(show, progress),
            spending=spending,
            settings=BatchSettings(retry_budget_s=60 * config.max_outage_minutes),
        )


def _show_all(show: Sequence[Callable[[BatchProgress], None]], progress: BatchProgress) -> None:
    for each in show:
        with suppress(OSError):  # the terminal is gone, say: the job goes on
            each(progress)


def _questions(experiment: Experiment, plans: Sequence[DatasetPlan]) -> Iterator[Question]:
    with closing(UnitStore(experiment.samples)) as store:
        for plan in plans:
            for unit in [unit for unit in store.stored if unit.dataset == plan.name]:
                yield from questions_of_unit(store, unit, plan)
