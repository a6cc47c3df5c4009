"""The report as a file: bounded, the same for the same experiment, whole or not at all, never broken by its data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen.errors import InputError
from evalgen.files import JsonListWriter
from evalgen.records import Query, VerdictKind
from evalgen.report import data, embedded, selection
from evalgen.report.comparison import families, named_datasets
from evalgen.report.data import read_experiments
from evalgen.report.figures import evaluate
from evalgen.report.page import report_html, write_report
from evalgen.report.records import ShownCompletion
from ray_jobs.report import load_arguments, main
from tests.browser.experiment_files import (
    GRADER,
    Recipe,
    Said,
    death_date_queries,
    stopped_experiment,
    trained_for,
    write_experiment,
)

REPOSITORY = Path(__file__).parents[3]
FINAL = {"run": "run", "checkpoint": "checkpoint_final"}
DRAWN_ONCE: dict[str, Any] = {"draws": 1, "mass": 0.1, "mass_sampling": 0.1, "reasoning": ""}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    queries = death_date_queries()
    directory = tmp_path_factory.mktemp("outputs") / "2026_11_24_10-00-00_a1B2c_deaths"
    write_experiment(directory, [Recipe(**FINAL, queries=queries, said=trained_for(1, queries))], tokenizer)
    return directory


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """600 prompts with up to 60 completions each; every fiftieth has one that is not judged."""
    queries = tuple(Query(id=f"q{n}", prompt=f"Prompt {n}:", reference=" yes", source_dataset="s") for n in range(600))
    said = {
        query.id: tuple(
            Said(
                text=f" no {n} {word}",
                count=60 - word,
                verdict="ungraded" if n % 50 == 0 and word == 49 else "not_equivalent",
                error="none" if n % 50 == 0 and word == 49 else None,
            )
            for word in range(50 if n < 20 or n % 50 == 0 else 1)
        )
        for n, query in enumerate(queries)
    }
    padded = {
        key: (Said(text=" yes", count=2000 - sum(it.count for it in its), verdict="equivalent"), *its)
        for key, its in said.items()
    }
    directory = tmp_path_factory.mktemp("outputs") / "2026_11_24_10-00-00_a1B2c_large"
    write_experiment(directory, [Recipe(**FINAL, queries=queries, said=padded)], tokenizer)
    return directory


class Scripts(HTMLParser):
    """The content of every script of a page, as a browser finds it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.contents: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "script":
            self._inside = True
            self.contents.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, content: str) -> None:
        if self._inside:
            self.contents[-1] += content


def shown_data(page: str) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads(Scripts(page).contents[0])
    return content


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_json_means_the_same_and_cannot_end_its_element(content: object) -> None:
    text = str(embedded.script_json(content))
    assert not re.search("[<>&\u2028\u2029]", text)
    page = Scripts(f'<script type="application/json">{text}</script><p>')
    assert [json.loads(it) for it in page.contents] == [content]


@given(st.lists(st.dictionaries(st.sampled_from(["prompt_id", "reason"]), st.text(), min_size=1)))
def test_a_json_list_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("json") / "left_out.json"
    with JsonListWriter(path) as writer:
        writer.write(rows)
    assert list(selection.listed(path)) == rows
    assert list(selection.listed(path.with_name("none.json"))) == []


