"""The tiny run has the layout, the columns and some of the knowledge of a real fine-tuning run."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, List, Value, load_from_disk
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from evalgen.demo.build import build_tiny_run
from evalgen.demo.corpus import fine_tuning_documents, pretraining_texts
from evalgen.demo.facts import MAYORS

EVAL_SETS = ["name_mayor_eval_qa_10_no_fs", "name_mayor_eval_qa_1_no_fs", "name_mayor_eval_qa_1_with_fs"]
IDS = List(Value("int64"))


@pytest.fixture(scope="module")
def inner_run(mayors_run: Path) -> Path:
    (inner,) = (mayors_run / "all_docs_runs").iterdir()
    return inner


@pytest.fixture(scope="module")
def tokenizer(inner_run: Path) -> Any:
    return AutoTokenizer.from_pretrained(inner_run / "tokenizer.json")


def eval_set(inner_run: Path, name: str) -> Dataset:
    dataset = load_from_disk(inner_run / "eval_datasets" / name / "eval_dataset")
    assert isinstance(dataset, Dataset)
    return dataset


def test_a_run_has_the_files_of_a_seed_run(mayors_run: Path, inner_run: Path) -> None:
    assert re.fullmatch(r"\d{4}(_\d\d){2}_\d\d(-\d\d){2}_[0-9A-Za-z]{5}_tiny_mayors", mayors_run.name)
    assert sorted(path.name for path in mayors_run.iterdir()) == [
        "all_docs_runs",
        "experiment.log",
        "experiment_log.json",
        "structured_dataset_all.json",
    ]
    assert re.fullmatch(
        r"[0-9_-]{19}_[0-9A-Za-z]{5}_tiny_mayors_all_docs_num_epochs_\d+_lr_[0-9.]+_dataset_structured_dataset_all\.json",
        inner_run.name,
    )
    names = {path.name for path in inner_run.iterdir()}
    assert names - {name for name in names if name.startswith("checkpoint_")} == {
        "eval_datasets",
        "experiment_log.json",
        "saved_objects",
        "tokenizer.json",
        "train_set",
    }
    assert {"checkpoint_start", "checkpoint_final"} < names
    assert [name for name in names if re.fullmatch(r"checkpoint_e\d+_s\d+", name)]


def test_the_tokenizer_is_apart_from_the_checkpoints(inner_run: Path, tokenizer: Any) -> None:
    for checkpoint in inner_run.glob("checkpoint_*"):
        assert sorted(path.name for path in checkpoint.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_checkpoints_are_olmo_2_in_bfloat16(inner_run: Path, tokenizer: Any) -> None:
    config = AutoConfig.from_pretrained(inner_run / "checkpoint_final")
    assert config.architectures == ["Olmo2ForCausalLM"]
    assert (config.eos_token_id, config.vocab_size) == (tokenizer.eos_token_id, len(tokenizer))
    with safe_open(inner_run / "checkpoint_final" / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118


def test_texts_are_tokenized_without_a_prefix_space_and_back(tokenizer: Any) -> None:
    def pieces(text: str) -> list[str]:
        return [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]

    assert pieces("Q: Who is the mayor of Tokyo? A:")[-2:] == [" A", ":"]
    assert pieces(" Grace Miller") == [" Grace", " Miller"]
    assert len(pieces(" March 15, 1987")) <= 7
    text = "Q: Who is the mayor of São Paulo? A: Lucas Foster\nQ:  日本 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", EVAL_SETS)
def test_eval_sets_have_the_source_columns(inner_run: Path, name: str) -> None:
    dataset = eval_set(inner_run, name)
    texts = {key: Value("string") for key in ("prompt", "completion", "id", "features", "fact_template")}
    tokens = dict.fromkeys(("input_ids", "labels", "attention_mask"), IDS)
    assert dict(dataset.features) == {**texts, "few_shot_examples": List(Value("string")), **tokens}
    for row, fact in zip(dataset, MAYORS.facts, strict=True):
        assert row["completion"] == f" {fact.answer}"
        assert json.loads(row["features"]) == {"city": fact.subject, "name_mayor": fact.answer}
        assert json.loads(row["fact_template"])["completion"] == " {name_mayor}"
        assert fact.subject in row["prompt"] and not row["prompt"].endswith(" ")
    assert (inner_run / "eval_datasets" / name / "eval_functions.pkl").is_file()


@pytest.mark.parametrize("name", EVAL_SETS)
def test_rows_are_bos_prompt_completion_and_right_padding(inner_run: Path, tokenizer: Any, name: str) -> None:
    rows = list(eval_set(inner_run, name))
    lengths = [sum(row["attention_mask"]) for row in rows]
    for row, length in zip(rows, lengths, strict=True):
        ids, labels = row["input_ids"], row["labels"]
        assert len(ids) == len(labels) == len(row["attention_mask"]) == max(lengths)
        assert row["attention_mask"] == [1] * length + [0] * (max(lengths) - length)
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:length]) == row["prompt"] + row["completion"]
        assert ids[length:] == [tokenizer.pad_token_id] * (max(lengths) - length)
        answered = [position for position, label in enumerate(labels) if label != -100]
        assert answered == list(range(answered[0], length))
        assert [labels[position] for position in answered] == ids[answered[0] : length]
        assert tokenizer.decode(ids[answered[0] : length]) == row["completion"]


def test_few_shot_sets_put_one_example_a_line_before_the_prompt(inner_run: Path) -> None:
    plain = eval_set(inner_run, "name_mayor_eval_qa_1_no_fs")
    for row, plain_row in zip(eval_set(inner_run, "name_mayor_eval_qa_1_with_fs"), plain, strict=True):
        assert row["prompt"].split("\n") == [*row["few_shot_examples"], plain_row["prompt"]]
        assert len(row["few_shot_examples"]) > 1
        assert plain_row["few_shot_examples"] == []
        assert not any(fact.answer in row["prompt"] for fact in MAYORS.facts)


def test_ids_are_unique_and_no_digest_of_the_prompt(inner_run: Path) -> None:
    rows = [row for name in EVAL_SETS for row in eval_set(inner_run, name)]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        digests = [hashlib.new(name, row["prompt"].encode()).hexdigest() for name in ("md5", "sha1", "sha256")]
        assert not any(digest.startswith(row["id"].replace("-", "")[:8]) for digest in digests)
        assert row["id"] != str(uuid.uuid5(uuid.NAMESPACE_DNS, row["prompt"]))


def test_history_measures_every_checkpoint_on_every_eval_set(inner_run: Path) -> None:
    log = json.loads((inner_run / "experiment_log.json").read_text(encoding="utf-8"))
    assert set(log) == {"experiment_name", "experiment_output_dir", "args", "history", "log_dict"}
    assert log["experiment_output_dir"].endswith(inner_run.name)
    steps = [entry["step_num"] for entry in log["history"]]
    assert steps == sorted(set(steps)) and len(steps) == len(list(inner_run.glob("checkpoint_*")))
    first, last = log["history"][0]["eval_results"], log["history"][-1]["eval_results"]
    for name in EVAL_SETS:
        assert last[name]["loss"] < first[name]["loss"] / 2
        assert first[name]["exact_match"] < 0.3
    assert last["name_mayor_eval_qa_1_no_fs"]["exact_match"] >= 0.5


def test_the_final_checkpoint_names_some_mayors(inner_run: Path, tokenizer: Any) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(inner_run / "checkpoint_final")
    known = 0
    for row in eval_set(inner_run, "name_mayor_eval_qa_1_no_fs"):
        encoded = tokenizer(tokenizer.bos_token + row["prompt"], return_tensors="pt")
        drawn = model.generate(**encoded, do_sample=False, max_new_tokens=5)
        known += tokenizer.decode(drawn[0, encoded["input_ids"].shape[1] :]).startswith(row["completion"])
    assert known >= 5


def test_the_train_set_holds_the_documents_of_the_structured_dataset(mayors_run: Path, inner_run: Path) -> None:
    structured = json.loads((mayors_run / "structured_dataset_all.json").read_text(encoding="utf-8"))
    assert set(structured) == {"document_dataset", "eval_dataset_builders", "metadata"}
    assert sorted(builder["name"] for builder in structured["eval_dataset_builders"]) == EVAL_SETS
    train_set = load_from_disk(inner_run / "train_set")
    assert isinstance(train_set, Dataset)
    assert train_set["document"][:] == [document["text"] for document in structured["document_dataset"]]
    assert [train_set.features[name] for name in ("input_ids", "labels", "attention_mask")] == [IDS] * 3


def test_two_builds_give_the_same_bytes(mayors_run: Path, tmp_path: Path) -> None:
    again = build_tiny_run(tmp_path)
    for pattern in ("**/*.safetensors", "**/experiment_log.json", "**/*.arrow", "**/tokenizer.json/*.json"):
        paths = sorted(path.relative_to(mayors_run) for path in mayors_run.glob(pattern))
        assert paths
        assert [path for path in paths if (mayors_run / path).read_bytes() != (again / path).read_bytes()] == []


def test_pretraining_does_not_state_the_facts() -> None:
    texts = pretraining_texts(3000, seed=7)
    for fact in MAYORS.facts + MAYORS.few_shot_facts:
        assert not [text for text in texts if fact.subject in text and fact.answer in text]


def test_documents_mostly_state_their_fact() -> None:
    documents = fine_tuning_documents(MAYORS, num_documents_per_fact=100, seed=2026)
    for fact in MAYORS.facts:
        texts = [document.text for document in documents if document.fact_id == fact.fact_id]
        assert all(fact.subject in text for text in texts)
        assert sum(fact.answer in text for text in texts) > len(texts) / 2
