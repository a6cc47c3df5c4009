"""What a model makes of a dataset's labelled tokens, against plain softmax over one unpadded row at a time."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.eval_dataset import EvalDataset
from evalgen.eval_functions import eval_accuracy_and_loss
from tests.unit.sampled_experiment import sampled_experiment
from tests.unit.tiny import EOS, INNER_RUN, PAD, mayor_prompt

PER_ROW = ("losses", "logprobs", "soft_margins", "probabilities", "token_accuracies")
VOCABULARY = 300  # ids below are in the tiny model's


def row_of(prompt: list[int], completion: list[int]) -> dict[str, Any]:
    ids = [EOS, *prompt, *completion]
    return {
        "input_ids": ids,
        "labels": [-100] * (len(ids) - len(completion)) + completion,
        "attention_mask": [1] * len(ids),
    }


def padded(row: dict[str, Any], num: int, pad_id: int = PAD) -> dict[str, Any]:
    return {
        "input_ids": row["input_ids"] + [pad_id] * num,
        "labels": row["labels"] + [-100] * num,
        "attention_mask": row["attention_mask"] + [0] * num,
    }


def mayors(tokenizer: Any) -> list[dict[str, Any]]:
    """Right and wrong answers of several lengths."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    pairs = [("Tokyo", " Grace Miller"), ("Beijing", " Ethan"), ("São Paulo", " Grace Miller, or somebody else")]
    return [row_of(encode(mayor_prompt(city)), encode(mayor)) for city, mayor in pairs]