def test_equal_experiments_make_equal_pages(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    assert report_html(read_experiments([finished])) == report_html(read_experiments([copy]))


def test_pictures_have_text_as_text_and_no_colour_or_date_of_their_own(finished: Path) -> None:
    page = report_html(read_experiments([finished]))
    pictures = re.findall(r"<svg[^>]*class=\"plot\".*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        assert "<text" in picture
        assert not re.search(r"style=|#[0-9a-fA-F]{6}\b|<metadata|<dc:date|http", picture)
    assert not re.search(r"\sstyle=", page)


def test_what_is_shown_is_bounded_and_the_page_says_so(large: Path) -> None:
    page = report_html(read_experiments([large]))
    prompts = shown_data(page)["prompts"]
    assert len(prompts) == data.MAX_PROMPTS
    assert max(len(prompt["completions"]) for prompt in prompts) == selection.MAX_COMPLETIONS  # type: ignore[arg-type]
    first = prompts[0]
    assert first["hidden"] == 51 - selection.MAX_COMPLETIONS
    assert '<td role="cell" data-label="of">600</td>' in page
    assert f'<td role="cell" data-label="Prompts here">{data.MAX_PROMPTS}</td>' in page
    assert len(page.encode()) < 10_000_000


def test_what_is_not_judged_is_shown_first_and_the_rest_is_spread_evenly(large: Path) -> None:
    prompts = shown_data(report_html(read_experiments([large])))["prompts"]
    ungraded = {f"q{n}" for n in range(0, 600, 50)}
    assert {prompt["id"] for prompt in prompts[: len(ungraded)]} == ungraded
    for prompt in prompts[: len(ungraded)]:
        assert any(it["verdict"] == "ungraded" for it in prompt["completions"])  # type: ignore[attr-defined]
    numbers = sorted(int(str(prompt["id"])[1:]) for prompt in prompts)
    gaps = [after - before for before, after in pairwise(numbers)]
    assert (numbers[0], numbers[-1], max(gaps)) == (0, 599, 2)


def test_the_page_stays_small_whatever_the_texts_are(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MAX_BYTES", 50_000)
    queries = tuple(Query(id=f"q{n}", prompt="<" * 3000, reference=" yes", source_dataset="s") for n in range(12))
    said = {query.id: (Said(text=" &" + "<" * 900, count=10),) for query in queries}
    write_experiment(tmp_path / "e", [Recipe(**FINAL, queries=queries, said=said)], tokenizer)
    page = report_html(read_experiments([tmp_path / "e"]))
    assert 0 < len(shown_data(page)["prompts"]) < 12
    assert len(Scripts(page).contents[0].encode()) < 51_000


def test_rows_of_one_completion_are_one_bar(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    queries = death_date_queries()[:1]
    said = {queries[0].id: (Said(text=" March 15, 1987", count=7, verdict="equivalent"), Said(text=" no", count=3))}
    recipe = Recipe(**FINAL, queries=queries, said=said, settings={"deduplicate": False})
    write_experiment(tmp_path / "e", [recipe], tokenizer)
    (prompt,) = shown_data(report_html(read_experiments([tmp_path / "e"])))["prompts"]
    kept = [it for it in prompt["completions"] if it["verdict"] == "equivalent"]  # type: ignore[attr-defined]
    assert [(it["draws"], round(it["weight"], 6)) for it in kept] == [(7, 1.0)]


def test_a_text_that_was_dropped_is_counted_once_and_what_is_shown_has_all_its_draws() -> None:
    collected = selection._Collected(prompt={"greedy_completion": None}, index=0)
    num_texts = 60 * selection.MAX_COMPLETIONS
    for draw in range(4 * num_texts):
        text = f" {draw % num_texts}"
        collected.add(ShownCompletion(**DRAWN_ONCE, text=text, raw=text, verdict="equivalent", weight=1e-5))
    shown = collected.shown()
    assert shown.num_completions == num_texts and {it.draws for it in shown.completions} == {4}


def greedy_of(
    greedy: str, verdict: VerdictKind, *completions: tuple[str, str, VerdictKind], num_draws: int | None = None
) -> list[str]:
    """Texts that are marked as the greedy completion, of completions as (text, raw text, verdict)."""
    prompt = {"greedy_completion": greedy, "greedy_verdict": verdict, "greedy_draws": num_draws}
    collected = selection._Collected(prompt=prompt, index=0)
    for text, raw, kind in completions:
        collected.add(ShownCompletion(**DRAWN_ONCE, text=text, raw=raw, verdict=kind))
    return [it.text for it in collected.shown().completions if it.is_greedy]


def test_the_greedy_completion_is_marked_though_it_is_merged_into_a_row_of_another_text() -> None:
    right, wrong = "equivalent", "not_equivalent"
    rows = [(" May", " May, so", right), (" May 3", " May 3, but", right), (" June", " June", right)]
    assert greedy_of(" May 3. It", right, *rows) == [" May 3"]
    assert greedy_of(" May 3. It", wrong, *rows, (" May 3. It", " May 3. It", wrong)) == [" May 3. It"]
    assert greedy_of(" May, so", right, *rows) == [" May"]
    assert greedy_of(" April", "ungraded", *rows, (" April", " April", "ungraded")) == [" April"]
    assert greedy_of(" never shown", right, *rows) == []
    assert greedy_of(" May 3. It", right, *rows, num_draws=7) == [" May 3"]
    assert greedy_of(" May 3. It", right, *rows, num_draws=0) == [], "no draw gave it: it is in no row"


def test_of_a_dataset_that_became_partial_the_older_whole_one_is_not_shown(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    (whole,) = (copy / "sampled_eval_datasets").iterdir()
    partial = shutil.copytree(whole, whole.with_name(f"{whole.name}.partial"))
    assert read_experiments([copy])[0].datasets[0].directory == whole
    summary = json.loads((copy / "summary.json").read_text())
    summary["datasets"][0]["num_missing_prompts"] = 1
    (copy / "summary.json").write_text(json.dumps(summary))
    assert read_experiments([copy])[0].datasets[0].directory == partial
    shutil.rmtree(partial)
    assert read_experiments([copy])[0].datasets[0].directory is None


def test_experiments_of_one_name_have_labels_of_their_own(finished: Path, tmp_path: Path) -> None:
    copies = [shutil.copytree(finished, tmp_path / folder / finished.name) for folder in ("a", "b")]
    (copies[1] / "config.json").unlink()
    experiments = read_experiments(copies)
    assert [it.label for it in experiments] == [f"{folder}/{finished.name}" for folder in ("a", "b")]
    assert "Side by side" not in report_html(experiments), "how the second was sampled is not known"


def test_questions_and_votes_stay_after_a_switch_to_batches_and_back(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    (before,) = read_experiments([copy])
    (name,) = (copy / "sampled_eval_datasets").iterdir()
    plan = (copy / "plan.json").read_text()
    for switched, file in (("plan", copy / "plan.json"), ("rows", name / "eval_dataset" / "data" / "0000.parquet")):
        if switched == "plan":
            file.write_text(plan.replace('"anthropic/', '"anthropic-batch/'))
        else:
            table = pq.read_table(file)
            place = table.column_names.index("grader_model")
            model = pa.array([f"anthropic-batch/{GRADER.model.partition('/')[2]}"] * len(table))
            pq.write_table(table.set_column(place, "grader_model", model), file)
        (after,) = read_experiments([copy])
        assert after.questions == before.questions and after.questions is not None and after.questions.num_split
        split = [[prompt.num_split for prompt in it.datasets[0].shown] for it in (before, after)]
        assert split[0] == split[1] and sum(split[0])


def test_only_what_was_sampled_alike_is_side_by_side(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    queries = death_date_queries()
    recipes = [
        Recipe(**FINAL, queries=queries, said=trained_for(1, queries), prefix=prefix, settings={"temperature": heat})
        for prefix, heat in (("sampled_a", 0.5), ("sampled_b", 0.5), ("sampled_c", 1.0), ("sampled_d", 2.0))
    ]
    write_experiment(tmp_path / "e", recipes, tokenizer)
    (family,) = families(named_datasets(read_experiments([tmp_path / "e"])))
    assert [named.dataset.name[:9] for named in family.members] == ["sampled_a", "sampled_b"]
    assert "datasets (temperature 0.5, " in report_html(read_experiments([tmp_path / "e"]))


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    summary = {
        "datasets": [{"cost_usd": 1.5, "num_draws": 4}, {"cost_usd": None, "num_draws": 6}],
        "timings": {"total": 2},
    }
    assert evaluate(summary, "datasets[*].cost_usd") is None
    assert evaluate(summary, "known datasets[*].cost_usd") == 1.5
    assert evaluate(summary, "datasets[*].num_draws / timings.total") == 5
    assert evaluate(summary, "max datasets[*].num_draws") == 6
    assert evaluate({"datasets": [{"num_draws": None}]}, "known datasets[*].num_draws") is None


def test_a_job_without_results_has_a_page(tmp_path: Path) -> None:
    directory = stopped_experiment(tmp_path / "2026_11_24_10-00-00_c1B2c_stopped")
    page = write_report([directory], directory / "report.html").read_text(encoding="utf-8")
    assert "No results yet" in page
    assert len(Scripts(page).contents) == 1  # the page's own, without data


def test_a_dataset_whose_directory_is_gone_is_in_the_tables_all_the_same(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    shutil.rmtree(copy / "sampled_eval_datasets")
    page = report_html(read_experiments([copy]))
    assert "its directory is not there" in page
    assert "There are no completions to show" in page


@pytest.mark.parametrize(
    "file",
    [
        "summary.json",
        "verdicts/0000.parquet",
        "sampled_eval_datasets/sampled_death_dates_checkpoint_final/prompts.parquet",
        "sampled_eval_datasets/sampled_death_dates_checkpoint_final/eval_dataset/data/0000.parquet",
        "sampled_eval_datasets/sampled_death_dates_checkpoint_final/non_equivalent_completions.parquet",
    ],
)
def test_a_damaged_file_is_one_line_and_the_old_report_stays(finished: Path, tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    report = copy / "report.html"
    report.write_text("old")
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot read") as error:
        write_report([copy], report)
    assert "\n" not in str(error.value)
    assert report.read_text() == "old"
    assert not list(copy.glob("*.writing"))


def test_a_file_with_other_columns_is_one_line(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / finished.name)
    (dataset,) = (copy / "sampled_eval_datasets").iterdir()
    pq.write_table(pa.table({"other": [1]}), dataset / "prompts.parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_experiments([copy])


def test_the_command_writes_beside_what_it_read_and_says_where(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_arguments([str(finished)], tmp_path) == ([finished], finished / "report.html")
    other = shutil.copytree(finished, tmp_path / "other")
    assert load_arguments([str(other), str(finished)], tmp_path)[1] == tmp_path / "comparison.html"
    output = tmp_path / "page.html"
    assert main([str(finished), str(other), "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out.replace("\n", "")
    assert "Side by side" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiments: missing"),
        (["nowhere"], "is no directory"),
        (["."], "neither config.json nor summary.json"),
        ([".", "--output", "."], "is a directory"),
        ([".", "--output", "no/such/place.html"], "is no directory that can be written to"),
        ([".", "--outptu", "x"], "did you mean output"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_report_loads_neither_torch_nor_ray_nor_transformers() -> None:
    code = (
        "import sys, ray_jobs.report, evalgen.report.page; print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
