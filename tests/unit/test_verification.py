"""A dataset that was really sampled passes every check; one that a forger or a bug has touched fails the right one."""

from __future__ import annotations

import json
import shutil
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from evalgen.assembly import assemble
from evalgen.dataset_files import REJECTS_FILE
from evalgen.errors import InputError
from evalgen.experiment import Experiment
from evalgen.provenance import Provenance
from evalgen.records import Query, Verdict
from evalgen.samples import Sample
from evalgen.tokenization import cut_drawn_ids
from evalgen.verification.dataset import verify_dataset
from evalgen.verification.evidence import dataset_directories, gather
from evalgen.verification.findings import Check, Finding, Findings
from evalgen.verification.prompt_checks import PromptChecks
from tests.unit.sampled_experiment import sampled_experiment
from tests.unit.tampering import (
    MAY_FAIL_TOO,
    TAMPERINGS,
    Rows,
    Touched,
    another_logprob_in_json_alone,
    arrow_cut_short,
    draws_that_never_were,
    entropies_swapped,
    forbidden_column,
    in_every_row,
    masses_above_their_wholes,
    narrower_type,
    rejects_of_another_run,
    rejects_of_other_digests,
    whole_drawn,
)
from tests.unit.tiny import INNER_RUN, plan_of, save_source_dataset, source_rows


