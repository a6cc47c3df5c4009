"""What an experiment holds at one moment, what is done after it once more, and whether two have the same datasets."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evalgen.dataset_files import LEFT_OUT_FILE
from evalgen.journal import read_journal
from tests.faults.recording import Draw, Event, Record
from tests.messages_api import MessagesApi
from tests.ray.jobs import Experiment

LOGPROB_TOLERANCE = 1e-4  # nats: the last bits of a log-probability depend on the shape of the batch
PROBABILITY_TOLERANCE = 2 * LOGPROB_TOLERANCE  # relative: of a probability, and of one as a share of others
LOGPROBS = ("logprob", "logprob_sampling", "token_logprobs")
# What is computed from them, and from nothing else that may differ.
PROBABILITIES = (
    *("weight", "covered_mass"),
    *("seen_mass", "equivalent_mass", "seen_mass_sampling", "equivalent_mass_sampling"),
)
JSON_FILES = ("non_equivalent_completions.json", LEFT_OUT_FILE, "missing.json")
Asked = tuple[str, str]  # prompt and completion


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is finished, on disk and undamaged, and how much was begun to get there."""

    unit_ids: frozenset[str]
    draws: frozenset[Draw]
    verdicts: frozenset[Asked]
    num_begun: int  # units
    num_requests: int  # at the grading server

    @classmethod
    def now(cls, experiment: Path, record: Record, api: MessagesApi) -> Moment:
        unit_ids, draws = stored_units(experiment / "samples")
        verdicts = stored_verdicts(experiment / "verdicts")
        # Last: a request that came before its verdict was read above is none that came after.
        return cls(
            unit_ids=unit_ids,
            draws=draws,
            verdicts=verdicts,
            num_begun=len(record.begun()),
            num_requests=api.calls,
        )


def stored_units(samples: Path) -> tuple[frozenset[str], frozenset[Draw]]:
    """Ids of the units whose files are whole, and the draws that these have."""
    lines, _ = read_journal(samples / "units.jsonl")
    whole = [line for line in lines if _digest(samples / f"{line['unit_id']}.parquet") == line["sha256"]]
    draws = {
        (prompt_id, index)
        for line in whole
        for prompt_id, ranges in line["ranges"].items()
        for first, stop in ranges
        for index in range(first, stop)
    }
    return frozenset(unit_id for line in whole for unit_id in line["costs"]), frozenset(draws)


def stored_verdicts(verdicts: Path) -> frozenset[Asked]:
    """What was judged, and can still be read."""
    rows, _ = read_journal(verdicts / "journal.jsonl")
    table, checksum = verdicts / "0000.parquet", verdicts / "0000.parquet.sha256"
    if checksum.exists() and checksum.read_text().split()[0] == _digest(table):
        rows += pq.read_table(table, columns=["prompt", "completion", "verdict"]).to_pylist()
    return frozenset((row["prompt"], row["completion"]) for row in rows if row["verdict"] != "ungraded")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def finished_units_begun_again(moment: Moment, begun: list[Event]) -> int:
    """Units begun since `moment` with draws that were stored then."""
    return sum(not moment.draws.isdisjoint(event.draws) for event in begun[moment.num_begun :])


def stored_verdicts_asked_again(moment: Moment, api: MessagesApi) -> int:
    """Requests since `moment` for verdicts that were stored then."""
    return sum(asked in moment.verdicts for asked in questions(api)[moment.num_requests :])


def questions(api: MessagesApi) -> list[Asked]:
    """Of all requests so far, in order."""
    return [(request.question["prompt"], request.question["completion"]) for request in api.requests]


def difference(one: Path, other: Path) -> str:
    """Where the datasets of two experiments first differ; "": nowhere.

    Everything in every file of rows, rejects, prompts and left out is compared, and the names of all files. Log-probs,
    and what is computed from them, may differ by rounding; nothing else may.
    """
    return next(_differences(_content(one), _content(other), "", operator.eq), "")


def _content(path: Path) -> dict[str, Any]:
    experiment = Experiment(path)
    return {name: _content_of_dataset(experiment, name) for name in experiment.dataset_names}


def _content_of_dataset(experiment: Experiment, name: str) -> dict[str, Any]:
    directory = experiment.path / "sampled_eval_datasets" / name
    files = sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*"))
    return {
        "files": files,
        "rows": experiment.dataset(name).to_list(),
        **{file: pq.read_table(directory / file).to_pylist() for file in files if file.endswith(".parquet")},
        **{file: experiment.rejects(name, file) for file in files if file in JSON_FILES},
    }


def _differences(one: Any, other: Any, where: str, is_same: Callable[[Any, Any], bool]) -> Iterator[str]:
    """`is_same` is for what is neither a mapping nor a list; where a name says so, for all that is under it another."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], f"{where}/{key}", ROUNDED.get(key, is_same))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{where}/{index}", is_same)
    elif type(one) is not type(other) or isinstance(one, dict | list) or not is_same(one, other):
        yield f"{where}: {str(one)[:80]} and {str(other)[:80]}"


def _is_same_logprob(one: float | None, other: float | None) -> bool:
    """Both are numbers, or neither is."""
    return one == other or math.isclose(one or 0.0, other or 0.0, rel_tol=0, abs_tol=LOGPROB_TOLERANCE)


def _is_same_probability(one: float | None, other: float | None) -> bool:
    """Likewise."""
    return one == other or math.isclose(one or 0.0, other or 0.0, rel_tol=PROBABILITY_TOLERANCE)


# By column; for all that is under it.
ROUNDED = dict.fromkeys(LOGPROBS, _is_same_logprob) | dict.fromkeys(PROBABILITIES, _is_same_probability)
