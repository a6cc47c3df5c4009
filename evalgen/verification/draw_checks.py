"""Whether nothing was lost or made up: draws, rejects and figures against each other, and against what was stored."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from evalgen.dataset_files import PROMPTS_FILE, REJECTS_FILE, SPANS_BOUNDARY
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import BATCH_ROWS, READ_ERRORS, Row, check_schema, one_line, rejected_rows
from evalgen.verification.findings import Check, Findings
from evalgen.verification.json_lists import json_list
from evalgen.verification.origin_checks import missing_prompts
from evalgen.verification.prompt_checks import PromptChecks

JSON_FILE = "non_equivalent_completions.json"
LEFT_OUT_FILE = "left_out.json"
SHARE = 1e-9
Digests = np.ndarray[Any, np.dtype[np.uint64]]
# What a row has of the draw that it shows, and the names of the same in samples/.
SHOWN = ("prompt_id", "prompt", "raw_completion", "token_ids", "token_logprobs", "finish_reason")
STORED = tuple("completion" if name == "raw_completion" else name for name in SHOWN)


@dataclass(frozen=True, kw_only=True)
class NotKept:
    """What a dataset does not hold, by prompt id."""

    draws: Counter[str] = field(default_factory=Counter)
    completions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What is neither kept nor rejected, of all prompts."""

    num_spanning: int  # distinct completions that are equivalent, and that no row can hold
    num_ungraded_draws: int


def check_rejects(
    evidence: Evidence, dataset: Dataset, checks: Sequence[Callable[[Row, str], object]], findings: Findings
) -> NotKept | None:
    """They have the dataset's columns, are the same in JSON, and none of them is kept. None: they cannot be read.

    `checks` are those of one row, each given what to call it.
    """
    path, not_kept = evidence.directory / REJECTS_FILE, NotKept()
    try:
        parquet = pq.ParquetFile(path)
        check_schema(parquet.schema_arrow.remove_metadata(), findings, path.name, Check.REJECTS)
        if findings.failed(Check.REJECTS):
            return None
        upstream = json_list(evidence.directory / JSON_FILE)
        for row in rejected_rows(parquet, findings):
            for check in checks:
                check(row, "reject ")
            not_kept.draws[row["prompt_id"]] += row["sample_count"] or 0
            not_kept.completions[row["prompt_id"]] += 1
            if row["weight"] is not None or row["is_prefix_of"] is not None:
                findings.fail(Check.REJECTS, "it has a weight, or is a prefix of something", row["id"])
            if not _is_same(row, next(upstream, None)):
                findings.fail(Check.REJECTS, f"not the next one of {JSON_FILE}", row["id"])
        if next(upstream, None) is not None:
            findings.fail(Check.REJECTS, f"{JSON_FILE} has more of them")
        _check_disjoint(parquet, dataset, findings)
    except (*READ_ERRORS, ValueError) as error:
        findings.fail(Check.REJECTS, f"{path.name} or {JSON_FILE} cannot be read: {one_line(error)}")
        return None
    findings.held(Check.REJECTS, f"{parquet.metadata.num_rows:,}, none of them kept")
    return not_kept


