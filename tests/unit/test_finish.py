"""From stores to datasets: the same files whatever happened on the way, and nothing that is missing is hidden."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.dataset_files import CALIBRATION_FILE, CARD_FILE
from evalgen.errors import JobStopped
from evalgen.eval_dataset import EvalDataset
from evalgen.experiment import Experiment
from evalgen.files import write_json
from evalgen.finish import DAMAGED, write_datasets
from evalgen.grading.calibration import Calibration, JudgedItem, calibration_record
from evalgen.grading.grader_digest import grader_digest
from evalgen.grading.labelled_items import LabelledItem
from evalgen.job import DatasetPlan
from evalgen.records import GraderSpec, Verdict
from evalgen.samples import SAMPLES_SCHEMA
from evalgen.statistics import DatasetStatistics
from evalgen.tables import print_results
from evalgen.timings import Timings
from evalgen.tokenization import load_tokenizer, tokenizer_digest
from evalgen.unit_store import UnitStore
from evalgen.units import plan_units
from evalgen.verdict_store import VerdictStore
from tests.benchmarks.scale_stores import COST, SampleRule, ScaleJob, grade, sample
from tests.unit.test_eval_dataset import files_of
from tests.unit.test_regrading import all_of, judge
from tests.unit.test_unit_store import damage

NUM_PROMPTS, NUM_DRAWS, NUM_DISTINCT = 9, 40, 23


def begun(directory: Path) -> tuple[Experiment, DatasetPlan]:
    job = ScaleJob(directory, NUM_PROMPTS)
    job.begin()
    return job.experiment, with_draws(job.plan, NUM_DRAWS)


def with_draws(plan: DatasetPlan, num_generations: int) -> DatasetPlan:
    return replace(plan, settings=plan.settings.model_copy(update={"num_generations": num_generations}))


def finish(experiment: Experiment, plan: DatasetPlan, missing: Any = None) -> DatasetStatistics:
    """All that is left to do of a job; with `missing` prompts, but for sampling."""
    if missing is None:
        sample(experiment, plan, num_replicas=8, num_distinct=NUM_DISTINCT)
    grade(experiment, plan).close()
    (figures,), prompts = write_datasets(experiment, [plan], missing or {}, Timings())
    assert len(prompts) == figures.num_prompts - figures.num_missing_prompts
    return figures


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment, plan = begun(tmp_path_factory.mktemp("undisturbed") / "e")
    figures = finish(experiment, plan)
    assert (figures.num_draws, figures.num_unique) == (NUM_PROMPTS * NUM_DRAWS, NUM_PROMPTS * NUM_DISTINCT)
    assert figures.num_items == NUM_PROMPTS and figures.num_missing_prompts == 0
    return experiment.directory


def check_same(experiment: Experiment, undisturbed: Path) -> None:
    assert files_of(experiment.datasets) == files_of(Experiment(undisturbed).datasets)


@pytest.mark.parametrize("num_replicas", [1, 3, 50])
@pytest.mark.parametrize("order", [1, -1])
def test_datasets_are_the_same_files_however_units_were_cut_and_in_whatever_order_they_came(
    num_replicas: int, order: int, tmp_path: Path, undisturbed: Path
) -> None:
    experiment, plan = begun(tmp_path / "e")
    store, rule = UnitStore(experiment.samples), SampleRule(_tokenizer(plan), NUM_DISTINCT)
    some = with_draws(plan, 17)
    for unit in (*plan_units([some], 2), *plan_units([plan], num_replicas, {plan.name: _first(some, 17)}))[::order]:
        store.save(unit, rule.samples(unit), COST)
    assert finish(experiment, plan).num_draws == NUM_PROMPTS * NUM_DRAWS
    check_same(experiment, undisturbed)


def test_a_raised_number_of_generations_samples_the_new_draws_only(tmp_path: Path, undisturbed: Path) -> None:
    experiment, plan = begun(tmp_path / "e")
    finish(experiment, with_draws(plan, 15))
    assert sample(experiment, plan, 2, NUM_DISTINCT) == NUM_PROMPTS * (NUM_DRAWS - 15)
    finish(experiment, plan)
    check_same(experiment, undisturbed)
    assert sample(experiment, plan, 2, NUM_DISTINCT) == 0


def test_a_greedy_completion_that_no_draw_gave_is_paid_for_and_counts_nowhere_else(tmp_path: Path) -> None:
    experiment, plan = begun(tmp_path / "e")
    store, rule = UnitStore(experiment.samples), SampleRule(_tokenizer(plan), NUM_DISTINCT)
    for unit in plan_units([plan], 2):
        rows = rule.samples(unit).to_pylist()
        undrawn = {"completion": " Nobody", "sample_count": 0, "generation_indices": [], "is_greedy": True}
        greedy = {row["prompt_id"]: row | undrawn | {"token_ids": [9, *row["token_ids"][1:]]} for row in rows}
        store.save(unit, pa.Table.from_pylist([*rows, *greedy.values()], schema=SAMPLES_SCHEMA), COST)
    judge(experiment, plan, lambda query, text: Verdict(kind="not_equivalent", api_calls=1, cost_usd=0.5))
    (figures,), _ = write_datasets(experiment, [plan], {}, Timings())
    assert figures.num_unique == figures.num_graded == NUM_PROMPTS * NUM_DISTINCT
    assert figures.num_draws == NUM_PROMPTS * NUM_DRAWS
    assert figures.api_calls == NUM_PROMPTS * (NUM_DISTINCT + 1) and figures.cost_usd == 0.5 * figures.api_calls
    (path,) = experiment.datasets.iterdir()
    prompts = pq.read_table(path / "prompts.parquet").to_pylist()
    assert {(it["greedy_completion"], it["greedy_verdict"], it["greedy_draws"]) for it in prompts} == {
        (" Nobody", "not_equivalent", 0)
    }


def test_another_grader_changes_verdicts_and_no_sample(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    before = files_of(experiment.samples)
    other = replace(plan, grader=GraderSpec(model="offline/person_name", instructions="other"))
    figures = finish(experiment, other)
    assert files_of(experiment.samples) == before
    (path,) = experiment.datasets.iterdir()
    assert set(EvalDataset.load(path).dataset["grader_model"]) == {"offline/person_name"} and figures.num_items
    finish(experiment, plan)
    check_same(experiment, undisturbed)


def test_a_calibration_stays_with_its_dataset_until_another_grader_judges_it(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    (path,) = experiment.datasets.iterdir()
    item = LabelledItem(prompt="p", reference="r", completion="r", equivalent=True, case="plain", line=1)
    calibration = Calibration(judged=(JudgedItem(item=item, verdict=Verdict(kind="equivalent")),))
    at = datetime(2026, 1, 21, tzinfo=UTC)
    record = calibration_record(calibration, plan.grader, labelled_file="x.jsonl", labelled_file_sha256="0" * 64, at=at)
    write_json(path / CALIBRATION_FILE, record)
    finish(experiment, plan)
    assert json.loads((path / CALIBRATION_FILE).read_text()) == record
    assert "x.jsonl" in (path / CARD_FILE).read_text()
    finish(experiment, replace(plan, grader=GraderSpec(model="offline/person_name", instructions="other")))
    assert not (path / CALIBRATION_FILE).exists() and "x.jsonl" not in (path / CARD_FILE).read_text()


@settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_job_that_goes_on_after_damage_to_any_stored_file_makes_the_same_datasets(
    data: st.DataObject, undisturbed: Path, tmp_path: Path
) -> None:
    """A bit flipped, or the file cut, in samples or verdicts; of a job that had ended, or was killed while judging."""
    experiment = Experiment(tmp_path / "e")
    shutil.rmtree(experiment.directory, ignore_errors=True)
    shutil.copytree(undisturbed, experiment.directory)
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    if data.draw(st.booleans()):
        VerdictStore(experiment.verdicts)  # its journal is there again
    damage(data.draw(st.sampled_from(sorted([*experiment.samples.iterdir(), *experiment.verdicts.iterdir()]))), data)
    finish(experiment, plan)
    check_same(experiment, undisturbed)


def test_missing_prompts_are_named_and_the_dataset_is_partial_until_it_is_whole(
    tmp_path: Path, undisturbed: Path
) -> None:
    experiment, plan = begun(tmp_path / "e")
    sampled = replace(plan, queries=plan.queries[:4] + plan.queries[5:])
    sample(experiment, sampled, 1, NUM_DISTINCT)
    sample(experiment, replace(with_draws(plan, 10), queries=plan.queries[4:5]), 1, NUM_DISTINCT)
    figures = finish(experiment, plan, {plan.name: {"q4": "CUDA error", "q0": "lost"}})
    assert (figures.num_prompts, figures.num_missing_prompts) == (NUM_PROMPTS, 2)
    assert figures.num_draws == (NUM_PROMPTS - 2) * NUM_DRAWS
    (path,) = experiment.datasets.iterdir()
    assert path.name == f"{plan.name}.partial"
    assert json.loads((path / "missing.json").read_text()) == [
        {"prompt_id": "q0", "prompt": plan.queries[0].prompt, "reason": "lost"},
        {"prompt_id": "q4", "prompt": plan.queries[4].prompt, "reason": "CUDA error"},
    ]
    assert set(EvalDataset.load(path).dataset["prompt_id"]) == {f"q{n}" for n in (1, 2, 3, 5, 6, 7, 8)}
    finish(experiment, plan)
    check_same(experiment, undisturbed)


def test_who_resumes_a_whole_job_into_a_partial_one_is_told_where_the_whole_dataset_is(
    tmp_path: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    before = files_of(experiment.datasets / plan.name)
    figures = finish(experiment, plan, {plan.name: {"q3": "lost"}})
    kept = experiment.earlier_datasets / plan.name
    assert files_of(kept) == before
    assert [path.name for path in experiment.datasets.iterdir()] == [f"{plan.name}.partial"]
    assert any(record.getMessage().endswith(f"is kept in {kept}") for record in caplog.records)
    print_results(experiment, [figures], Timings())
    assert f"Older ones that are whole: {experiment.earlier_datasets}\n" in capsys.readouterr().out
    finish(experiment, plan)
    check_same(experiment, undisturbed)
    print_results(experiment, [figures], Timings())
    assert "Older ones" not in capsys.readouterr().out


def test_all_prompts_may_be_missing(tmp_path: Path) -> None:
    experiment, plan = begun(tmp_path / "e")
    figures = finish(experiment, plan, {plan.name: {query.id: "lost" for query in plan.queries}})
    assert (figures.num_missing_prompts, figures.num_draws, figures.num_items) == (NUM_PROMPTS, 0, 0)
    assert len(EvalDataset.load(experiment.datasets / f"{plan.name}.partial").dataset) == 0


def test_samples_that_are_damaged_before_assembly_make_their_prompts_missing(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    path = sorted(experiment.samples.glob("*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    (figures,), _ = write_datasets(experiment, [plan], {}, Timings())
    assert 0 < figures.num_missing_prompts < NUM_PROMPTS
    rows = json.loads((experiment.datasets / f"{plan.name}.partial" / "missing.json").read_text())
    assert {row["reason"] for row in rows} == {DAMAGED} and len(rows) == figures.num_missing_prompts


def test_more_draws_than_are_wanted_are_a_bug(tmp_path: Path, undisturbed: Path) -> None:
    plan = ScaleJob(undisturbed, NUM_PROMPTS).plan
    with pytest.raises(AssertionError, match="'q0' has draws"):
        write_datasets(Experiment(undisturbed), [with_draws(plan, NUM_DRAWS - 1)], {}, Timings())


def test_a_verdict_that_is_missing_stops_the_job_and_leaves_the_older_dataset(
    tmp_path: Path, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    other = replace(plan, grader=replace(plan.grader, instructions="other"))
    with pytest.raises(JobStopped, match="no verdict is stored"):
        write_datasets(experiment, [other], {}, Timings())
    check_same(experiment, undisturbed)


def test_every_row_says_what_it_was_made_from(tmp_path: Path) -> None:
    experiment, plan = begun(tmp_path / "e")
    sample_from(experiment, plan, "a" * 64)
    finish(experiment, plan)
    rows = [
        *EvalDataset.load(experiment.datasets / plan.name).dataset.to_list(),
        *pq.read_table(experiment.datasets / plan.name / "non_equivalent_completions.parquet").to_pylist(),
    ]
    assert len(rows) == NUM_PROMPTS * (NUM_DISTINCT - 1)
    expected = ("a" * 64, tokenizer_digest(_tokenizer(plan)), grader_digest(plan.grader))
    assert {(row["weights_digest"], row["tokenizer_digest"], row["grader_digest"]) for row in rows} == {expected}


def test_there_is_a_row_for_each_prompt_that_the_dataset_has_in_query_order(tmp_path: Path, undisturbed: Path) -> None:
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    prompts = pq.read_table(Experiment(undisturbed).datasets / plan.name / "prompts.parquet").to_pylist()
    assert [(row["prompt_id"], row["prompt"]) for row in prompts] == [(q.id, q.prompt) for q in plan.queries]
    assert {row["num_draws"] for row in prompts} == {NUM_DRAWS}
    assert {row["num_unique"] for row in prompts} == {NUM_DISTINCT}
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    finish(experiment, plan, {plan.name: {"q3": "lost"}})
    partial = pq.read_table(experiment.datasets / f"{plan.name}.partial" / "prompts.parquet").to_pylist()
    assert partial == [row for row in prompts if row["prompt_id"] != "q3"]


def test_a_checkpoint_that_was_changed_stops_the_job_until_the_files_of_one_of_them_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment, plan = begun(tmp_path / "e")
    sample_from(experiment, with_draws(plan, 15), "a" * 64)
    finish(experiment, with_draws(plan, 15))
    before = files_of(experiment.datasets)
    sample_from(experiment, plan, "b" * 64)
    samples = files_of(experiment.samples)
    with pytest.raises(JobStopped, match=f"{plan.name}: none was changed between parts of this job"):
        finish(experiment, plan)
    assert files_of(experiment.datasets) == before and files_of(experiment.samples) == samples
    (line,) = [it.getMessage() for it in caplog.records if "a" * 64 in it.getMessage()]
    named = line.rpartition(": ")[2].split()
    assert named and all((experiment.samples / name).exists() for name in named)
    for name in named:
        (experiment.samples / name).unlink()
    sample_from(experiment, plan, "b" * 64)
    finish(experiment, plan)
    assert set(EvalDataset.load(experiment.datasets / plan.name).dataset["weights_digest"]) == {"b" * 64}


def test_samples_of_an_older_version_do_not_say_their_weights_nor_which_was_greedy(
    tmp_path: Path, undisturbed: Path
) -> None:
    experiment, plan = begun(tmp_path / "e")
    store, rule = UnitStore(experiment.samples), SampleRule(_tokenizer(plan), NUM_DISTINCT)
    for unit in plan_units([plan], 2):
        store.save(unit, rule.samples(unit).drop_columns("is_greedy"), COST)
    store.close()
    finish(experiment, plan)
    check_same(experiment, undisturbed)  # in which nothing is greedy
    path = experiment.datasets / plan.name
    assert set(EvalDataset.load(path).dataset["weights_digest"]) == {""}
    assert {row["greedy_completion"] for row in pq.read_table(path / "prompts.parquet").to_pylist()} == {None}


def test_a_dataset_made_exclusive_has_the_same_samples_verdicts_and_draws(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "e")
    experiment = Experiment(tmp_path / "e")
    plan = with_draws(ScaleJob(undisturbed, NUM_PROMPTS).plan, NUM_DRAWS)
    lenient = replace(plan, grader=GraderSpec(model="offline/exact", instructions="anything goes, as it is"))
    judge(experiment, lenient, all_of("equivalent"))
    write_datasets(experiment, [lenient], {}, Timings())
    rows = EvalDataset.load(experiment.datasets / plan.name).dataset.to_list()
    stored = files_of(experiment.samples), files_of(experiment.verdicts)
    exclusively = replace(lenient, settings=plan.settings.model_copy(update={"exclusive": True}))
    (figures,), _ = write_datasets(experiment, [exclusively], {}, Timings())
    assert (files_of(experiment.samples), files_of(experiment.verdicts)) == stored
    exclusive = EvalDataset.load(experiment.datasets / plan.name).dataset.to_list()
    assert len(rows) == NUM_PROMPTS * NUM_DISTINCT
    assert figures.num_items == len(exclusive) == len(rows) - NUM_PROMPTS, "of the reference and it and a newline one"
    assert sum(row["sample_count"] for row in exclusive) == sum(row["sample_count"] for row in rows)
    for prompt_id in {row["prompt_id"] for row in exclusive}:
        weights = [row["weight"] for row in exclusive if row["prompt_id"] == prompt_id]
        assert sum(weights) == pytest.approx(1, abs=1e-12)


def sample_from(experiment: Experiment, plan: DatasetPlan, weights_digest: str) -> None:
    """Stores what is not stored yet, sampled from these weights."""
    store, rule = UnitStore(experiment.samples), SampleRule(_tokenizer(plan), NUM_DISTINCT)
    for unit in plan_units([plan], 2, store.ranges()):
        store.save(unit, rule.samples(unit), replace(COST, weights_digest=weights_digest))
    store.close()


def _tokenizer(plan: DatasetPlan) -> Any:
    return load_tokenizer(plan.checkpoint.tokenizer_path)


def _first(plan: DatasetPlan, num_draws: int) -> dict[str, list[tuple[int, int]]]:
    return {query.id: [(0, num_draws)] for query in plan.queries}
