"""What an experiment holds at one moment, what is done after it once more, and whether two have the same datasets."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evalgen.journal import read_journal
from tests.faults.recording import Draw, Event, Record
from tests.messages_api import MessagesApi
from tests.ray.jobs import Experiment

LOGPROB_TOLERANCE = 1e-4  # the last bits of a log-probability depend on the shape of the batch
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
    """Where the datasets of two experiments first differ in content; "": nowhere."""
    return next(_differences(_content(one), _content(other), ""), "")


def _content(path: Path) -> dict[str, Any]:
    experiment = Experiment(path)
    return {
        name: {
            "rows": experiment.dataset(name).to_list(),
            "non_equivalent": experiment.rejects(name),
            "files": sorted(file.name for file in (path / "sampled_eval_datasets" / name).iterdir()),
        }
        for name in experiment.dataset_names
    }


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{where}/{index}")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, abs_tol=LOGPROB_TOLERANCE):
            yield f"{where}: {one} and {other}"
    elif one != other:
        yield f"{where}: {str(one)[:80]} and {str(other)[:80]}"
