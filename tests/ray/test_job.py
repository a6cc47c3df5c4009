"""The main job on a real local Ray: what it writes, and that how it is run does not change it."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk
from transformers import AutoTokenizer

from evalgen.eval_dataset import EvalDataset
from evalgen.eval_functions import eval_accuracy_and_loss
from evalgen.tokenization import IGNORED_LABEL, before_stop
from tests.ray.conftest import RayCluster
from tests.ray.jobs import Experiment, FinishedJob, mayors_arguments, run_as_process, several_runs

NAME = "sampled_mayors_checkpoint_final"
STOPS = [".", ",", "\n"]
CONTRACT_COLUMNS = "id prompt_id prompt completion generation_idx metadata input_ids labels attention_mask".split()


def inner_run(run: Path) -> Path:
    (inner,) = (run / "all_docs_runs").iterdir()
    return inner


def source_rows(run: Path) -> list[dict[str, object]]:
    path = inner_run(run) / "eval_datasets" / "name_mayor_eval_qa_1_no_fs" / "eval_dataset"
    dataset = load_from_disk(str(path))
    assert isinstance(dataset, Dataset)
    return dataset.to_list()


@pytest.fixture(scope="module")
def experiment(mayors_job: FinishedJob) -> Experiment:
    """For every test that only reads."""
    return mayors_job.experiment


@pytest.fixture(scope="module")
def variants(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """One job whose runs are that of `experiment`, sampled in other ways."""
    output_dir = tmp_path_factory.mktemp("variants")
    arguments = several_runs(
        mayors_arguments(mayors_run, output_dir),
        tmp_path_factory.mktemp("config") / "job.yaml",
        {"output_dataset_prefix": "sampled_stopped", "stop_strings": STOPS},
        {"output_dataset_prefix": "sampled_enumerated", "sampler": "enumerate", "min_probability": 0.001},
        {"output_dataset_prefix": "sampled_nothing", "sampler": "enumerate", "min_probability": 1},
    )
    return run_as_process(arguments, output_dir, ray_cluster.address)


def test_the_experiment_directory_is_as_the_contract_has_it(experiment: Experiment) -> None:
    assert re.fullmatch(r"\d{4}_\d\d_\d\d_\d\d-\d\d-\d\d_[A-Za-z0-9]{5}_sampled_mayors", experiment.path.name)
    names = {path.name for path in experiment.path.iterdir()}
    files = {"config.json", "experiment.log", "experiment_log.json", "plan.json", "summary.json"}
    files |= {"REPORT.md", "report.html"}
    assert names == files | {"sampled_eval_datasets", "samples", "verdicts"}
    assert experiment.dataset_names == [NAME]
    dataset = experiment.path / "sampled_eval_datasets" / NAME
    assert {path.name for path in dataset.iterdir()} == {
        "README.md",
        "eval_dataset",
        "eval_functions.pkl",
        "non_equivalent_completions.json",
        "non_equivalent_completions.parquet",
        "prompts.parquet",
    }


def test_columns_come_in_the_order_of_the_contract_with_its_types(experiment: Experiment) -> None:
    dataset = experiment.dataset(NAME)
    assert len(dataset) > 0
    assert dataset.column_names[: len(CONTRACT_COLUMNS)] == CONTRACT_COLUMNS
    schema = dataset.data.table.schema
    assert schema.field("generation_idx").type == pa.int64()
    for column in ("input_ids", "labels", "attention_mask"):
        assert schema.field(column).type.value_type == pa.int64()
    assert not set(dataset.column_names) & {"length", "advantage", "doc_ids", "text", "label", "label_ids"}


def test_labelled_ids_decode_to_the_completion_and_nothing_else_is_labelled(
    experiment: Experiment, mayors_run: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(inner_run(mayors_run) / "tokenizer.json")
    for row in experiment.dataset(NAME).to_list():
        prompt_ids = [tokenizer.bos_token_id, *tokenizer.encode(row["prompt"], add_special_tokens=False)]
        labelled = [label for label in row["labels"] if label != IGNORED_LABEL]
        assert tokenizer.decode(labelled) == row["completion"]
        assert row["input_ids"] == prompt_ids + labelled
        assert row["labels"] == [IGNORED_LABEL] * len(prompt_ids) + labelled
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert tokenizer.eos_token_id not in labelled


def test_prompt_ids_are_the_source_ids_and_rows_come_in_query_order(experiment: Experiment, mayors_run: Path) -> None:
    source = source_rows(mayors_run)
    rows = experiment.dataset(NAME).to_list()
    order = [row["id"] for row in source]
    assert [row["prompt_id"] for row in rows] == sorted((r["prompt_id"] for r in rows), key=order.index)
    prompts = {row["id"]: row["prompt"] for row in source}
    for row in rows:
        assert row["prompt"] == prompts[row["prompt_id"]]
        assert row["id"] == f"{row['prompt_id']}_gen_{row['generation_idx']}"
        assert row["metadata"] == {"source_dataset": "name_mayor_eval_qa_1_no_fs"}
    assert len({row["id"] for row in rows}) == len(rows)
    assert any("São Paulo" in row["prompt"] for row in source)


def test_the_counts_add_up(experiment: Experiment) -> None:
    (figures,) = experiment.summary["datasets"]
    samples, verdicts = experiment.rows_of("samples"), experiment.rows_of("verdicts")
    assert figures["num_draws"] == figures["num_prompts"] * 200 == sum(row["sample_count"] for row in samples)
    drawn = {(row["prompt"], row["completion"]) for row in samples if row["sample_count"]}
    assert figures["num_unique"] == len(drawn)
    assert len(verdicts) == len(drawn | {(row["prompt"], row["completion"]) for row in samples})
    kinds = [row["verdict"] for row in verdicts if (row["prompt"], row["completion"]) in drawn]
    assert figures["num_equivalent"] == kinds.count("equivalent") and len(kinds) == len(drawn)
    assert figures["num_graded"] == figures["num_unique"] - figures["num_ungraded"]
    assert figures["equivalence_rate"] == pytest.approx(figures["num_equivalent"] / figures["num_graded"])
    assert figures["num_items"] == len(experiment.dataset(NAME))
    rejected = experiment.rejects(NAME)
    assert len(rejected) == figures["num_graded"] - figures["num_equivalent"]
    kept_draws = sum(row["sample_count"] for row in experiment.dataset(NAME).to_list())
    assert kept_draws + sum(row["sample_count"] for row in rejected) == figures["num_draws"]
    assert figures["model_evaluations"] == figures["distinct_prefixes"]
    assert 0 < figures["num_equivalent"] < figures["num_graded"], "the tiny model should be right and wrong"


def test_weights_of_a_prompt_sum_to_one_and_rejects_have_the_columns_of_rows(experiment: Experiment) -> None:
    weights: dict[str, float] = {}
    rows = experiment.dataset(NAME).to_list()
    for row in rows:
        weights[row["prompt_id"]] = weights.get(row["prompt_id"], 0.0) + row["weight"]
    assert list(weights.values()) == pytest.approx([1.0] * len(weights), abs=1e-12)
    rejects = pq.read_table(experiment.path / "sampled_eval_datasets" / NAME / "non_equivalent_completions.parquet")
    assert rejects.column_names == experiment.dataset(NAME).column_names
    assert rejects["completion"].to_pylist() == [row["generated_completion"] for row in experiment.rejects(NAME)]
    for column in ("weights_digest", "tokenizer_digest", "grader_digest"):
        (digest,) = {row[column] for row in rows} | set(rejects[column].to_pylist())
        assert re.fullmatch(r"[0-9a-f]{64}", digest), column


def test_the_figures_of_prompts_add_up_to_those_of_the_dataset(experiment: Experiment) -> None:
    (figures,) = experiment.summary["datasets"]
    prompts = pq.read_table(experiment.path / "sampled_eval_datasets" / NAME / "prompts.parquet").to_pylist()
    assert [row["prompt_id"] for row in prompts] == [row["prompt_id"] for row in experiment.summary["prompts"]]
    for name in ("num_draws", "num_unique", "num_equivalent", "num_ungraded"):
        assert sum(row[name] for row in prompts) == figures[name]
    assert sum(row["num_variations"] for row in prompts) == figures["num_items"]
    greedy = {row["prompt_id"]: row["completion"] for row in experiment.rows_of("samples") if row["is_greedy"]}
    assert {row["prompt_id"]: row["greedy_completion"] for row in prompts if row["greedy_verdict"]} == greedy
    assert greedy.keys() == {row["prompt_id"] for row in prompts}
    assert all(0 < row["equivalent_mass"] <= row["seen_mass"] <= 1 for row in prompts if row["num_equivalent"])


def test_every_draw_of_every_prompt_is_stored_once(experiment: Experiment, mayors_run: Path) -> None:
    draws: dict[str, list[int]] = {}
    for row in experiment.rows_of("samples"):
        draws.setdefault(row["prompt_id"], []).extend(row["generation_indices"])
    assert set(draws) == {row["id"] for row in source_rows(mayors_run)}
    assert all(sorted(indices) == list(range(200)) for indices in draws.values())


def test_the_parquet_copy_has_the_same_rows_and_no_schema_metadata(experiment: Experiment) -> None:
    path = experiment.path / "sampled_eval_datasets" / NAME / "eval_dataset" / "data" / "0000.parquet"
    assert b"huggingface" not in (pq.read_schema(path).metadata or {})
    assert pq.read_table(path).to_pylist() == experiment.dataset(NAME).to_list()


def test_the_loading_snippet_of_the_seed_document_works(experiment: Experiment) -> None:
    ds = EvalDataset.load(Path(experiment.path / "sampled_eval_datasets" / NAME))
    assert len(ds.dataset) == len(experiment.dataset(NAME))
    for item in ds.dataset.select(range(min(5, len(ds.dataset)))):
        assert item["prompt"].startswith("Q: Who is the mayor of")
        assert item["completion"].startswith(" ")
    assert ds.eval_functions == [eval_accuracy_and_loss]


def test_rows_concatenate_with_the_source_dataset(experiment: Experiment, mayors_run: Path) -> None:
    columns = ["input_ids", "labels", "attention_mask"]
    path = inner_run(mayors_run) / "eval_datasets" / "name_mayor_eval_qa_1_no_fs" / "eval_dataset"
    source = load_from_disk(str(path))
    assert isinstance(source, Dataset)
    ours = experiment.dataset(NAME).select_columns(columns)
    both = concatenate_datasets([source.select_columns(columns), ours])
    assert len(both) == len(source) + len(ours)


def test_a_draw_with_stop_strings_is_the_draw_without_them_cut_off(
    experiment: Experiment, variants: FinishedJob, mayors_run: Path
) -> None:
    name, stopped = "sampled_stopped_checkpoint_final", variants.experiment
    samples = stopped.samples_of(name)
    whole, cut = _text_of_draws(experiment.rows_of("samples")), _text_of_draws(samples)
    before = {draw: before_stop(text, STOPS) for draw, text in whole.items()}
    assert cut == {draw: whole[draw] if text is None else text for draw, text in before.items()}
    reasons = [row["finish_reason"] for row in samples for _ in row["generation_indices"]]
    assert reasons.count("stop") == sum(text is not None for text in before.values()) > 0
    tokenizer = AutoTokenizer.from_pretrained(inner_run(mayors_run) / "tokenizer.json")
    rows = stopped.dataset(name).to_list()
    assert "stop" in {row["finish_reason"] for row in rows}
    for row in rows:
        assert before_stop(row["raw_completion"], STOPS) is None
        assert tokenizer.decode([label for label in row["labels"] if label != IGNORED_LABEL]) == row["completion"]


def test_an_enumerated_set_has_every_probable_completion_and_says_how_much_they_cover(
    experiment: Experiment, variants: FinishedJob
) -> None:
    name, enumerated = "sampled_enumerated_checkpoint_final", variants.experiment
    probability: Counter[tuple[str, str]] = Counter()
    for row in enumerated.samples_of(name):
        assert row["sample_count"] is None and row["logprob_sampling"] >= math.log(0.001) - 1e-5
        probability[row["prompt_id"], row["completion"]] += math.exp(row["logprob_sampling"])
    for text, count in _counts(experiment).items():  # drawn under the same law
        assert abs(count - 200 * probability[text]) < 6 * math.sqrt(200 * max(probability[text], 0.01)), text
    figures, (of_draws,) = enumerated.figures(name), experiment.summary["datasets"]
    masses = [prompt["covered_mass"] for prompt in enumerated.summary["prompts"] if prompt["dataset"] == name]
    assert figures["num_draws"] is None and figures["num_unique"] == len(probability)
    assert figures["covered_mass"] == pytest.approx(sum(masses) / len(masses))
    assert sum(masses) == pytest.approx(sum(probability.values()))
    assert figures["draw_equivalence_rate"] == pytest.approx(of_draws["draw_equivalence_rate"], abs=0.1)

    rows = enumerated.dataset(name).to_list()
    assert len(rows) == figures["num_items"] > 0
    for row in rows:
        ranked = [text for (prompt_id, text), _ in probability.most_common() if prompt_id == row["prompt_id"]]
        assert ranked[row["generation_idx"]].startswith(row["completion"])
        assert row["id"] == f"{row['prompt_id']}_gen_{row['generation_idx']}"
        assert row["sample_count"] is None and row["num_samples"] is None


def test_no_completion_may_be_probable_enough(variants: FinishedJob) -> None:
    name = "sampled_nothing_checkpoint_final"
    figures = variants.experiment.figures(name)
    assert (figures["num_unique"], figures["covered_mass"], figures["draw_equivalence_rate"]) == (0, 0, None)
    assert len(variants.experiment.dataset(name)) == 0
    assert re.search(r"(\d+) of \1 parts", variants.stderr), "the parts without a question are done too"
    assert "covers 0.0% of the probability" in variants.stdout


def _text_of_draws(samples: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
    return {(row["prompt_id"], draw): row["completion"] for row in samples for draw in row["generation_indices"]}


def _counts(experiment: Experiment) -> Counter[tuple[str, str]]:
    return Counter((prompt_id, text) for (prompt_id, _), text in _text_of_draws(experiment.rows_of("samples")).items())
