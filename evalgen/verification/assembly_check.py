"""A dataset against its own making: assembled once more from samples and verdicts, it is the same in every column."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from evalgen.assembly import AssembledDataset, assemble
from evalgen.dataset_files import REJECTS_FILE
from evalgen.errors import EvalgenError, InputError
from evalgen.experiment import Experiment
from evalgen.job import DatasetPlan
from evalgen.journal import read_journal
from evalgen.plan_file import PLAN_FILE, plan_record
from evalgen.provenance import Provenance
from evalgen.records import GraderSpec
from evalgen.sample_tables import SamplesByPrompt
from evalgen.samples import SAMPLES_SCHEMA, Sample, samples_of
from evalgen.unit_store import COLUMNS, LINES, UNITS_IN_MEMORY, StoredUnit
from evalgen.verdict_table import VERDICTS_FILE, VerdictTable
from evalgen.verification.draw_checks import JSON_FILE, LEFT_OUT_FILE
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import READ_ERRORS, Row, one_line, rejected_rows, rows_of
from evalgen.verification.findings import Check, Findings
from evalgen.verification.json_lists import json_list
from evalgen.verification.origin_checks import missing_prompts, planned_dataset

ROUNDING = 1e-9  # relative: float64 sums and exponentials of two machines
NEARLY_ZERO = 1e-12
# Checks of their own compare these, with what is noted and what is at hand.
DIGESTS = ("weights_digest", "tokenizer_digest", "grader_digest")
# What assembling samples and verdicts can raise that are not as a job stored them.
ASSEMBLY_ERRORS = (EvalgenError, *READ_ERRORS, ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


def check_assembly(
    evidence: Evidence, dataset: Dataset, prompts: Mapping[str, Mapping[str, Any]] | None, findings: Findings
) -> None:
    """Rows, rejects, left out and `prompts` (of prompts.parquet) are what samples and verdicts give, one by one.

    In memory is one prompt of them, with the few files of samples that were read last, and where verdicts are found.
    """
    try:
        parts = _Parts(evidence)
    except (InputError, FileNotFoundError) as error:
        return findings.skip(Check.ASSEMBLY, one_line(error))
    except ASSEMBLY_ERRORS as error:
        return findings.fail(Check.ASSEMBLY, f"what the dataset was made from cannot be read: {one_line(error)}")
    try:
        _compare(parts, _Lists(evidence.directory, dataset), evidence, prompts, findings)
    except ASSEMBLY_ERRORS as error:
        return findings.fail(Check.ASSEMBLY, f"cannot be assembled once more: {one_line(error)}")
    return findings.held(Check.ASSEMBLY, f"{len(parts.plan.queries):,} prompts, once more from samples and verdicts")


class _Parts:
    """What a job would write of a dataset, query by query. Nothing is written."""

    def __init__(self, evidence: Evidence) -> None:
        """
        Raises:
            InputError, FileNotFoundError: something is not there that it takes.
            JobStopped: verdicts are damaged.
        """
        self.plan, self._tokenizer = _plan_and_tokenizer(evidence)
        assert evidence.experiment is not None  # an origin is its experiment's
        self._units = _units_by_prompt(evidence.experiment, self.plan.name)
        verdicts = evidence.experiment.verdicts
        if not (verdicts / VERDICTS_FILE).is_file():
            raise InputError(f"{verdicts / VERDICTS_FILE} is not there")
        self._verdicts = VerdictTable.of_experiment(verdicts)
        self._samples = evidence.experiment.samples
        self._read = lru_cache(maxsize=UNITS_IN_MEMORY)(self._read_unit)

    def __iter__(self) -> Iterator[AssembledDataset]:
        unknown = Provenance(weights_digest="", tokenizer_digest="", grader_digest="")
        for query in self.plan.queries:
            plan = replace(self.plan, queries=(query,))
            yield assemble(plan, self._samples_of(query.id), self._verdicts, self._tokenizer, unknown)

    def _samples_of(self, prompt_id: str) -> list[Sample]:
        return [it for unit_id in self._units[prompt_id] for it in samples_of(self._read(unit_id).of(prompt_id))]

    def _read_unit(self, unit_id: str) -> SamplesByPrompt:
        file = pa.memory_map(str(self._samples / f"{unit_id}.parquet"))
        return SamplesByPrompt(pq.read_table(file, columns=COLUMNS, schema=SAMPLES_SCHEMA))


def _plan_and_tokenizer(evidence: Evidence) -> tuple[DatasetPlan, PreTrainedTokenizerBase]:
    """As the job had them; a judge is not connected to, and need not be reachable."""
    if evidence.experiment is None or evidence.origin is None:
        raise InputError(f"it cannot be assembled once more: {evidence.no_origin}")
    if evidence.tokenizer is None:
        raise InputError(evidence.no_tokenizer)
    origin, missing, planned = evidence.origin, missing_prompts(evidence.directory), planned_dataset(evidence)
    if "grader" not in planned:
        raise InputError(f"{PLAN_FILE} does not name the judge: an older version wrote it")
    # What a run is called depends on what else is beside it, which may have come later.
    run = (evidence.summary or {}).get("run", origin.checkpoint.run)
    plan = DatasetPlan(
        name=evidence.name,
        checkpoint=replace(origin.checkpoint, run=run),
        queries=origin.queries,
        grader=GraderSpec(**planned["grader"]),
        settings=origin.settings,
    )
    if plan_record([plan])[plan.name]["sha256"] != planned["sha256"]:
        raise InputError("the source has other prompts than when the job began")
    whole = tuple(query for query in plan.queries if query.id not in missing)
    return replace(plan, queries=whole), evidence.tokenizer


def _units_by_prompt(experiment: Experiment, name: str) -> Mapping[str, Sequence[str]]:
    """Which files of samples have something of a prompt: what two of them both have, assembly takes for one."""
    if not (experiment.samples / LINES).is_file():
        raise InputError(f"{experiment.samples / LINES} is not there")
    records, _ = read_journal(experiment.samples / LINES)
    units = {record["unit_id"]: StoredUnit.from_record(record) for record in records if record["dataset"] == name}
    of_prompt: dict[str, list[str]] = defaultdict(list)
    for unit_id, unit in units.items():
        if (experiment.samples / f"{unit_id}.parquet").exists():  # else it was put together with others
            for prompt_id in unit.ranges:
                of_prompt[prompt_id].append(unit_id)
    if not of_prompt:
        raise InputError(f"{experiment.samples} has no samples of {name}")
    return of_prompt


class _Lists:
    """The lists of a dataset, each read once from its first prompt to its last."""

    def __init__(self, directory: Path, dataset: Dataset) -> None:
        left_out = directory / LEFT_OUT_FILE
        unheard = Findings()  # other checks have told what is wrong with a row alone
        self._rows = {
            "rows": _by_prompt(rows_of(dataset, unheard)),
            "rejects": _by_prompt(rejected_rows(pq.ParquetFile(directory / REJECTS_FILE), unheard)),
            "non_equivalent": _by_prompt(json_list(directory / JSON_FILE)),
            "left_out": _by_prompt(json_list(left_out) if left_out.exists() else ()),
        }
        self._next = {name: next(groups, None) for name, groups in self._rows.items()}

    def take(self, name: str, prompt_id: str) -> list[Row]:
        """What the list has of a prompt; nothing where another one's turn is."""
        group = self._next[name]
        if group is None or group[0] != prompt_id:
            return []
        self._next[name] = next(self._rows[name], None)
        return group[1]

    def left_over(self) -> Iterator[tuple[str, str]]:
        """Names of lists with a prompt that was never taken, and its id."""
        return ((name, group[0]) for name, group in self._next.items() if group is not None)


