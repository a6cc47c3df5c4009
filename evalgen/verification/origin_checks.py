"""A dataset against what it was made from: its run's prompts, and the run, tokenizer, weights and judge of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evalgen.dataset_files import PROMPTS_FILE
from evalgen.errors import EvalgenError, InputError
from evalgen.plan_file import PLAN_FILE
from evalgen.prompt_figures import PROMPTS_SCHEMA
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from evalgen.tokenization import tokenizer_digest
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import READ_ERRORS, Row, one_line
from evalgen.verification.findings import Check, Findings
from evalgen.verification.possible_figures import impossible_figures

MISSING_FILE = "missing.json"
NEVER_NULL = (
    *("prompt_id", "prompt", "reference_completion"),
    *("num_unique", "num_equivalent", "num_not_equivalent", "num_ungraded", "num_variations"),
)


def read_prompts(evidence: Evidence, findings: Findings) -> dict[str, dict[str, Any]] | None:
    """The rows of prompts.parquet by prompt id, in order; None: there is none that could be read."""
    path = evidence.directory / PROMPTS_FILE
    try:
        table = pq.read_table(path)
        if "greedy_draws" not in table.column_names:  # of an older version
            table = table.append_column("greedy_draws", pa.nulls(len(table), pa.int64()))
        if table.schema.remove_metadata() != PROMPTS_SCHEMA:
            findings.fail(Check.PROMPTS, f"{path.name} has other columns: {table.schema.names}")
            return None
        if empty := [name for name in NEVER_NULL if table[name].null_count]:
            findings.fail(Check.PROMPTS, f"{path.name} has nulls in {', '.join(empty)}")
            return None
        rows = table.to_pylist()
    except READ_ERRORS as error:
        findings.fail(Check.PROMPTS, f"{path} cannot be read: {one_line(error)}")
        return None
    prompts = {row["prompt_id"]: row for row in rows}
    if len(prompts) < len(rows):
        findings.fail(Check.PROMPTS, f"{path.name} has {len(rows)} rows and {len(prompts)} prompt ids")
    for prompt_id, prompt in prompts.items():
        for problem in impossible_figures(prompt):
            findings.fail(Check.PROMPTS, problem, prompt_id)
    return prompts


def check_source(evidence: Evidence, prompts: Mapping[str, Any] | None, findings: Findings) -> None:
    """prompts.parquet has the queries of the run's own eval sets and query file, in their order; none is invented."""
    if evidence.origin is None:
        return findings.skip(Check.SOURCE, f"the source's prompts are not known: {evidence.no_origin}")
    if prompts is None:
        return findings.skip(Check.SOURCE, f"there is no {PROMPTS_FILE} to compare")
    missing = missing_prompts(evidence.directory)
    expected = [query for query in evidence.origin.queries if query.id not in missing]
    for query in expected:
        row = prompts.get(query.id)
        if row is None:
            findings.fail(Check.SOURCE, "the source has this prompt, the dataset does not say so", query.id)
        elif (row["prompt"], row["reference_completion"]) != (query.prompt, query.reference):
            findings.fail(Check.SOURCE, "the source has another text, or another reference", query.id)
    known = {query.id for query in expected}
    for prompt_id in prompts:
        if prompt_id not in known:
            findings.fail(Check.SOURCE, "the source has no such prompt", prompt_id)
    if not findings.failed(Check.SOURCE) and [query.id for query in expected] != list(prompts):
        findings.fail(Check.SOURCE, "prompts stand in another order than in the source")
    return findings.held(Check.SOURCE, f"{len(expected):,} prompts of {evidence.origin.settings.data_model_path}")


class OriginChecks:
    """Whether all rows, rejects among them, name one run, checkpoint and judge, those of the experiment if known."""

    def __init__(self, evidence: Evidence, findings: Findings) -> None:
        self._findings = findings
        self._expected: dict[str, Any] = {}  # by column; what nothing tells, the first row does
        if evidence.summary is not None:
            self._expected |= {name: evidence.summary.get(name) for name in ("run", "checkpoint")}
        if evidence.outdated:
            findings.skip(Check.ORIGIN, evidence.outdated)
        with suppress(EvalgenError, OSError, KeyError, TypeError, ValueError):
            self._expected["grader_model"] = planned_dataset(evidence)["grader"]["model"]
        self._told_by = "summary.json and plan.json" if len(self._expected) == 3 else "the first row, or what there is"

    def add(self, row: Row, what: str = "") -> None:
        for name in ("run", "checkpoint", "grader_model"):
            if row[name] != self._expected.setdefault(name, row[name]):
                problem = f"{name} is {row[name]!r:.60}, expected {self._expected[name]!r:.60}"
                self._findings.fail(Check.ORIGIN, problem, f"{what}{row['id']}")

    def done(self) -> None:
        self._findings.held(Check.ORIGIN, f"run, checkpoint and grader_model, by {self._told_by}")


