"""Verifies one dataset: every check in order, in one pass over its rows."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from datasets import Dataset

from evalgen.verification.assembly_check import check_assembly
from evalgen.verification.draw_checks import SampleChecks, check_draws, check_rejects, check_summary
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import (
    READ_ERRORS,
    check_functions,
    check_parquet,
    check_unique_ids,
    one_line,
    open_rows,
    rows_of,
)
from evalgen.verification.findings import Check, Finding, Findings
from evalgen.verification.model_checks import ModelCheck
from evalgen.verification.origin_checks import DigestChecks, OriginChecks, check_source, read_prompts
from evalgen.verification.prompt_checks import PromptChecks
from evalgen.verification.row_checks import RowChecks


def verify_dataset(
    evidence: Evidence, dtype: str = "fp32", recompute: bool = True, tolerance: float | None = None
) -> list[Finding]:
    """What every check has found. In memory are the rows of one prompt, and a few bytes of every other.

    Without `recompute` no model is loaded; it computes in `dtype`, and `tolerance` is that of `ModelCheck`.

    Raises:
        InputError: the checkpoint cannot be loaded.
    """
    findings = Findings()
    dataset = open_rows(evidence.directory, findings)
    if dataset is None:
        return findings.all()
    try:
        check_functions(evidence.directory, findings)
        check_parquet(dataset, evidence.directory, findings)
        check_unique_ids(dataset, findings)
        model = _model_check(evidence, dtype, recompute, tolerance, findings)
        _check_rows(evidence, dataset, model, findings)
    except READ_ERRORS as error:
        findings.fail(Check.SCHEMA, f"rows cannot be read: {one_line(error)}")
    return findings.all()


def _model_check(
    evidence: Evidence, dtype: str, recompute: bool, tolerance: float | None, findings: Findings
) -> ModelCheck | None:
    if not recompute:
        findings.skip(Check.MODEL, "--recompute false")
    elif evidence.checkpoint is None:
        findings.skip(Check.MODEL, evidence.no_checkpoint)
    else:
        return ModelCheck(evidence, dtype, findings, tolerance)
    return None


def _check_rows(evidence: Evidence, dataset: Dataset, model: ModelCheck | None, findings: Findings) -> None:
    prompts = read_prompts(evidence, findings)
    check_source(evidence, prompts, findings)
    row_checks, samples = RowChecks(evidence, findings), SampleChecks(evidence, findings)
    prompt_checks = PromptChecks(evidence, prompts, findings)
    origins, digests = OriginChecks(evidence, findings), DigestChecks(evidence, findings)
    for _, group in groupby(rows_of(dataset, findings), key=itemgetter("prompt_id")):
        rows = list(group)
        for row in rows:
            samples.add(row)
            origins.add(row)
            digests.add(row)
            if row_checks.check(row) and model is not None:
                model.add(row)
        prompt_checks.check(rows)
    if model is not None:
        model.done()
    rejected = check_rejects(evidence, dataset, (row_checks.check, samples.add, origins.add, digests.add), findings)
    left_out = check_draws(evidence, prompts, prompt_checks, rejected, findings)
    check_summary(evidence, prompts, prompt_checks, rejected, left_out, findings)
    check_assembly(evidence, dataset, prompts, findings)
    for done in (row_checks.done, prompt_checks.done, samples.done, origins.done, digests.done):
        done()