def _by_prompt(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    return ((prompt_id, list(group)) for prompt_id, group in groupby(rows, key=lambda row: str(row["prompt_id"])))


def _compare(
    parts: _Parts,
    lists: _Lists,
    evidence: Evidence,
    prompts: Mapping[str, Mapping[str, Any]] | None,
    findings: Findings,
) -> None:
    equivalent, graded = [0.0], [0.0]
    for query, part in zip(parts.plan.queries, parts, strict=True):
        for name, expected in (
            ("rows", part.rows),
            ("rejects", part.rejects),
            ("non_equivalent", part.non_equivalent),
            ("left_out", part.left_out),
        ):
            _compare_lists(name, query.id, lists.take(name, query.id), expected, findings)
        if prompts is not None:
            if (found := prompts.get(query.id)) is None:
                findings.fail(Check.ASSEMBLY, "prompts.parquet lacks it", query.id)
            elif differing := _differing(found, asdict(part.prompts[0])):
                findings.fail(Check.ASSEMBLY, f"prompts.parquet has another {', '.join(differing)}", query.id)
        equivalent += [it.completion.prevalence for it in part.judged if it.verdict.kind == "equivalent"]
        graded += [it.completion.prevalence for it in part.judged if it.verdict.kind != "ungraded"]
    for name, prompt_id in lists.left_over():
        findings.fail(Check.ASSEMBLY, f"{name} have it where another prompt belongs, or too often", prompt_id)
    # Of an enumerated set no other check knows it.
    rate = math.fsum(equivalent) / math.fsum(graded) if any(graded) else None
    if evidence.summary is not None and not _is_same(evidence.summary.get("draw_equivalence_rate"), rate):
        found_rate = evidence.summary.get("draw_equivalence_rate")
        findings.fail(Check.ASSEMBLY, f"draw_equivalence_rate is {found_rate} in summary.json, expected {rate}")


def _compare_lists(
    name: str, prompt_id: str, found: Sequence[Row], expected: Sequence[Row], findings: Findings
) -> None:
    if len(found) != len(expected):
        findings.fail(Check.ASSEMBLY, f"{len(found)} {name}, expected {len(expected)}", prompt_id)
        return
    for here, there in zip(found, expected, strict=True):
        if differing := _differing(here, there):
            row_id = here.get("id", f"{prompt_id}_gen_{here.get('generation_idx')}")
            findings.fail(Check.ASSEMBLY, f"{name}: {', '.join(differing)} should be other", row_id)


def _differing(found: Row, expected: Row) -> list[str]:
    """Names of what the two do not have alike."""
    names = [name for name in expected.keys() | found.keys() if name not in DIGESTS]
    return sorted(n for n in names if n not in found or n not in expected or not _is_same(found[n], expected[n]))


def _is_same(found: Any, expected: Any) -> bool:
    """Numbers up to rounding."""
    if found == expected:
        return True
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_is_same, found, expected))
    if isinstance(found, int | float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=ROUNDING, abs_tol=NEARLY_ZERO)
    return False