class DigestChecks:
    """Whether all rows name one tokenizer, one set of weights and one judge, and these are the ones at hand.

    Of what is not at hand, that all rows name the same as the first.
    """

    COLUMNS = {
        Check.TOKENIZER_DIGEST: "tokenizer_digest",
        Check.WEIGHTS_DIGEST: "weights_digest",
        Check.GRADER_DIGEST: "grader_digest",
    }

    def __init__(self, evidence: Evidence, findings: Findings) -> None:
        self._findings = findings
        self._expected: dict[Check, str] = {}
        self._first: dict[Check, str] = {}  # what a row said of that which is not at hand
        for check, digest_of in (
            (Check.TOKENIZER_DIGEST, _tokenizer_digest),
            (Check.WEIGHTS_DIGEST, _weights_digest),
            (Check.GRADER_DIGEST, _grader_digest),
        ):
            try:
                self._expected[check] = digest_of(evidence)
            except (EvalgenError, OSError, KeyError, TypeError, ValueError) as error:
                findings.skip(check, one_line(error))

    def add(self, row: Row, what: str = "") -> None:
        row_id = f"{what}{row['id']}"
        for check, expected in self._expected.items():
            name = self.COLUMNS[check]
            if row[name] != expected and (row[name] or check != Check.WEIGHTS_DIGEST):
                self._findings.fail(check, f"{row[name]:.16}..., and what is at hand has {expected:.16}...", row_id)
            elif not row[name]:
                self._findings.skip(check, "an older version did not note it")
        for check in self.COLUMNS.keys() - self._expected.keys():
            digest = row[self.COLUMNS[check]]
            if digest != self._first.setdefault(check, digest):
                self._findings.fail(check, f"{digest:.16}..., and other rows have {self._first[check]:.16}...", row_id)

    def done(self) -> None:
        for check, expected in self._expected.items():
            self._findings.held(check, f"{expected:.16}...")


def _tokenizer_digest(evidence: Evidence) -> str:
    if evidence.tokenizer is None:
        raise InputError(evidence.no_tokenizer)
    return tokenizer_digest(evidence.tokenizer)


def _weights_digest(evidence: Evidence) -> str:
    if evidence.checkpoint is None:
        raise InputError(evidence.no_checkpoint)
    digest = WeightsDigest(weight_files(evidence.checkpoint.path)).result()
    if not digest:
        raise InputError(f"{evidence.checkpoint.path} has no *.safetensors files")
    return digest


def _grader_digest(evidence: Evidence) -> str:
    # As the job computed it: it depends on the code too, which may have changed since.
    digest: str | None = planned_dataset(evidence).get("grader_digest")
    if digest is None:
        raise InputError(f"{PLAN_FILE} does not note it: an older version wrote it")
    return digest


def planned_dataset(evidence: Evidence) -> dict[str, Any]:
    """The dataset's entry in plan.json.

    Raises:
        InputError: there is none, or it may be of another dataset.
        OSError, KeyError, TypeError, ValueError: plan.json is no plan.
    """
    if evidence.experiment is None:
        raise InputError(f"the dataset does not lie in an experiment whose {PLAN_FILE} names the judge")
    if evidence.outdated:
        raise InputError(evidence.outdated)
    plan = json.loads((evidence.experiment.directory / PLAN_FILE).read_text(encoding="utf-8"))
    if evidence.name not in plan:
        raise InputError(f"{PLAN_FILE} has no dataset {evidence.name}")
    planned: dict[str, Any] = plan[evidence.name]
    return planned


def missing_prompts(directory: Path) -> set[str]:
    """Those that a partial dataset says it lacks."""
    try:
        rows = json.loads((directory / MISSING_FILE).read_text(encoding="utf-8"))
        return {row["prompt_id"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
