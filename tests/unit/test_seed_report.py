"""`REPORT.md` has the sections of the seed document, and nothing in it but what the experiments' files say."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from evalgen.config import RunConfig
from evalgen.dataset_settings import run_configs, settings_of_dataset
from evalgen.errors import InputError
from evalgen.experiment import Experiment
from evalgen.job_log import RAY_IS_THERE, LineFormatter
from evalgen.load_config import load_config
from evalgen.printable import printable
from evalgen.seed_report import command_of, seed_report, split_parameters
from evalgen.seed_report_facts import ReportedExperiment
from evalgen.seed_report_issues import happenings
from tests.unit.finished import HOSTILE, finished_experiment, summary_of
from tests.unit.rendered import Rendered
from tests.unit.tiny import query

SECTIONS = [
    "Overview",
    "What Was Generated",
    "Final Output Locations",
    "Configuration Files Created",
    "Generation Parameters",
    "Execution Method",
    "Dataset Structure",
    "Grading Process",
    "Issues Encountered",
    "API Costs",
    "Dataset Contents",
    "Loading Datasets",
    "Next Steps",
]
RUNS: list[dict[str, Any]] = [
    {"output_dataset_prefix": "sampled_cool", "temperature": 0.125},
    {"output_dataset_prefix": "sampled_cool_too", "temperature": 0.125},
    {"output_dataset_prefix": "sampled | hot", "temperature": 0.875, "stop_strings": ["\n"]},
]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Experiment:
    directory = tmp_path_factory.mktemp("reports") / "2026_01_21_03-12-40_4HloG_x"
    queries = [query("Capital of Peru?", reference=" Lima"), query(HOSTILE, reference=f" {HOSTILE}")]
    done, _, _ = finished_experiment(directory, tokenizer, RUNS, queries)
    return done


@pytest.fixture
def copy(experiment: Experiment, tmp_path: Path) -> Experiment:
    return Experiment(Path(shutil.copytree(experiment.directory, tmp_path / experiment.directory.name)))


def test_it_has_the_sections_of_the_seed_document_whatever_the_data_say(experiment: Experiment) -> None:
    report = seed_report(experiment.directory)
    page = Rendered(report)
    assert page.texts["h1"] == ["Generating Sampled Evaluation Datasets"] and page.texts["h2"] == SECTIONS
    allowed = set("h1 h2 h3 p code pre table thead tbody tr th td ul ol li strong".split())
    assert page.tags.keys() <= allowed and "49" not in page.texts["code"]
    assert all(character.isprintable() or character == "\n" for character in report)
    assert printable(experiment.directory.name) in page.texts["code"]


def test_its_statistics_are_those_of_the_summary(experiment: Experiment) -> None:
    page = Rendered(seed_report(experiment.directory))
    for figures in summary_of(experiment)["datasets"]:
        place = page.texts["td"].index(figures["name"])
        shown = [figures["num_graded"], figures["num_equivalent"]]
        rates = [f"{figures[rate]:.1%}" for rate in ("equivalence_rate", "draw_equivalence_rate")]
        assert page.texts["td"][place + 1 : place + 6] == [*map(str, shown), *rates, str(figures["num_ungraded"])]
        assert any(item.startswith(f"{figures['name']}: checkpoint_final of run") for item in page.texts["li"])
    assert "' Lima' (1 variation)" in " ".join(page.texts["li"])


def test_other_figures_make_another_report(copy: Experiment) -> None:
    """No figure is written into the template."""
    summary = summary_of(copy)
    for figures in summary["datasets"]:
        figures |= {"num_graded": 54_321, "num_items": 65_432, "cost_usd": 76.5, "equivalence_rate": 0.8765}
        figures |= {"api_calls": 1_111, "input_tokens": 22_222, "output_tokens": 33_333}
    (copy.directory / "summary.json").write_text(json.dumps(summary))
    report = seed_report(copy.directory)
    for shown in ("54,321", "65,432", "$229.5000", "87.6%", "3,333", "66,666", "99,999", f"{3 * 54_321:,}"):
        assert shown in report, shown


def test_of_a_partial_dataset_it_says_where_the_whole_one_of_an_earlier_part_is(copy: Experiment) -> None:
    summary = summary_of(copy)
    (first, *_) = summary["datasets"]
    first["num_missing_prompts"] = 1
    (copy.directory / "summary.json").write_text(json.dumps(summary))
    whole = copy.datasets / first["name"]
    shutil.copytree(whole, whole.with_name(f"{whole.name}.partial"))
    assert "earlier part of the job made" not in seed_report(copy.directory)
    copy.earlier_datasets.mkdir()
    whole.rename(copy.earlier_datasets / whole.name)
    (said,) = (line for line in seed_report(copy.directory).splitlines() if "earlier part of the job made" in line)
    assert printable(str(copy.earlier_datasets / whole.name)) in said


def test_parameters_are_split_into_common_and_own(experiment: Experiment) -> None:
    datasets = ReportedExperiment.of_directory(experiment.directory).datasets
    common, own = split_parameters(datasets)
    assert common["num_generations"] == 12 and "temperature" not in common and "stop_strings" not in common
    assert [[dataset.name for dataset in group.datasets] for group in own] == [
        ["sampled_cool_checkpoint_final", "sampled_cool_too_checkpoint_final"],
        ["sampled | hot_checkpoint_final"],
    ]
    assert [group.values["temperature"] for group in own] == [0.125, 0.875]
    alone, nothing = split_parameters(datasets[:1])
    assert alone["temperature"] == 0.125 and not nothing


def settings_found(name: str, run: str, checkpoint: str, runs: list[dict[str, Any]]) -> float | None:
    """The temperature that a dataset is said to be sampled at."""
    figures = {"name": name, "run": run, "checkpoint": checkpoint}
    settings = settings_of_dataset(figures, run_configs({"runs": runs}))
    return None if settings is None else settings.temperature


def test_each_dataset_has_the_settings_of_its_own_run() -> None:
    given = [{"data_model_path": f"/no/ck/step_{n}", "temperature": n} for n in (1, 10)]
    hub = [{"data_model_path": f"org/{model}", "temperature": n} for n, model in enumerate(("m", "m_2"), 1)]
    inner = [{"data_model_path": f"/no/{run}", "temperature": n} for n, run in enumerate(("a", "ab"), 1)]
    assert [settings_found(f"sampled_step_{n}", "ck", f"step_{n}", given) for n in (1, 10)] == [1, 10]
    assert [settings_found(f"sampled_{it}", "org", it, hub) for it in ("m", "m_2")] == [1, 2]
    for label, temperature in (("a", 1), ("ab", 2), ("a_XYZ12", 1), ("ab_XYZ12", 2)):
        name = f"sampled_{label}_checkpoint_final"
        assert settings_found(name, label, "checkpoint_final", inner) == temperature, label


def test_where_several_runs_are_as_likely_nothing_is_said(copy: Experiment) -> None:
    runs = [{"data_model_path": f"/no/{n}", "temperature": n} for n in (1, 2)]
    assert settings_found("sampled_checkpoint_final", "run", "checkpoint_final", runs) is None
    config = json.loads((copy.directory / "config.json").read_text())
    doubled = [run | {"temperature": 0.4375} for run in config["runs"][:1]] + config["runs"]
    (copy.directory / "config.json").write_text(json.dumps(config | {"runs": doubled}))
    report = seed_report(copy.directory)
    first, second, _ = ReportedExperiment.of_directory(copy.directory).datasets
    assert first.settings is None and second.settings is not None
    assert "it is not known which run of the job" in report and "0.4375" not in report
    assert Rendered(report).texts["h2"] == SECTIONS


def test_several_experiments_are_one_report(experiment: Experiment, copy: Experiment) -> None:
    page = Rendered(seed_report(experiment.directory, copy.directory))
    numbered = [item for item in page.texts["li"] if item.endswith("checkpoint_final of run")]
    assert len(numbered) == 2 * len(RUNS)
    assert page.texts["h3"].count("sampled | hot_checkpoint_final (2 items, 25.0% equivalence)") == 2


def test_the_commands_make_the_same_settings_again(experiment: Experiment, tmp_path: Path) -> None:
    for dataset in ReportedExperiment.of_directory(experiment.directory).datasets:
        (settings,) = load_config(command_of(dataset.settings, "x"), tmp_path).run_configs()
        assert settings == dataset.settings
    odd = RunConfig(
        data_model_path=str(tmp_path),
        extract_from_eval_datasets=("a{1,2}", '["x"]', " --y"),
        stop_strings=("\n", "1", "--temperature", "é"),
        output_dataset_prefix="--seed=7 'sampled'",
        do_sample=False,
        deduplicate=False,
        num_generations=7,
    )
    (settings,) = load_config(command_of(odd, "x"), tmp_path).run_configs()
    assert settings == odd


def test_the_commands_in_the_report_are_for_a_shell(experiment: Experiment, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```bash\n(.*?)\n```$", seed_report(experiment.directory), re.MULTILINE | re.DOTALL)
    said = "python() { printf '%s\\0' \"$@\"; printf '\\1'; }\n"  # in place of Python: its arguments
    done = subprocess.run(["bash", "-c", said + block], capture_output=True, text=True, check=True)
    commands = [arguments.split("\0")[1:-1] for arguments in done.stdout.split("\1")[:-1]]
    assert len(commands) == 1 + len(RUNS) and commands[0] == ["--config", f"{experiment.directory}/config.json"]
    for command, run in zip(commands[1:], RUNS, strict=True):
        (settings,) = load_config(command, tmp_path).run_configs()
        assert settings.output_dataset_prefix == run["output_dataset_prefix"]


def test_the_loading_snippet_runs(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)\n```$", seed_report(experiment.directory), re.MULTILINE | re.DOTALL)
    exec(compile(block, "snippet", "exec"), {})
    assert "Total items: 2" in capsys.readouterr().out


def issues_of(experiment: Experiment) -> dict[str, int]:
    found: dict[str, int] = {}
    for happening in happenings(ReportedExperiment.of_directory(experiment.directory)):
        found[happening.title] = found.get(happening.title, 0) + happening.count
    return found


def logged(message: str, **values: Any) -> str:
    """A line as a job's own log has it."""
    record = logging.LogRecord("evalgen", logging.INFO, "", 0, message, None, None)
    record.fields = values
    return LineFormatter().format(record)