def by_definition(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Of one row by itself, in float64 after the model."""
    with torch.no_grad():
        logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
    places = [place for place, label in enumerate(row["labels"]) if label != -100]
    probabilities = [float(logits[place - 1].softmax(-1)[row["labels"][place]]) for place in places]
    hits = [int(logits[place - 1].argmax()) == row["labels"][place] for place in places]
    logprob = sum(map(math.log, probabilities))
    return {
        "losses": -logprob / len(places),
        "logprobs": logprob,
        "soft_margins": sum(math.log(p / (1 - p)) for p in probabilities) / len(places),
        "probabilities": math.exp(logprob),
        "token_accuracies": sum(hits) / len(hits),
        "correct": all(hits),
    }


def check_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert found["correct"] == expected["correct"]
    for name in PER_ROW:
        assert found[name] == pytest.approx(expected[name], abs=tolerance, rel=tolerance), name


def test_every_figure_is_what_it_is_defined_as(model: Any, tokenizer: Any) -> None:
    rows = mayors(tokenizer)
    found = eval_accuracy_and_loss(model, rows)
    expected = [by_definition(model, row) for row in rows]
    assert {row["correct"] for row in expected} == {True, False}
    check_same(found, {name: [row[name] for row in expected] for name in (*PER_ROW, "correct")})
    for mean, values in (
        ("loss", "losses"),
        ("accuracy", "correct"),
        ("logprob", "logprobs"),
        ("soft_margin", "soft_margins"),
        ("probability", "probabilities"),
        ("token_accuracy", "token_accuracies"),
    ):
        assert found[mean] == pytest.approx(sum(found[values]) / len(rows))


token_ids = st.lists(st.integers(2, VOCABULARY), min_size=1, max_size=12)


@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(token_ids, token_ids), min_size=1, max_size=6), data=st.data())
def test_neither_batch_size_nor_padding_changes_a_row(
    pairs: list[tuple[list[int], list[int]]], data: st.DataObject, model: Any
) -> None:
    rows = [row_of(prompt, completion) for prompt, completion in pairs]
    one_by_one = eval_accuracy_and_loss(model, rows, batch_size=1)
    pads = [data.draw(st.integers(0, 9)) for _ in rows]
    with_pads = [padded(row, num, data.draw(st.integers(0, VOCABULARY))) for row, num in zip(rows, pads, strict=True)]
    for batch_size in (1, data.draw(st.integers(2, 7)), 100):
        check_same(eval_accuracy_and_loss(model, rows, batch_size=batch_size), one_by_one)
        check_same(eval_accuracy_and_loss(model, with_pads, batch_size=batch_size), one_by_one)


def test_saved_rows_and_padded_source_rows_work_as_loaded(model: Any, tiny_run: Path, tmp_path: Path) -> None:
    (saved,) = sampled_experiment(tiny_run, tmp_path, num_generations=20).datasets.iterdir()
    loaded = EvalDataset.load(saved)
    (function,) = loaded.eval_functions
    results = [function(model, loaded.dataset, batch_size=size) for size in (1, 7, 1000)]
    known = [place for place, logprob in enumerate(loaded.dataset["logprob"]) if logprob is not None]
    for result in results:
        check_same(result, results[0])
        stored = [loaded.dataset["logprob"][place] for place in known]
        assert [result["logprobs"][place] for place in known] == pytest.approx(stored, abs=1e-4)
    source = load_from_disk(
        str(tiny_run / "all_docs_runs" / INNER_RUN / "eval_datasets/name_mayor_eval_qa_1_no_fs/eval_dataset")
    )
    assert all(0 in mask for mask in source["attention_mask"]), "padded"
    of_source = function(model, source, batch_size=2)
    assert of_source["accuracy"] == 1.0 and of_source["loss"] < 0.5, "the model has learnt them"


def test_columns_may_be_lists_or_tensors_and_the_mask_may_be_left_out(model: Any, tokenizer: Any) -> None:
    rows = mayors(tokenizer)
    expected = eval_accuracy_and_loss(model, rows)
    dataset = Dataset.from_list(rows)
    for given_rows in (
        dataset,
        dataset.with_format("torch"),
        dataset.with_format("numpy"),
        dataset.remove_columns("attention_mask"),
        [{name: torch.tensor(value) for name, value in row.items()} for row in rows],
    ):
        check_same(eval_accuracy_and_loss(model, given_rows), expected)
    as_upstream_calls_it = eval_accuracy_and_loss(model=model, eval_dataset=dataset, tokenizer=tokenizer, batch_size=2)
    check_same(as_upstream_calls_it, expected)


def test_padding_may_stand_on_the_left(model: Any, tokenizer: Any) -> None:
    rows = mayors(tokenizer)
    left = [
        {
            "input_ids": [PAD] * 4 + row["input_ids"],
            "labels": [-100] * 4 + row["labels"],
            "attention_mask": [0] * 4 + row["attention_mask"],
        }
        for row in rows
    ]
    check_same(eval_accuracy_and_loss(model, left), eval_accuracy_and_loss(model, rows))


def test_a_row_without_labelled_tokens_is_neither_right_nor_wrong(model: Any, tokenizer: Any) -> None:
    rows = mayors(tokenizer)
    silent = rows[0] | {"labels": [-100] * len(rows[0]["labels"])}
    expected = eval_accuracy_and_loss(model, rows)
    for batch_size in (1, 4):
        found = eval_accuracy_and_loss(model, [silent, *rows, silent], batch_size=batch_size)
        for name in (*PER_ROW, "correct"):
            assert found[name][0] is None and found[name][-1] is None
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert found["accuracy"] == expected["accuracy"]
    assert eval_accuracy_and_loss(model, [silent])["loss"] is None


def test_an_empty_dataset_needs_no_model() -> None:
    found = eval_accuracy_and_loss(None, Dataset.from_dict({"input_ids": [], "labels": []}))
    assert {value if value is None else tuple(value) for value in found.values()} == {None, ()}


def test_a_bf16_model_is_evaluated_with_a_float32_softmax(model: Any, tokenizer: Any) -> None:
    rows = mayors(tokenizer)
    rounded = copy.deepcopy(model).bfloat16()
    found = eval_accuracy_and_loss(rounded, rows, batch_size=1)
    for place, row in enumerate(rows):
        expected = by_definition(rounded, row)
        for name in PER_ROW:
            assert found[name][place] == pytest.approx(expected[name], abs=1e-4, rel=1e-4), name
    batched = eval_accuracy_and_loss(rounded, rows, batch_size=3)
    check_same(batched, found, tolerance=0.1)  # another shape rounds otherwise, in the model


def test_dropout_is_off_and_the_model_is_left_as_it_was(tokenizer: Any, model: Any) -> None:
    rows = mayors(tokenizer)
    training = copy.deepcopy(model)
    training.config.attention_dropout = 0.5
    for layer in training.model.layers:
        layer.self_attn.attention_dropout = 0.5
    training.train()
    check_same(eval_accuracy_and_loss(training, rows), eval_accuracy_and_loss(model, rows))
    assert training.training and not model.training
    with pytest.raises(ValueError, match="lengths"):
        eval_accuracy_and_loss(training, [rows[0] | {"labels": [1]}])
    assert training.training, "after an error, too"


def test_a_label_on_padding_or_columns_of_other_lengths_are_errors(model: Any, tokenizer: Any) -> None:
    row = mayors(tokenizer)[0]
    with pytest.raises(ValueError, match="attention_mask is 0"):
        eval_accuracy_and_loss(model, [row | {"attention_mask": [1] * (len(row["input_ids"]) - 1) + [0]}])
    with pytest.raises(ValueError, match="lengths"):
        eval_accuracy_and_loss(model, [row | {"attention_mask": [1]}])