@pytest.fixture(scope="module")
def sampled(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return sampled_experiment(tiny_run, tmp_path_factory.mktemp("sampled"))


@pytest.fixture
def touched(sampled: Experiment, tmp_path: Path) -> Touched:
    shutil.copytree(sampled.directory, tmp_path / "experiment")
    return Touched(Experiment(tmp_path / "experiment"))


def failed(findings: Iterable[Finding]) -> dict[Check, str]:
    return {finding.check: finding.note for finding in findings if finding.outcome == "failed"}


def skipped(findings: Iterable[Finding]) -> dict[Check, str]:
    return {finding.check: finding.note for finding in findings if finding.outcome == "skipped"}


def test_the_experiment_has_what_makes_a_dataset_hard(sampled: Experiment) -> None:
    touched = Touched(sampled)
    rows = touched.rows()
    assert any(row["is_prefix_of"] for row in rows) and any(not row["tokens_as_drawn"] for row in rows)
    assert any(row["completion"] != row["raw_completion"] for row in rows) and whole_drawn(rows)
    assert json.loads((touched.directory / "left_out.json").read_text(encoding="utf-8"))
    assert pq.read_metadata(touched.directory / REJECTS_FILE).num_rows > 1


def test_everything_holds_of_a_dataset_that_was_really_sampled(sampled: Experiment) -> None:
    findings = Touched(sampled).findings()
    assert [finding for finding in findings if finding.outcome != "ok"] == []
    assert [finding.check for finding in findings] == list(Check)


@pytest.mark.parametrize(
    "settings",
    [
        {"deduplicate": "false"},
        {"exclusive": "true"},
        {"do_sample": "false"},
        {"sampler": "enumerate", "min_probability": "0.01"},
        {"stop_strings": '["\\n"]', "max_new_tokens": "20"},
        {"num_generations": "1", "temperature": "0.1", "grader_model": "offline/date"},
    ],
    ids=str,
)
def test_everything_holds_however_a_dataset_is_sampled_and_put_together(
    settings: dict[str, str], tiny_run: Path, tmp_path: Path
) -> None:
    findings = Touched(sampled_experiment(tiny_run, tmp_path, **settings)).findings()
    assert [finding for finding in findings if finding.outcome != "ok"] == []


def test_a_set_sampled_in_bf16_is_held_to_what_bf16_rounds_and_says_so(tiny_run: Path, tmp_path: Path) -> None:
    touched = Touched(sampled_experiment(tiny_run, tmp_path, dtype="bf16"))
    findings = touched.findings()
    assert failed(findings) == {}
    note = {finding.check: finding.note for finding in findings}[Check.MODEL]
    assert "fp32 against samples in bf16" in note and "0.25 a row and 0.125 a token" in note
    exact = verify_dataset(gather(touched.directory), tolerance=1e-4)
    assert failed(exact).keys() == {Check.MODEL}, "bf16 rounds more than fp32"


@pytest.mark.parametrize(("tamper", "expected"), TAMPERINGS, ids=lambda it: getattr(it, "__name__", ""))
def test_what_a_forger_or_a_bug_changes_fails_the_right_check(
    tamper: Callable[[Touched], None], expected: set[Check], touched: Touched
) -> None:
    tamper(touched)
    found = failed(touched.findings())
    assert found.keys() - MAY_FAIL_TOO.get(tamper, set()) == expected, found


@pytest.mark.parametrize("tamper", [forbidden_column, narrower_type, arrow_cut_short], ids=lambda it: it.__name__)
def test_checks_that_were_not_reached_are_not_said_to_hold(tamper: Callable[[Touched], None], touched: Touched) -> None:
    tamper(touched)
    findings = touched.findings()
    assert {finding.outcome for finding in findings if finding.check != Check.SCHEMA} == {"skipped"}
    assert all("not reached" in note for note in skipped(findings).values())


def _another_text_in_the_source(run: Path, rows: Rows) -> None:
    save_source_dataset(
        run / "all_docs_runs" / INNER_RUN / "eval_datasets" / "name_mayor_eval_qa_1_no_fs",
        [row | {"prompt": row["prompt"].replace("mayor", "mayor, please,")} for row in rows],
    )


def _other_weights(run: Path, rows: Rows) -> None:
    path = run / "all_docs_runs" / INNER_RUN / "checkpoint_final" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] *= 1.01
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_another_text_in_the_source, {Check.SOURCE}),
        (_other_weights, {Check.WEIGHTS_DIGEST, Check.MODEL}),
    ],
)
def test_what_changed_at_the_source_fails(
    change: Callable[[Path, Rows], None], expected: set[Check], tiny_run: Path, tokenizer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "2026_01_20_23-26-34_2Q653_mayors"
    shutil.copytree(tiny_run, run)
    touched = Touched(sampled_experiment(run, tmp_path / "outputs", num_generations=20))
    change(run, source_rows(tokenizer))
    assert failed(touched.findings()).keys() == expected


def test_a_run_that_is_gone_leaves_checks_out_and_says_which(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "2026_01_20_23-26-34_2Q653_mayors"
    shutil.copytree(tiny_run, run)
    touched = Touched(sampled_experiment(run, tmp_path / "outputs", num_generations=20))
    shutil.rmtree(run)
    findings = touched.findings()
    assert failed(findings) == {}
    of_run = {Check.SOURCE, Check.TOKENIZER_DIGEST, Check.WEIGHTS_DIGEST, Check.MODEL}
    of_run |= {Check.PROMPT_TOKENS, Check.COMPLETION, Check.TRIMMING, Check.EOS, Check.ASSEMBLY}
    assert skipped(findings).keys() == of_run
    assert all("is not there any more" in note for note in skipped(findings).values())
    notes = {finding.check: finding.note for finding in findings}
    assert "were not, without tokenizer" in notes[Check.WEIGHTS]
    assert "was not, without tokenizer" in notes[Check.PREFIXES]
    given = touched.findings(checkpoint=str(tiny_run / "all_docs_runs" / INNER_RUN / "checkpoint_final"))
    assert failed(given) == {} and skipped(given).keys() == {Check.SOURCE, Check.ASSEMBLY}


def test_a_dataset_that_was_copied_out_of_its_experiment_is_checked_by_what_it_has(
    sampled: Experiment, tmp_path: Path
) -> None:
    shutil.copytree(Touched(sampled).directory, tmp_path / "copy")
    findings = verify_dataset(gather(tmp_path / "copy"))
    assert failed(findings) == {}
    of_experiment = {Check.SAMPLES, Check.SUMMARY, Check.GRADER_DIGEST, Check.SOURCE, Check.ASSEMBLY}
    assert of_experiment < skipped(findings).keys()
    holding = {it.check for it in findings if it.outcome == "ok"}
    assert {Check.ORIGIN, Check.WEIGHTS, Check.DRAWS, Check.REJECTS} <= holding


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (entropies_swapped, {Check.PROMPTS}),
        (masses_above_their_wholes, {Check.PROMPTS}),
        (draws_that_never_were, {Check.IDS}),
        (rejects_of_another_run, {Check.ORIGIN}),
        (rejects_of_other_digests, {Check.TOKENIZER_DIGEST, Check.WEIGHTS_DIGEST, Check.GRADER_DIGEST}),
        (another_logprob_in_json_alone, {Check.REJECTS}),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_what_contradicts_itself_fails_without_an_experiment_too(
    tamper: Callable[[Touched], None], expected: set[Check], touched: Touched, tmp_path: Path
) -> None:
    tamper(touched)
    shutil.copytree(touched.directory, tmp_path / "copy")
    assert failed(verify_dataset(gather(tmp_path / "copy"))).keys() == expected


def test_verification_writes_nothing_into_the_experiment(touched: Touched) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        files = sorted(touched.experiment.directory.rglob("*"))
        return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in files}

    before = state()
    assert verify_dataset(gather(touched.directory), recompute=False)
    assert state() == before


def test_an_experiment_without_what_made_its_datasets_leaves_the_assembly_out(touched: Touched) -> None:
    def assembly() -> Finding:
        findings = verify_dataset(gather(touched.directory), recompute=False)
        return next(finding for finding in findings if finding.check == Check.ASSEMBLY)

    verdicts = touched.experiment.verdicts / "0000.parquet"
    content = verdicts.read_bytes()
    verdicts.write_bytes(content[:-1])
    assert assembly().outcome == "failed" and "damaged" in assembly().note
    verdicts.unlink()
    assert assembly().outcome == "skipped" and "0000.parquet is not there" in assembly().note
    verdicts.write_bytes(content)
    assert assembly().outcome == "ok"
    (touched.experiment.samples / "units.jsonl").unlink()
    assert assembly().outcome == "skipped" and "units.jsonl is not there" in assembly().note


def test_the_judge_is_the_one_that_plan_json_notes_whatever_the_code_says_today(touched: Touched) -> None:
    path = touched.experiment.directory / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    (planned,) = plan.values()

    def outcome() -> str:
        path.write_text(json.dumps(plan), encoding="utf-8")
        findings = verify_dataset(gather(touched.directory), recompute=False)
        return next(finding.outcome for finding in findings if finding.check == Check.GRADER_DIGEST)

    planned["grader_digest"] = "0" * 64
    assert outcome() == "failed"
    touched.change_rows(in_every_row(grader_digest="0" * 64))
    touched.change_table(touched.directory / REJECTS_FILE, in_every_row(grader_digest="0" * 64))
    assert outcome() == "ok"
    del planned["grader_digest"]
    assert outcome() == "skipped"


def test_of_equally_frequent_draws_job_and_verification_take_the_first_drawn(
    tokenizer: PreTrainedTokenizerBase, sampled: Experiment
) -> None:
    """None of whose ids end with the kept text. Another completion was drawn before, but by other ids."""
    whole = " Grace Miller"
    kept = whole[:4]

    def drawn(text: str, cut: int, draws: list[int], logprob: float) -> Sample:
        """Encoded in two parts."""
        parts = (text[:cut], text[cut:])
        ids = tuple(token for part in parts for token in tokenizer.encode(part, add_special_tokens=False))
        return Sample(
            prompt_id="q",
            completion=text,
            token_ids=ids,
            token_logprobs=(logprob,) * len(ids),
            logprob=logprob * len(ids),
            logprob_sampling=logprob * len(ids),
            token_logprobs_sampling=(logprob,) * len(ids),
            generation_indices=array("i", draws),
            finish_reason="length",
            is_greedy=False,
        )

    samples = [drawn(whole, 0, [0], -1.0), drawn(whole, 11, [3, 4], -2.0), drawn(whole + "!", 0, [1, 2], -3.0)]
    assert len({sample.token_ids for sample in samples}) == 3
    assert all(cut_drawn_ids(tokenizer, sample.token_ids, kept) is None for sample in samples)
    query = Query(id="q", prompt="Q: A:", reference=whole, source_dataset="")
    plan = plan_of([query], deduplicate=False, num_generations=6)
    cut = Verdict(kind="equivalent", trimmed_completion=kept)
    verdicts = {plan.question(query, text).key: cut for text in (whole, whole + "!")}
    verdicts[plan.question(query, " x").key] = Verdict(kind="equivalent")  # its share shows what the others weigh
    provenance = Provenance(weights_digest="", tokenizer_digest="", grader_digest="")
    rows = assemble(plan, [*samples, drawn(" x", 0, [5], -1.5)], verdicts, tokenizer, provenance).rows
    assert [row["tokens_as_drawn"] for row in rows] == [False] * 5 + [True]
    findings = Findings()
    PromptChecks(replace(gather(Touched(sampled).directory), origin=None), None, findings).check(rows)
    assert failed(findings.all()) == {}


def test_another_tokenizer_than_the_rows_name_is_found(sampled: Experiment, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:-20]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = failed(Touched(sampled).findings(tokenizer=str(tmp_path / "other")))
    assert Check.TOKENIZER_DIGEST in found and Check.PROMPT_TOKENS in found


def test_without_recomputing_no_model_is_loaded_and_it_says_so(sampled: Experiment) -> None:
    directory = Touched(sampled).directory
    assert skipped(verify_dataset(gather(directory), recompute=False)) == {Check.MODEL: "--recompute false"}


def test_a_dataset_without_rows_holds(tiny_run: Path, tmp_path: Path) -> None:
    query = {"id": "q", "prompt": "Q: Who is the mayor of Tokyo? A:", "original_completion": " 日本"}
    (tmp_path / "queries.json").write_text(json.dumps([query]), encoding="utf-8")
    flags = {"query_json_path": tmp_path / "queries.json", "extract_from_eval_datasets": "[]"}
    touched = Touched(sampled_experiment(tiny_run, tmp_path / "outputs", **flags))
    assert touched.rows() == [] and pq.read_metadata(touched.directory / REJECTS_FILE).num_rows > 0
    assert [finding for finding in touched.findings() if finding.outcome != "ok"] == []


def test_a_directory_that_is_no_dataset_or_a_checkpoint_that_is_none_is_an_input_error(
    sampled: Experiment, tiny_run: Path, tmp_path: Path
) -> None:
    directory = Touched(sampled).directory
    assert dataset_directories(sampled.directory) == dataset_directories(directory) == [directory]
    for path in (tmp_path, tmp_path / "nowhere", tiny_run):
        with pytest.raises(InputError, match="neither a dataset"):
            dataset_directories(path)
    with pytest.raises(InputError, match="tokenizer"):
        gather(directory, tokenizer=str(tmp_path))
    with pytest.raises(InputError, match="no checkpoints"):
        gather(directory, checkpoint=str(tmp_path))
