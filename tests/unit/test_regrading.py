"""Another judge for stored samples: the old experiment stays as it is, the new one has all of it, changes add up."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.config import JobConfig
from evalgen.errors import ConfigError, InputError
from evalgen.experiment import Experiment
from evalgen.job import DatasetPlan
from evalgen.records import Answer, GraderSpec, Query, Verdict, VerdictKind
from evalgen.regrading import graders_of, prepare, source_of
from evalgen.unit_store import UnitStore
from evalgen.units import plan_units
from evalgen.verdict_changes import CHANGES_FILE, Comparison, compare_verdicts, comparison_lines
from evalgen.verdict_store import VerdictStore
from evalgen.work import remaining_work
from ray_jobs.regrade import load_regrading, main
from tests.benchmarks.scale_stores import ScaleJob, sample

REPOSITORY = Path(__file__).parents[2]
NUM_PROMPTS, NUM_DRAWS, NUM_DISTINCT = 3, 40, 9
NEW_GRADER = GraderSpec(model="offline/person_name", instructions="The surname is enough.")
Rule = Callable[[Query, str], Verdict]


def verdict_of(kind: VerdictKind, **fields: Any) -> Verdict:
    return Verdict(kind=kind, reasoning=f"why {kind}", **fields)


def all_of(kind: VerdictKind) -> Rule:
    return lambda query, text: verdict_of(kind)


def judge(experiment: Experiment, plan: DatasetPlan, rule: Rule, end: Literal["close", "kill"] = "close") -> None:
    """A verdict on every distinct completion; a job that is killed leaves its journal."""
    store, verdicts = UnitStore(experiment.samples), VerdictStore(experiment.verdicts)
    queries = {query.id: query for query in plan.queries}
    for unit in store.stored:
        for row in store.load(unit.unit_id).to_pylist():
            query = queries[row["prompt_id"]]
            question = plan.question(query, row["completion"])
            verdicts.add([Answer(question=question, verdict=rule(query, row["completion"]))])
    store.close()
    if end == "close":
        verdicts.close()


@pytest.fixture
def plan(tmp_path: Path) -> DatasetPlan:
    plan = ScaleJob(tmp_path / "outputs" / "old", NUM_PROMPTS).plan
    return replace(plan, settings=plan.settings.model_copy(update={"num_generations": NUM_DRAWS}))


@pytest.fixture
def old(tmp_path: Path, plan: DatasetPlan) -> Experiment:
    """Sampled in two parts, and judged; one prompt is in two units."""
    job = ScaleJob(tmp_path / "outputs" / "old", NUM_PROMPTS)
    job.begin()
    with job.experiment.begun(config_of(tmp_path), [plan]):
        some = replace(plan, queries=plan.queries[:1], settings=plan.settings.model_copy(update={"num_generations": 9}))
        sample(job.experiment, some, 1, NUM_DISTINCT)
        sample(job.experiment, plan, 2, NUM_DISTINCT)
    judge(job.experiment, plan, all_of("not_equivalent"))
    return job.experiment


def config_of(tmp_path: Path) -> JobConfig:
    return JobConfig(
        data_model_path="none", output_dir=str(tmp_path / "outputs"), experiment_name="new", num_generations=NUM_DRAWS
    )


def regraded(old: Experiment, plan: DatasetPlan, rule: Rule, grader: GraderSpec = NEW_GRADER) -> Comparison:
    """What the job leaves behind that regrades, and what it says."""
    after = replace(plan, grader=grader)
    new = prepare(old, config_of(old.directory.parents[1]), [after])
    judge(new, after, rule)
    store = UnitStore(new.samples)
    store.compact(plan.name)
    store.close()
    return compare_verdicts(old, new, [after])


def content_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_the_new_experiment_has_every_sample_and_the_old_one_stays_byte_for_byte(
    has_hard_links: bool, old: Experiment, plan: DatasetPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_hard_links:
        monkeypatch.setattr(os, "link", refused)
    before = content_of(old.directory)
    new = prepare(old, config_of(tmp_path), [plan])
    judge(new, plan, all_of("equivalent"))
    store = UnitStore(new.samples)
    store.compact(plan.name)  # which removes units that were put together
    assert store.ranges_of(plan.name) == {query.id: ((0, NUM_DRAWS),) for query in plan.queries}
    store.close()
    assert remaining_work(new, [plan], 1).units == ()
    assert content_of(old.directory) == before
    shared = [path for path in new.samples.glob("*.parquet") if (old.samples / path.name).exists()]
    assert shared and all(path.samefile(old.samples / path.name) is has_hard_links for path in shared)
    assert source_of(new) == old
    assert json.loads((new.directory / "config.json").read_text()) == config_of(tmp_path).resolved()


@pytest.mark.parametrize("harm", ["cut", "gone", "never sampled"])
def test_an_experiment_that_lacks_samples_is_to_be_resumed_first_and_nothing_is_made(
    harm: str, old: Experiment, plan: DatasetPlan, tmp_path: Path
) -> None:
    path = max(old.samples.glob("*.parquet"), key=lambda path: path.stat().st_size)
    wanted = plan
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "gone":
        path.unlink()
    else:
        wanted = replace(plan, settings=plan.settings.model_copy(update={"num_generations": NUM_DRAWS + 1}))
    before = content_of(tmp_path)
    with pytest.raises(ConfigError, match=r"prompts of .*old are not sampled to the end, .* --resume .*old$"):
        prepare(old, config_of(tmp_path), [wanted])
    assert content_of(tmp_path) == before and names_in(tmp_path / "outputs") == ["old"]


def test_units_that_were_put_together_count_as_sampled(old: Experiment, plan: DatasetPlan, tmp_path: Path) -> None:
    store = UnitStore(old.samples)
    store.compact(plan.name)
    store.close()
    new = prepare(old, config_of(tmp_path), [plan])
    ranges = UnitStore(new.samples).ranges()
    assert plan_units([plan], 1, ranges) == () and set(ranges) == {plan.name}


def test_other_prompts_are_refused_and_other_references_are_not(
    old: Experiment, plan: DatasetPlan, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="begun with other prompts"):
        prepare(old, config_of(tmp_path), [replace(plan, queries=plan.queries[1:])])
    assert names_in(tmp_path / "outputs") == ["old"]
    other = replace(plan, queries=tuple(replace(query, reference=" Noah Clark") for query in plan.queries))
    comparison = regraded(old, other, all_of("equivalent"))
    assert comparison.datasets[0].num_changed_otherwise == NUM_PROMPTS * NUM_DISTINCT
    assert comparison.datasets[0].old_equivalence_rate is None
    assert "it has no verdict in the old experiment" in "\n".join(comparison_lines(comparison))


def test_the_instructions_of_the_old_judge_are_remembered_when_their_file_is_edited(
    old: Experiment, plan: DatasetPlan
) -> None:
    assert graders_of(old) == {plan.name: plan.grader}
    comparison = regraded(old, plan, all_of("equivalent"), replace(plan.grader, instructions="edited"))
    (dataset,) = comparison.datasets
    assert dataset.old_grader.instructions == plan.grader.instructions and dataset.new_grader.instructions == "edited"
    assert dataset.num_became_equivalent == dataset.num_unique == NUM_PROMPTS * NUM_DISTINCT


def test_a_plan_without_graders_is_to_be_resumed_once(old: Experiment, plan: DatasetPlan, tmp_path: Path) -> None:
    file = old.directory / "plan.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({name: {k: v for k, v in d.items() if k != "grader"} for name, d in stored.items()}))
    with pytest.raises(ConfigError, match="does not name the graders"):
        prepare(old, config_of(tmp_path), [plan])
    with old.begun(config_of(tmp_path), [plan]):
        assert json.loads(file.read_text()) == stored


def test_an_experiment_in_which_a_job_is_at_work_is_left_alone(
    old: Experiment, plan: DatasetPlan, tmp_path: Path
) -> None:
    refused = pytest.raises(ConfigError, match=r"^another job is at work in")
    with old.left_alone(), old.left_alone(), refused, old.begun(config_of(tmp_path), [plan]):
        pass
    with old.begun(config_of(tmp_path), [plan]), refused, old.left_alone():
        pass


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_same_verdicts_are_no_change_also_where_a_kill_left_only_the_journal(
    end: Literal["close", "kill"], old: Experiment, plan: DatasetPlan
) -> None:
    judge(old, plan, all_of("not_equivalent"), end)
    assert (old.verdicts / "journal.jsonl").exists() is (end == "kill")
    comparison = regraded(old, plan, all_of("not_equivalent"), plan.grader)
    assert comparison.changes == []
    assert comparison_lines(comparison)[-1] == "No verdict changed."
    assert comparison.datasets[0].old_equivalence_rate == comparison.datasets[0].new_equivalence_rate == 0


KINDS = st.sampled_from(["equivalent", "not_equivalent", "ungraded"])
EXAMPLES = itertools.count()


@settings(max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_counts_and_rates_are_those_of_the_two_verdicts_of_each_completion(
    data: st.DataObject, old: Experiment, plan: DatasetPlan
) -> None:
    store = UnitStore(old.samples)
    counts: dict[tuple[str, str], int] = {}
    for unit in store.stored:
        for row in store.load(unit.unit_id).to_pylist():
            key = row["prompt_id"], row["completion"]
            counts[key] = counts.get(key, 0) + row["sample_count"]
    store.close()
    was = {key: data.draw(KINDS) for key in counts}
    now = {key: data.draw(KINDS) for key in counts}
    # Another judge in each example, so that none finds the verdicts of the one before.
    before = replace(plan, grader=GraderSpec(model="offline/exact", instructions=f"example {next(EXAMPLES)}"))
    with old.begun(config_of(old.directory.parents[1]), [before]):
        judge(old, before, lambda query, text: verdict_of(was[query.id, text]))
    comparison = regraded(old, plan, lambda query, text: verdict_of(now[query.id, text]))
    (dataset,) = comparison.datasets
    changed = {key for key in counts if was[key] != now[key]}
    assert {(change.query.id, change.completion) for change in comparison.changes} == changed
    assert len(comparison.changes) == len(changed)
    weights = [change.prevalence for change in comparison.changes]
    assert weights == sorted(weights, reverse=True)
    assert all(change.sample_count == counts[change.query.id, change.completion] for change in comparison.changes)
    for side, kinds in (("old", was), ("new", now)):
        graded = [key for key in counts if kinds[key] != "ungraded"]
        right = [key for key in graded if kinds[key] == "equivalent"]
        per_unique = len(right) / len(graded) if graded else None
        per_draw = sum(map(counts.get, right)) / sum(map(counts.get, graded)) if graded else None  # type: ignore
        assert getattr(dataset, f"{side}_equivalence_rate") == per_unique
        assert getattr(dataset, f"{side}_draw_equivalence_rate") == pytest.approx(per_draw)
    ways = (dataset.num_became_equivalent, dataset.num_became_not_equivalent, dataset.num_changed_otherwise)
    assert sum(ways) == len(changed)
    assert ways[0] == sum(was[key] == "not_equivalent" and now[key] == "equivalent" for key in counts)
    assert ways[1] == sum(was[key] == "equivalent" and now[key] == "not_equivalent" for key in counts)


def test_another_trim_is_counted_and_is_no_change(old: Experiment, plan: DatasetPlan) -> None:
    judge(old, replace(plan, grader=NEW_GRADER), all_of("equivalent"))
    with old.begun(config_of(old.directory.parents[1]), [replace(plan, grader=NEW_GRADER)]):
        pass
    trimmed = regraded(
        old, plan, lambda query, text: verdict_of("equivalent", trimmed_completion=text[:6]), plan.grader
    )
    assert trimmed.changes == [] and trimmed.datasets[0].num_trimmed_otherwise == NUM_PROMPTS * NUM_DISTINCT
    assert "trimmed otherwise" in "\n".join(comparison_lines(trimmed))


def test_the_file_has_every_change_and_the_screen_the_first_with_nothing_that_steers_a_terminal(
    old: Experiment, plan: DatasetPlan, tmp_path: Path
) -> None:
    evil = "\x1b[2J[red]\r\x9b\u202e\u2028" + "x" * 5000
    comparison = regraded(old, plan, lambda query, text: Verdict(kind="equivalent", reasoning=evil))
    evil_query = replace(plan.queries[0], prompt=evil, reference=evil)
    changes = [replace(change, query=evil_query, completion=evil) for change in comparison.changes]
    comparison = replace(comparison, changes=changes + changes)
    lines = comparison_lines(comparison)
    assert all(line.isprintable() for line in lines) and max(map(len, lines)) < 1000
    assert "54 verdicts changed; the 20 most frequent:" in lines
    assert sum(line.endswith(plan.name) and "->" in line for line in lines) == 20
    content = json.loads(comparison.write(old, old).read_text())
    assert (old.directory / CHANGES_FILE).exists() and len(content["changes"]) == 54
    assert content["changes"][0] == {
        "dataset": plan.name,
        "prompt_id": plan.queries[0].id,
        "prompt": evil,
        "reference_completion": evil,
        "completion": evil,
        "sample_count": 5,  # of 40 draws, among 9 completions
        "probability": None,
        "old_verdict": "not_equivalent",
        "new_verdict": "equivalent",
        "old_reasoning": "why not_equivalent",
        "new_reasoning": evil,
        "old_trimmed_completion": None,
        "new_trimmed_completion": None,
    }


def config_file(directory: Path, **settings: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"experiment_name": "mayors", **settings}))
    (directory / "plan.json").write_text("{}")
    return directory


def test_the_new_grader_holds_for_every_run_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    runs = [{"data_model_path": "/a", "grader_model": "offline/date", "seed": 3}, {"data_model_path": "/b"}]
    directory = config_file(tmp_path / "e", runs=runs, temperature=0.7, max_connections=9, output_dir="/elsewhere")
    flags = ["--experiment", str(directory), "--grader-model=offline/exact", "--max_connections", "3"]
    config, old_directory = load_regrading(flags, tmp_path)
    assert old_directory == directory
    assert [run.grader_model for run in config.run_configs()] == ["offline/exact", "offline/exact"]
    assert [run.seed for run in config.run_configs()] == [3, 42] and config.temperature == 0.7
    assert (config.experiment_name, config.output_dir) == ("mayors_regraded", str(tmp_path))
    assert config.max_connections == 3
    named, _ = load_regrading([*flags, "--experiment_name", "lenient"], tmp_path)
    assert named.experiment_name == "lenient"


MISTAKES = {
    "no experiment": ([], "experiment: missing; give --experiment"),
    "no such directory": (["--experiment", "nowhere"], "nowhere has no config.json; give the directory"),
    "a checkpoint": (["--experiment", "checkpoint"], "has no plan.json; give the directory of an experiment"),
    "no grader": (["--experiment", "e", "--max_connections", "3"], "found no other grader; give --grader_model"),
    "unknown flag": (["--experiment", "e", "--temperature", "1"], "unknown flag --temperature; valid ones: experiment"),
    "bad value": (["--experiment", "e", "--grader_model", "x", "--max_connections", "0"], "max_connections: found '0'"),
    "bad name": (["--experiment", "e", "--grader_model", "x", "--experiment_name", "a/b"], "experiment_name: found"),
    "both": (["--experiment", "e", "--resume", "e"], "leave one of them out"),
    "resumed what is none": (["--resume", "e"], "has no regraded_from.json"),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_nothing_is_created(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config_file(tmp_path / "e", data_model_path="/nowhere")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    before = content_of(tmp_path)
    assert main(argv) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("error: ") and message in line and not output.out
    assert content_of(tmp_path) == before


def test_help_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import sys, ray_jobs.regrade as job\n"
        "try: job.main(['--help'])\n"
        "finally: print('loaded', sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: regrade.py ")
    assert done.stdout.endswith("loaded []\n")
    for flag in ("experiment", "grader_model", "grader_config_path", "experiment_name", "max_connections"):
        assert f"--{flag} " in done.stdout
    for flag in ("temperature", "num_replicas", "deduplicate", "exclusive"):
        assert f"--{flag}" not in done.stdout
