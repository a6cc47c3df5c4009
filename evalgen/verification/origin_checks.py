"""A dataset against what it was made from: its run's prompts, and the tokenizer, weights and judge that rows name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evalgen.errors import EvalgenError, InputError
from evalgen.experiment import PROMPTS_FILE
from evalgen.grading.grader_digest import grader_digest
from evalgen.prompt_figures import PROMPTS_SCHEMA
from evalgen.regrading import graders_of
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from evalgen.tokenization import tokenizer_digest
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import READ_ERRORS, Row, one_line
from evalgen.verification.findings import Check, Findings

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


class DigestChecks:
    """Whether all rows name one tokenizer, one set of weights and one judge, and these are the ones at hand."""

    COLUMNS = {
        Check.TOKENIZER_DIGEST: "tokenizer_digest",
        Check.WEIGHTS_DIGEST: "weights_digest",
        Check.GRADER_DIGEST: "grader_digest",
    }

    def __init__(self, evidence: Evidence, findings: Findings) -> None:
        self._findings = findings
        self._expected: dict[Check, str] = {}
        for check, digest_of in (
            (Check.TOKENIZER_DIGEST, _tokenizer_digest),
            (Check.WEIGHTS_DIGEST, _weights_digest),
            (Check.GRADER_DIGEST, _grader_digest),
        ):
            try:
                self._expected[check] = digest_of(evidence)
            except (EvalgenError, OSError, KeyError, TypeError, ValueError) as error:
                findings.skip(check, one_line(error))

    def add(self, row: Row) -> None:
        for check, expected in self._expected.items():
            name = self.COLUMNS[check]
            if row[name] != expected and (row[name] or check != Check.WEIGHTS_DIGEST):
                self._findings.fail(check, f"{row[name]:.16}..., and what is at hand has {expected:.16}...", row["id"])
            elif not row[name]:
                self._findings.skip(check, "an older version did not note it")

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
    if evidence.experiment is None:
        raise InputError("the dataset does not lie in an experiment whose plan.json names the judge")
    return grader_digest(graders_of(evidence.experiment)[evidence.name])


def missing_prompts(directory: Path) -> set[str]:
    """Those that a partial dataset says it lacks."""
    try:
        rows = json.loads((directory / MISSING_FILE).read_text(encoding="utf-8"))
        return {row["prompt_id"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