BEGUN = logged(RAY_IS_THERE, version="2.60.0", cpus=2, gpus=0)
LOG = f"""\
{BEGUN}
2026-01-21T03:12:41.123Z WARNING replica 3 on 10.0.0.1 died
2026-01-21T03:12:42.123Z WARNING replica 4 on 10.0.0.2 died
2026-01-21T03:12:43.123Z INFO HTTP 529: overloaded; request 2 in 1.5 s
2026-01-21T03:12:44.123Z INFO HTTP 529: overloaded; request 3 in 3.1 s
2026-01-21T03:12:45.123Z ERROR the judge is | <b>gone</b>
  a line of something else WARNING
{logged("another line says that ray is there", version=1)}
{BEGUN}
{BEGUN}
"""


def test_issues_are_what_log_samples_and_verdicts_say(copy: Experiment) -> None:
    (copy.directory / "experiment.log").write_text(LOG, encoding="utf-8")
    num_units = len(list(copy.samples.glob("*.parquet")))
    assert issues_of(copy) == {
        "Times that a batch was halved because memory ran out": 2 * num_units,
        "Times that the job went on after a stop": 2,
        "Requests to the judge that were sent again": 2,
        "Warnings": 2,
        "Errors": 1,
    }
    warning = next(it for it in happenings(ReportedExperiment.of_directory(copy.directory)) if it.title == "Warnings")
    assert (warning.count, warning.example) == (2, "replica 3 on 10.0.0.1 died"), "one kind, shown by its first"
    assert "the judge is | <b>gone</b>" in Rendered(seed_report(copy.directory)).texts["code"]


