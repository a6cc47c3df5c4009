"""What made the rows of a dataset, as digests: rows with equal ones come from the same weights, tokenizer and judge."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalgen.errors import JobStopped
from evalgen.job import DatasetPlan
from evalgen.unit_store import StoredUnit

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """SHA-256 digests in hexadecimal, one of each for a whole dataset."""

    weights_digest: str  # of the checkpoint's weight files; "": samples of an older version, which did not note it
    tokenizer_digest: str
    grader_digest: str  # of all that the judge is told apart from the question


def weights_digests(plans: Sequence[DatasetPlan], units: Iterable[StoredUnit], samples: Path) -> dict[str, str]:
    """By dataset name, the digest of the weights that all of its stored units in `samples` were sampled from.

    "" where one of them does not say. To be asked before units of several parts of a job are put together.

    Raises:
        JobStopped: units of one dataset are from different weights.
    """
    found: dict[str, dict[str, list[str]]] = {plan.name: {} for plan in plans}  # dataset, digest, files
    for unit in units:
        for cost in unit.costs.values() if unit.dataset in found else ():
            found[unit.dataset].setdefault(cost.weights_digest, []).append(f"{unit.unit_id}.parquet")
    for plan in plans:
        of_weights = {digest: sorted(set(files)) for digest, files in found[plan.name].items() if digest}
        if len(of_weights) > 1:
            for digest, files in of_weights.items():
                log.error("%s: sampled from weights with digest %s: %s", plan.name, digest, " ".join(files))
            raise JobStopped(
                f"{plan.name}: {plan.checkpoint.path} was changed between parts of this job, and completions of "
                f"{len(of_weights)} different weights are stored. experiment.log says which file in {samples} has "
                "which: delete those that are not to count and --resume, which samples them from the weights that are "
                "there now; or start a new experiment. No verdict is paid for again"
            )
    return {name: next(iter(digests)) if len(digests) == 1 else "" for name, digests in found.items()}