def check_draws(
    evidence: Evidence,
    prompts: Mapping[str, Mapping[str, Any]] | None,
    kept: PromptChecks,
    rejected: NotKept | None,
    findings: Findings,
) -> LeftOut | None:
    """Every draw of every prompt is kept, rejected or left out. Returns what is left out; None: not known."""
    if prompts is None or rejected is None:
        findings.skip(Check.DRAWS, f"{PROMPTS_FILE} or the rejects cannot be read")
        return None
    path, ungraded, spanning = evidence.directory / LEFT_OUT_FILE, NotKept(), NotKept()
    try:
        for row in json_list(path) if path.exists() else ():
            group = spanning if row["reason"] == SPANS_BOUNDARY else ungraded
            group.draws[row["prompt_id"]] += row["sample_count"] or 0
            group.completions[row["prompt_id"]] += 1
    except (*READ_ERRORS, ValueError, KeyError, TypeError) as error:
        findings.fail(Check.DRAWS, f"{path.name} cannot be read: {one_line(error)}")
        return None
    for prompt_id in kept.draws.keys() | rejected.draws.keys() | ungraded.draws.keys() | spanning.draws.keys():
        if prompt_id not in prompts:
            findings.fail(Check.DRAWS, f"{PROMPTS_FILE} has no such prompt_id", prompt_id)
    for prompt_id, prompt in prompts.items():
        for problem in _draw_problems(prompt_id, prompt, kept, rejected, ungraded, spanning):
            findings.fail(Check.DRAWS, problem, prompt_id)
    num_draws = sum(prompt["num_draws"] or 0 for prompt in prompts.values())
    findings.held(Check.DRAWS, f"{num_draws:,} of {len(prompts):,} prompts: kept, rejected or left out")
    return LeftOut(num_spanning=spanning.completions.total(), num_ungraded_draws=ungraded.draws.total())


def check_summary(
    evidence: Evidence,
    prompts: Mapping[str, Mapping[str, Any]] | None,
    kept: PromptChecks,
    rejected: NotKept | None,
    left_out: LeftOut | None,
    findings: Findings,
) -> None:
    """summary.json says of the dataset what it is."""
    summary = evidence.summary
    if evidence.outdated:
        return findings.skip(Check.SUMMARY, evidence.outdated)
    if summary is None:
        return findings.skip(Check.SUMMARY, "there is no summary.json with the dataset in it")
    expected: dict[str, Any] = {
        "num_items": kept.num_rows,
        "num_reencoded": kept.num_reencoded,
        "num_unique_prompts": len(kept.variations),
    }
    if prompts is not None:
        expected |= _sums(prompts)
        expected["num_missing_prompts"] = len(missing_prompts(evidence.directory))
        expected["num_prompts"] = len(prompts) + expected["num_missing_prompts"]
        if left_out is not None and rejected is not None:
            expected["num_left_out"] = left_out.num_spanning
            if (num_draws := expected["num_draws"]) is not None:  # else the assembly's check knows it alone
                num_graded_draws = num_draws - left_out.num_ungraded_draws
                num_equivalent_draws = num_graded_draws - rejected.draws.total()
                expected["draw_equivalence_rate"] = _share(num_equivalent_draws, num_graded_draws)
    for name, value in expected.items():
        if not _is_close(summary.get(name), value):
            findings.fail(Check.SUMMARY, f"{name} is {summary.get(name)}, and the dataset has {value}")
    return findings.held(Check.SUMMARY, f"{len(expected)} figures")


class SampleChecks:
    """Whether the draw that a row shows is one of those that were stored. Of each of these 8 bytes are kept."""

    def __init__(self, evidence: Evidence, findings: Findings) -> None:
        self._findings = findings
        self._stored = _stored_digests(evidence, findings)

    def add(self, row: Row, what: str = "") -> None:
        if self._stored is None:
            return
        digest = _draw_digest([row[name] for name in SHOWN])
        place = bisect_left(self._stored, digest)
        if place == len(self._stored) or self._stored[place] != digest:
            problem = "its drawn ids, log-probs and text are nowhere in samples/"
            self._findings.fail(Check.SAMPLES, problem, f"{what}{row['id']}")

    def done(self) -> None:
        if self._stored is not None:
            self._findings.held(Check.SAMPLES, f"every draw that is shown is one of {len(self._stored):,} stored ones")


def _stored_digests(evidence: Evidence, findings: Findings) -> Digests | None:
    """In ascending order; None: there are none, or they cannot be read."""
    stored = array("Q")
    files = sorted(evidence.experiment.samples.glob("*.parquet")) if evidence.experiment else []
    if not files:
        findings.skip(Check.SAMPLES, "there is no experiment with samples/ around the dataset")
        return None
    for file in files:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS, columns=list(STORED)):
                stored.extend(_draw_digest([row[name] for name in STORED]) for row in batch.to_pylist())
        except (*READ_ERRORS, KeyError) as error:
            findings.fail(Check.SAMPLES, f"{file} cannot be read: {one_line(error)}")
            return None
    return np.sort(np.array(stored, np.uint64))