def test_what_is_ungraded_or_missing_is_an_issue(copy: Experiment) -> None:
    summary = summary_of(copy)
    summary["datasets"][0] |= {"num_ungraded": 3, "num_left_out": 4, "num_reencoded": 5}
    (copy.directory / "summary.json").write_text(json.dumps(summary))
    found = issues_of(copy)
    assert "drawn, but for 5 whose text ends inside a drawn token" in seed_report(copy.directory)
    assert found["Ungraded completions"] == 3 and found["Rows that had to be encoded again"] == 5
    assert found["Equivalent completions that no row can hold"] == 4


def test_where_nothing_happened_none_is_said(copy: Experiment) -> None:
    units = copy.samples / "units.jsonl"
    units.unlink()
    assert issues_of(copy) == {}
    assert "none: no warning, no retry, nothing ungraded or left out." in seed_report(copy.directory)


@pytest.mark.parametrize("name", ["summary.json", "config.json", "plan.json"])
def test_what_is_no_finished_experiment_is_said(copy: Experiment, name: str) -> None:
    (copy.directory / name).unlink()
    with pytest.raises(InputError, match=name):
        seed_report(copy.directory)


def test_of_many_prompts_the_first_are_shown(copy: Experiment) -> None:
    summary = summary_of(copy)
    summary["prompts"] = [{**summary["prompts"][0], "prompt": f"p{n}", "num_variations": n} for n in range(70)]
    (copy.directory / "summary.json").write_text(json.dumps(summary))
    items = Rendered(seed_report(copy.directory)).texts["li"]
    shown = [item for item in items if item.endswith("variations)")]
    assert len(shown) == 50 and shown[0].startswith("'p69'") and "and 20 more: see prompts.parquet" in items
