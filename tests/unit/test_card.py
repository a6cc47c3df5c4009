"""The card of a dataset: the Hub's library reads its head, its snippets run, and no text in it breaks out."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from transformers import PreTrainedTokenizerFast

from evalgen.card import DatasetFacts, dataset_card, with_calibration
from evalgen.card_words import grading_in_words, law_in_words
from evalgen.config import RunConfig
from evalgen.eval_dataset import FEATURES
from evalgen.experiment import Experiment
from evalgen.grading.calibration import Calibration, JudgedItem, calibration_record
from evalgen.grading.labelled_items import LabelledItem
from evalgen.job import DatasetPlan
from evalgen.parquet_rows import ParquetRowsWriter
from evalgen.printable import printable
from evalgen.records import GraderSpec, Verdict
from evalgen.statistics import DatasetStatistics
from tests.unit.finished import AT, HOSTILE, PROVENANCE, finished_experiment, write_card
from tests.unit.rendered import Rendered
from tests.unit.tiny import query

HEADINGS = [
    "What it is, and what not",
    "Where it comes from",
    "How it was sampled",
    "How it was graded",
    "What came of it",
    "Columns",
    "How to load it",
    "Weights and nested prefixes",
    "Limits",
]


@dataclass(frozen=True)
class Carded:
    """A dataset with its card."""

    experiment: Experiment
    plan: DatasetPlan
    figures: DatasetStatistics

    @property
    def directory(self) -> Path:
        return self.experiment.datasets / self.plan.name

    @property
    def card(self) -> str:
        return (self.directory / "README.md").read_text(encoding="utf-8")

    @property
    def body(self) -> str:
        return DatasetCard(self.card).text

    def with_plan(self, **changed: Any) -> str:
        return self._card(replace(self.plan, **changed), self.figures)

    def with_figures(self, **changed: Any) -> str:
        return self._card(self.plan, replace(self.figures, **changed))

    def _card(self, plan: DatasetPlan, figures: DatasetStatistics) -> str:
        return dataset_card(plan, figures, PROVENANCE, DatasetFacts.of_directory(self.directory), AT)


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Carded:
    directory = tmp_path_factory.mktemp("cards") / "2026_01_21_03-12-40_4HloG_x"
    queries = [query(f"Who leads {HOSTILE}{n}?", reference=f" {HOSTILE}", id=f"{n}{HOSTILE}") for n in range(23)]
    runs = [{"output_dataset_prefix": "sampled a|b`c<d>", "temperature": 0.7}]
    experiment, (plan,), (figures,) = finished_experiment(directory, tokenizer, runs, queries)
    return Carded(experiment, plan, figures)


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)


def test_the_hub_finds_rows_rejects_and_prompts_by_the_head(carded: Carded, tmp_path: Path) -> None:
    data = DatasetCard.load(carded.directory / "README.md").data.to_dict()
    assert data["pretty_name"] == carded.plan.name and data["size_categories"] == ["n<1K"]
    assert "license" not in data and "language" not in data
    files = {config["config_name"]: config["data_files"][0]["path"] for config in data["configs"]}
    for config, name in (("default", None), ("rejects", "rejects"), ("prompts", "prompts")):
        (file,) = carded.directory.glob(files[config])
        loaded = load_dataset(str(carded.directory), name, split="train", cache_dir=str(tmp_path))
        assert isinstance(loaded, Dataset) and loaded.to_list() == pq.read_table(file).to_pylist() != []


@pytest.mark.parametrize(("num_rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")])
def test_the_size_category_is_that_of_the_rows(carded: Carded, num_rows: int, size: str) -> None:
    assert DatasetCard(carded.with_figures(num_items=num_rows)).data.size_categories == [size]


def test_hostile_texts_change_nothing_of_the_page_but_the_texts(carded: Carded) -> None:
    page = Rendered(carded.body)
    assert page.texts["h1"] == [printable(carded.plan.name)] and page.texts["h2"] == HEADINGS
    assert page.texts["h3"] == ["By prompt"]
    assert page.tags.keys() <= set("h1 h2 h3 p code pre table thead tbody tr th td ul li strong em blockquote".split())
    assert {name for name, _ in page.attributes} <= {"class"}
    assert all(character.isprintable() or character == "\n" for character in carded.card)
    assert "49" not in page.texts["td"], "a template in a text was filled in"


def test_the_instructions_are_shown_word_for_word(carded: Carded) -> None:
    shown = printable(carded.plan.grader.instructions.replace("\r\n", "\n"), but="\n\t")
    assert f"{shown}\n" in Rendered(carded.body).texts["pre"]


def test_every_row_of_a_table_has_the_cells_of_its_head(carded: Carded) -> None:
    page = Rendered(carded.body)
    assert set(page.row_lengths) == {2, 3, 10}
    assert page.row_lengths.count(10) == 1 + 20, "a head and the first 20 of 23 prompts"
    assert "The first 20 of 23 prompts" in carded.card


def test_every_column_is_explained_with_its_type(carded: Carded) -> None:
    cells = Rendered(carded.body).texts["td"]
    for name in FEATURES:
        assert cells[cells.index(name) + 2], name
    assert cells[cells.index("input_ids") + 1] == "list(int64)" and cells[cells.index("weight") + 1] == "float64"


def test_the_counts_are_those_of_the_dataset(carded: Carded) -> None:
    cells = Rendered(carded.body).texts["td"]
    figures = carded.figures
    place = cells.index("all")
    assert cells[place + 1 : place + 3] == [str(figures.num_unique), str(figures.num_draws)]
    place = cells.index("equivalent, of those graded")
    assert cells[place + 1 : place + 3] == [f"{figures.equivalence_rate:.1%}", f"{figures.draw_equivalence_rate:.1%}"]
    rejects = pq.read_metadata(carded.directory / "non_equivalent_completions.parquet").num_rows
    assert cells[cells.index("rejects") + 1] == str(rejects) != "0"
    for digest in (PROVENANCE.weights_digest, PROVENANCE.tokenizer_digest, PROVENANCE.grader_digest):
        assert digest in cells


def test_another_dataset_has_another_card(carded: Carded) -> None:
    """No figure in it is written into the template."""
    others = {field.name: 12_345 + n for n, field in enumerate(fields(DatasetStatistics)) if "num_" in field.name}
    card = carded.with_figures(**others)
    shown = {"num_draws", "num_unique", "num_graded", "num_equivalent", "num_ungraded", "num_items", "num_reencoded"}
    for name in shown | {"num_left_out", "num_prompts", "num_unique_prompts", "num_missing_prompts"}:
        assert f"{others[name]:,}" in card, name


def test_a_partial_dataset_says_so_and_is_loaded_by_its_own_name(carded: Carded) -> None:
    card = carded.with_figures(num_missing_prompts=2)
    assert "**This dataset is partial**: 2 of its 23 prompts" in card and f"{carded.plan.name}.partial/eval_" in card
    assert "partial" not in carded.card


def test_a_model_of_the_hub_is_named_with_its_commit(carded: Carded) -> None:
    pinned = replace(carded.plan.checkpoint, path=f"organisation/name@{'0123456789' * 4}")
    cells = Rendered(DatasetCard(carded.with_plan(checkpoint=pinned)).text).texts["td"]
    assert cells[cells.index("on the Hub") + 1] == f"organisation/name, commit {'0123456789' * 4}"
    assert "on the Hub" not in Rendered(carded.body).texts["td"]


def test_the_snippets_run(carded: Carded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(carded.experiment.datasets)
    python = blocks(carded.card, "python")
    assert len(python) == 6
    ran = []
    for snippet in python:
        name = re.findall(r"^(?:import|from) (\w+)", snippet, re.MULTILINE)[0]
        if name in ("evalgen", "datasets", "pandas"):  # the others have environments of their own, or take a cluster
            variables: dict[str, Any] = {}
            exec(compile(snippet, name, "exec"), variables)
            rows = variables["eval_dataset"].dataset if name == "evalgen" else variables["rows"]
            assert len(rows) == carded.figures.num_items
            ran.append(name)
        else:
            compile(snippet, name, "exec")
    assert ran == ["evalgen", "datasets", "pandas"] and capsys.readouterr().out


def test_the_command_for_bergson_names_the_rows_whatever_the_dataset_is_called(carded: Carded) -> None:
    (command,) = blocks(carded.card, "bash")
    words = shlex.split(command, comments=True)
    assert words[words.index("--dataset") + 1] == f"{carded.plan.name}/eval_dataset"
    assert words[words.index("--advantage_column") + 1] == "weight"


def emptied(carded: Carded, directory: Path, file: str) -> Carded:
    """A copy without rows in a file, as it is written where there are none."""
    experiment = Experiment(Path(shutil.copytree(carded.experiment.directory, directory)))
    path = experiment.datasets / carded.plan.name / file
    schema = pq.read_schema(path)
    with ParquetRowsWriter(path, schema):
        pass
    return Carded(experiment, carded.plan, carded.figures)


def test_a_dataset_without_rows_has_a_card_and_rejects_and_prompts_load(carded: Carded, tmp_path: Path) -> None:
    none = emptied(carded, tmp_path / "e", "eval_dataset/data/0000.parquet")
    figures = replace(carded.figures, num_items=0, num_unique_prompts=0, equivalence_rate=None)
    card = write_card(none.experiment, none.plan, figures)
    assert "| rows | 0 |" in card and Rendered(DatasetCard(card).text).texts["h2"] == HEADINGS
    for name in ("rejects", "prompts"):
        loaded = load_dataset(str(none.directory), name, split="train", cache_dir=str(tmp_path))
        assert isinstance(loaded, Dataset) and len(loaded)


def test_a_dataset_without_rejects_offers_none(carded: Carded, tmp_path: Path) -> None:
    """Because `load_dataset` fails on a configuration without rows."""
    none = emptied(carded, tmp_path / "e", "non_equivalent_completions.parquet")
    card = write_card(none.experiment, none.plan, none.figures)
    assert [config["config_name"] for config in DatasetCard(card).data.to_dict()["configs"]] == ["default", "prompts"]
    assert '"rejects"' not in card and '"rejects"' in carded.card
    loaded = load_dataset(str(none.directory), split="train", cache_dir=str(tmp_path))
    assert isinstance(loaded, Dataset) and len(loaded) == carded.figures.num_items


def calibration(grader: GraderSpec, right: int, cases: Sequence[str] = ("easy",)) -> dict[str, Any]:
    judged = [
        JudgedItem(
            item=LabelledItem(
                line=n, prompt="p", reference="r", completion="c", equivalent=n < right, case=cases[n % len(cases)]
            ),
            verdict=Verdict(kind="equivalent"),
        )
        for n in range(20)
    ]
    at = datetime(2026, 2, 3, tzinfo=UTC)
    return calibration_record(
        Calibration(judged=tuple(judged)), grader, labelled_file=HOSTILE, labelled_file_sha256="4" * 64, at=at
    )


def test_a_calibration_takes_the_place_of_an_older_one_and_of_none(carded: Carded) -> None:
    assert "None is attached" in carded.card
    once = with_calibration(carded.card, calibration(carded.plan.grader, right=15))
    again = with_calibration(once, calibration(carded.plan.grader, right=18))
    assert "75.0%" in once and "None is attached" not in once
    assert "90.0%" in again and "75.0%" not in again
    assert with_calibration(again, calibration(carded.plan.grader, right=15)) == once
    page = Rendered(DatasetCard(once).text)
    assert page.texts["h2"] == HEADINGS and printable(HOSTILE) in page.texts["code"]


def test_a_calibration_of_another_grader_changes_nothing(carded: Carded) -> None:
    other = GraderSpec(model="offline/exact", instructions="other")
    assert with_calibration(carded.card, calibration(other, right=15)) == carded.card


def test_an_attached_calibration_is_in_the_card_from_the_start(tmp_path: Path, carded: Carded) -> None:
    record = calibration(carded.plan.grader, right=15)
    facts = replace(DatasetFacts.of_directory(carded.directory), calibration=record)
    card = dataset_card(carded.plan, carded.figures, PROVENANCE, facts, AT)
    assert card == with_calibration(carded.card, record)


def settings_of(**changed: Any) -> RunConfig:
    return RunConfig(data_model_path="x", **changed)


def test_the_sampling_law_in_words_follows_the_settings() -> None:
    drawn = law_in_words(settings_of(num_generations=1234, temperature=0.3, top_k=7, top_p=0.9, min_p=0.05))
    assert "1,234 times" in drawn and "logits / 0.3" in drawn
    order = ["the 7 most probable", "that have 0.9 of", "at least 0.05 times"]
    assert sorted(order, key=drawn.index) == order, "in the order in which they are applied"
    greedy = law_in_words(settings_of(do_sample=False, max_new_tokens=1))
    assert "greedy" in greedy and "softmax" not in greedy and "1 token." in greedy
    enumerated = law_in_words(settings_of(sampler="enumerate", min_probability=1e-5, stop_strings=("\n",)))
    assert "Nothing was drawn" in enumerated and "1e-05" in enumerated and "stop strings" in enumerated


def test_the_grading_in_words_follows_the_grader() -> None:
    claude = GraderSpec(model="anthropic/claude", instructions="i", num_votes=5, pack_size=8)
    assert "alpha of 0.83" in grading_in_words(claude, 0.8349) and "5 times" in grading_in_words(claude, None)
    assert "up to 8 completions" in grading_in_words(claude, None)
    batches = GraderSpec(model="anthropic-batch/claude", instructions="i")
    assert "Message Batches" in grading_in_words(batches, None)
    assert "same verdict every time" in grading_in_words(GraderSpec(model="offline/date", instructions="i"), None)


def test_options_of_an_offline_judge_are_shown(carded: Carded) -> None:
    grader = GraderSpec(model="offline/person_name", instructions="i", options={"accept_surname_alone": True})
    assert "accept_surname_alone</code> <code>true" in carded.with_plan(grader=grader)
    claude = GraderSpec(model="anthropic/claude", instructions="i")
    assert "This judge is a program" not in carded.with_plan(grader=claude)


def test_with_a_row_for_each_draw_the_identity_is_over_distinct_completions(carded: Carded) -> None:
    per_draw = carded.with_plan(settings=carded.plan.settings.model_copy(update={"deduplicate": False}))
    identity = "gradient of log(sum over {} of exp(`logprob`))"
    assert identity.format("distinct completions") in per_draw and identity.format("rows") not in per_draw
    assert identity.format("rows") in carded.card and "a row for each draw" not in carded.card
    assert Rendered(DatasetCard(per_draw).text).texts["h2"] == HEADINGS


def test_the_card_says_why_rows_are_encoded_again_and_what_they_weigh(carded: Carded) -> None:
    card = carded.with_figures(num_reencoded=54_321)
    assert "because the text ends inside a drawn token (`tokens_as_drawn`) | 54,321" in card
    assert "`tokens_as_drawn` is false (here 54,321" in card and "drawn tokens that cover the text" in card


def test_the_same_dataset_has_the_same_card(carded: Carded) -> None:
    before = carded.card
    assert write_card(carded.experiment, carded.plan, carded.figures) == before