def _draw_digest(values: Sequence[Any]) -> int:
    content = json.dumps(values).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _is_same(row: Row, upstream: Any) -> bool:
    """A reject as its Parquet row and as its JSON object."""
    names = {
        "prompt": "prompt",
        "expected_completion": "reference_completion",
        "generated_completion": "completion",
        "reasoning": "grader_reasoning",
        "prompt_id": "prompt_id",
        "generation_idx": "generation_idx",
        "sample_count": "sample_count",
        "logprob": "logprob",
        "logprob_sampling": "logprob_sampling",
    }
    return isinstance(upstream, dict) and all(upstream.get(name) == row[ours] for name, ours in names.items())


def _check_disjoint(parquet: pq.ParquetFile, dataset: Dataset, findings: Findings) -> None:
    """No completion is both kept and rejected. In Arrow's memory: texts and ids of all rows."""
    names = ["id", "prompt_id", "raw_completion"]
    rejects = parquet.read(columns=names)
    kept = dataset.select_columns(names).with_format("arrow")[:].cast(rejects.schema)
    for keys in (["id"], ["prompt_id", "raw_completion"]):
        both = kept.join(rejects.select(keys), keys, join_type="left semi")
        for row_id in both["id"].slice(0, BATCH_ROWS).to_pylist():
            findings.fail(Check.REJECTS, f"kept, and rejected by its {' and '.join(keys)}", row_id)


def _draw_problems(
    prompt_id: str,
    prompt: Mapping[str, Any],
    kept: PromptChecks,
    rejected: NotKept,
    ungraded: NotKept,
    spanning: NotKept,
) -> list[str]:
    problems = []
    groups = [kept.draws[prompt_id], *(group.draws[prompt_id] for group in (rejected, ungraded, spanning))]
    num_draws = prompt["num_draws"]
    if num_draws is not None and sum(groups) != num_draws:
        problems.append(f"{num_draws} draws, of which {sum(groups)} are kept, rejected or left out")
    num_graded = sum(groups) - ungraded.draws[prompt_id]
    share = (num_graded - rejected.draws[prompt_id]) / num_graded if num_graded else None
    if num_draws is not None and not _is_close(prompt["equivalent_draw_share"], share):
        problems.append(f"equivalent_draw_share is {prompt['equivalent_draw_share']}, and its draws say {share}")
    for name, number in (
        ("num_not_equivalent", rejected.completions[prompt_id]),
        ("num_ungraded", ungraded.completions[prompt_id]),
        ("num_variations", kept.variations.get(prompt_id, 0)),
        ("num_unique", sum(prompt[f"num_{kind}"] for kind in ("equivalent", "not_equivalent", "ungraded"))),
    ):
        if prompt[name] != number:
            problems.append(f"{name} is {prompt[name]}, and the dataset has {number}")
    return problems


def _sums(prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a dataset that its prompts' add up to; None as in summary.json: enumerated, or nothing graded."""
    draws = [prompt["num_draws"] for prompt in prompts.values()]
    sums: dict[str, Any] = {"num_draws": None if None in draws else sum(draws)}
    for name in ("num_unique", "num_equivalent", "num_ungraded"):
        sums[name] = sum(prompt[name] for prompt in prompts.values())
    sums["num_graded"] = sums["num_unique"] - sums["num_ungraded"]
    sums["equivalence_rate"] = _share(sums["num_equivalent"], sums["num_graded"])
    masses = [prompt["covered_mass"] for prompt in prompts.values() if prompt["covered_mass"] is not None]
    sums["covered_mass"] = _share(math.fsum(masses), len(masses))
    return sums


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _is_close(found: Any, expected: Any) -> bool:
    if found is None or expected is None:
        return found is expected
    return isinstance(found, int | float) and math.isclose(found, expected, rel_tol=SHARE, abs_tol=SHARE)
