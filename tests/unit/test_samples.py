"""Distinct texts of the sequences drawn or enumerated, as stored in samples/*.parquet."""

from __future__ import annotations

import math
import tracemalloc
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen.records import FinishReason, SampledSequence
from evalgen.sample_tables import united_samples
from evalgen.samples import (
    SAMPLES_SCHEMA,
    Sample,
    distinct_completions,
    greedy_completion,
    samples_of,
    samples_table,
    text_ids,
)
from evalgen.sampling.enumeration import enumerate_completions
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import decode
from tests.unit.tiny import EOS, law, query, unit_of

# The contract's columns, in its order.
COLUMNS = {
    "run": pa.string(),
    "checkpoint": pa.string(),
    "prompt_id": pa.string(),
    "prompt": pa.string(),
    "completion": pa.string(),
    "token_ids": pa.list_(pa.int32()),
    "token_logprobs": pa.list_(pa.float32()),
    "logprob": pa.float64(),
    "logprob_sampling": pa.float64(),
    "sample_count": pa.int64(),
    "generation_indices": pa.list_(pa.int32()),
    "finish_reason": pa.string(),
    # Ours, behind those of the contract:
    "token_logprobs_sampling": pa.list_(pa.float32()),
    "is_greedy": pa.bool_(),
}


def sequence(
    ids: list[int],
    draws: list[int],
    reason: FinishReason = "length",
    prompt_id: str = "p",
    probability: float | None = None,
) -> SampledSequence:
    return SampledSequence(
        prompt_id=prompt_id,
        token_ids=tuple(ids),
        token_logprobs=(-0.5,) * len(ids),
        logprob=-0.5 * len(ids),
        logprob_sampling=-0.25 * len(ids) if probability is None else math.log(probability),
        token_logprobs_sampling=(-0.25,) * len(ids),
        generation_indices=tuple(draws),
        finish_reason=reason,
        is_greedy=False,
    )


def test_the_columns_are_those_of_the_contract() -> None:
    assert list(zip(SAMPLES_SCHEMA.names, SAMPLES_SCHEMA.types, strict=True)) == list(COLUMNS.items())


def test_every_draw_stands_in_the_table_once_with_its_text(tiny: LoadedModel) -> None:
    unit = unit_of([query("Q: Who"), query("São Pa")], law=law(temperature=1.2, max_new_tokens=6), num_draws=200)
    table = samples_table(unit, sample_tree(tiny, unit).sequences, tiny.tokenizer)
    for prompt_id in (q.id for q in unit.queries):
        rows = [row for row in table.to_pylist() if row["prompt_id"] == prompt_id]
        assert sorted(g for row in rows for g in row["generation_indices"]) == list(range(200))
        assert all(row["sample_count"] == len(row["generation_indices"]) for row in rows)
        for row in rows:
            ids = row["token_ids"][:-1] if row["finish_reason"] == "eos" else row["token_ids"]
            text = tiny.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert row["completion"] == text
            assert len(row["token_logprobs"]) == len(row["token_ids"])
            assert row["logprob"] == pytest.approx(sum(row["token_logprobs"]), abs=1e-4)


def test_samples_survive_parquet(tiny: LoadedModel, tmp_path: pytest.TempPathFactory) -> None:
    unit = unit_of([query("Q: Who")], num_draws=50)
    table = samples_table(unit, sample_tree(tiny, unit).sequences, tiny.tokenizer)
    pq.write_table(table, f"{tmp_path}/s.parquet")
    assert samples_of(pq.read_table(f"{tmp_path}/s.parquet")) == samples_of(table)
    assert {True, False} == {sample.is_greedy for sample in samples_of(table)}


def test_samples_of_a_version_that_did_not_say_what_is_greedy_are_read(tiny: LoadedModel) -> None:
    unit = unit_of([query("Q: Who")], num_draws=50)
    table = samples_table(unit, sample_tree(tiny, unit).sequences, tiny.tokenizer)
    older = samples_of(table.drop_columns("is_greedy"))
    assert older == [replace(sample, is_greedy=None) for sample in samples_of(table)]


@settings(max_examples=50, derandomize=True)
@given(said=st.lists(st.sampled_from([None, False, True]), min_size=1, max_size=4), data=st.data())
def test_what_one_unit_says_of_a_sequence_holds_for_its_draws_in_all_of_them(
    said: list[bool | None], data: st.DataObject, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Units of an older version say nothing. In completions as in tables, whatever the order."""
    unit = unit_of([query("x", id="p")])
    tables = []
    for draw, is_greedy in enumerate(said):
        table = samples_table(unit, [sequence([5, 6], [draw]), sequence([5], [draw + 10])], tokenizer)
        column = pa.array([is_greedy, None], pa.bool_())
        tables.append(table.set_column(table.column_names.index("is_greedy"), "is_greedy", column))
    tables = data.draw(st.permutations(tables))
    expected = True if True in said else False if False in said else None
    (one, other) = distinct_completions(samples_of(pa.concat_tables(tables)))
    assert [sample.is_greedy for sample in (*one.samples, *other.samples)] == [expected, None]
    united = united_samples(tables)
    assert united.schema == SAMPLES_SCHEMA and united["is_greedy"].to_pylist() == [expected, None]
    assert samples_of(united) == [*one.samples, *other.samples]


@settings(max_examples=100, derandomize=True)
@given(data=st.data(), num_draws=st.integers(1, 5), num_units=st.integers(1, 3))
def test_what_no_unit_drew_stays_undrawn_and_comes_last(
    data: st.DataObject, num_draws: int, num_units: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Each unit knows the greedy sequence of its prompts. By rounding these may differ from unit to unit."""
    texts = {"p": [[5], [6], [7, 8]], "q": [[5], [9]]}
    unit = unit_of([query("x", id="p"), query("y", id="q")])
    said: defaultdict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    greedy = set()
    tables = []
    for first_draw in range(0, num_units * num_draws, num_draws):
        sequences = []
        for prompt_id, choices in texts.items():
            of_draws = [data.draw(st.sampled_from(choices)) for _ in range(num_draws)]
            is_greedy = data.draw(st.sampled_from(choices))
            greedy.add((prompt_id, tuple(is_greedy)))
            for ids in choices:
                draws = [first_draw + n for n, it in enumerate(of_draws) if it == ids]
                if draws or ids == is_greedy:
                    said[prompt_id, tuple(ids)] += draws
                    it = sequence(ids, draws, prompt_id=prompt_id)
                    sequences.append(replace(it, is_greedy=ids == is_greedy))
        tables.append(samples_table(unit, sequences, tokenizer))
    united = samples_of(united_samples(data.draw(st.permutations(tables))))
    assert {(s.prompt_id, s.token_ids): list(s.generation_indices) for s in united} == dict(said)
    assert {(s.prompt_id, s.token_ids) for s in united if s.is_greedy} == greedy
    assert [s.sample_count for s in united] == [len(s.generation_indices) for s in united]
    order = [(s.prompt_id, s.generation_indices[0] if s.sample_count else np.inf) for s in united]
    assert [first for p, first in order if p == "p"] == sorted(first for p, first in order if p == "p")
    completions = distinct_completions(united)
    assert all(completion.sample_count for completion in completions)
    assert sum(completion.sample_count or 0 for completion in completions) == 2 * num_draws * num_units
    of_p = [s for s in united if s.prompt_id == "p"]
    found = greedy_completion(of_p)
    assert found is not None and found == greedy_completion(data.draw(st.permutations(of_p)))
    assert found.samples[0].is_greedy
    assert found.sample_count or not any(s.is_greedy and s.sample_count for s in of_p), "one that was drawn goes first"


def test_a_million_draws_of_a_few_sequences_take_megabytes() -> None:
    """Where each draw was a Python number, they took 36 bytes each, and the driver's memory grew with the draws."""
    draws = np.arange(1_000_000, dtype=np.int32)
    row = {name: [None] * 4 for name in SAMPLES_SCHEMA.names} | {
        "prompt_id": ["p"] * 4,
        "completion": list("abcd"),
        "token_ids": [[n] for n in range(4)],
        "token_logprobs": [[-0.5]] * 4,
        "token_logprobs_sampling": [[-0.5]] * 4,
        "sample_count": [250_000] * 4,
        "generation_indices": [draws[n::4] for n in range(4)],
    }
    table = pa.table(row, schema=SAMPLES_SCHEMA)
    tracemalloc.start()
    completions = distinct_completions(samples_of(table))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(c.text, c.sample_count, c.generation_idx) for c in completions] == [
        (text, 250_000, n) for n, text in enumerate("abcd")
    ]
    assert peak_bytes < 10_000_000


def test_sequences_with_one_text_are_one_completion_and_counts_add(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenizer.encode("São", add_special_tokens=False)
    in_bytes = [
        tokenizer.convert_tokens_to_ids(c)
        for c in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("São")[0][0]
    ]
    assert whole != in_bytes and decode(tokenizer, whole) == decode(tokenizer, in_bytes) == "São"
    unit = unit_of([query("x", id="p")])
    drawn = [
        sequence(in_bytes, [4, 9]),
        sequence(whole, [1]),
        sequence([*whole, EOS], [0, 7], "eos"),
        sequence([*whole, EOS, *whole[:1]], [2]),
        sequence(whole[:1], [3]),
    ]
    completions = distinct_completions(samples_of(samples_table(unit, drawn, tokenizer)))
    first = completions[0]
    assert (first.text, first.sample_count, first.generation_idx) == ("São", 5, 0)
    assert sum(c.sample_count for c in completions) == 7
    assert text_ids((5, EOS), "eos") == (5,) and text_ids((5, EOS), "length") == (5, EOS)


def test_a_character_that_was_cut_is_kept_as_the_replacement_character(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [
        tokenizer.convert_tokens_to_ids(c)
        for c in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("日")[0][0]
    ]
    unit = unit_of([query("x", id="p")])
    table = samples_table(unit, [sequence(ids, [0]), sequence(ids[:2], [1]), sequence(ids[:1], [2])], tokenizer)
    completions = distinct_completions(samples_of(table))
    assert [(c.text, c.sample_count) for c in completions] == [("日", 1), ("\ufffd", 2)]


def test_units_with_parts_of_the_draws_unite(tiny: LoadedModel) -> None:
    queries = [query("Q: Who"), query("Alice")]
    ranges = [(0, 70), (70, 30), (100, 50)]
    whole = unit_of(queries, law=law(max_new_tokens=3), num_draws=150)
    expected = distinct_completions(
        samples_of(samples_table(whole, sample_tree(tiny, whole).sequences, tiny.tokenizer))
    )
    samples: list[Sample] = []
    for first, count in ranges:
        part = unit_of(queries, law=law(max_new_tokens=3), first_draw=first, num_draws=count)
        samples += samples_of(samples_table(part, sample_tree(tiny, part).sequences, tiny.tokenizer))
    found = distinct_completions(samples)
    assert [(c.prompt_id, c.text, c.sample_count, c.generation_idx) for c in found] == [
        (c.prompt_id, c.text, c.sample_count, c.generation_idx) for c in expected
    ]
    assert [sorted(s.generation_indices for s in c.samples) for c in found] == [
        sorted(s.generation_indices for s in c.samples) for c in expected
    ]


def test_a_completion_is_what_stands_before_its_first_stop_string_and_ids_stay_as_drawn(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = tokenizer.encode(" Grace Miller\nQ:", add_special_tokens=False)
    unit = unit_of([query("x", id="p")], law=law(stop_strings=("Q", "\n", "ller\nQ", "never")))
    sequences = [sequence(ids, [0], "stop"), sequence(ids, [1], "length"), sequence([*ids, EOS], [2], "eos")]
    stopped, cut, ended = samples_table(unit, sequences, tokenizer).to_pylist()
    assert stopped["completion"] == " Grace Mi"
    assert cut["completion"] == ended["completion"] == " Grace Miller\nQ:"
    assert [row["token_ids"] for row in (stopped, cut, ended)] == [ids, ids, [*ids, EOS]]


def test_what_is_sampled_with_stop_strings_has_none_of_them_in_its_text(tiny: LoadedModel) -> None:
    stops = ("\n", "er", "ã")
    unit = unit_of(
        [query("Q: Who"), query("São Pa")],
        law=law(temperature=1.2, max_new_tokens=6, stop_strings=stops),
        num_draws=200,
    )
    rows = samples_table(unit, sample_tree(tiny, unit).sequences, tiny.tokenizer).to_pylist()
    assert {row["finish_reason"] for row in rows} >= {"stop", "length"}
    for row in rows:
        assert not any(stop in row["completion"] for stop in stops)
        drawn = decode(tiny.tokenizer, row["token_ids"])
        assert (row["finish_reason"] == "stop") == any(stop in drawn for stop in stops)


def test_enumerated_texts_are_numbered_by_falling_probability_and_have_no_count(tiny: LoadedModel) -> None:
    queries = [query("Q: Who"), query("São Pa")]
    hot = law(temperature=2.0, stop_strings=("a", "e", "o", " "))
    unit = unit_of(queries, law=hot, sampler="enumerate", min_probability=0.0001)
    table = samples_table(unit, enumerate_completions(tiny, unit).sequences, tiny.tokenizer)
    assert table["sample_count"].null_count == len(table) > 10
    completions = distinct_completions(samples_of(table))
    for prompt_id in (q.id for q in unit.queries):
        found = [c for c in completions if c.prompt_id == prompt_id]
        assert [c.generation_idx for c in found] == list(range(len(found)))
        probabilities = [round(sum(math.exp(s.logprob_sampling) for s in c.samples), 12) for c in found]
        assert probabilities == sorted(probabilities, reverse=True)
        assert [c.prevalence for c in found] == pytest.approx(probabilities)
        assert 0.5 < sum(probabilities) <= 1.000001
    assert any(len(c.samples) > 1 for c in completions), "some texts should have several sequences"
    assert {c.sample_count for c in completions} == {None}


def test_a_text_has_the_probability_of_all_its_sequences(tokenizer: PreTrainedTokenizerFast) -> None:
    a, b = tokenizer.encode("ab", add_special_tokens=False)
    unit = unit_of([query("x", id="p"), query("y", id="q")], sampler="enumerate", min_probability=0.1)
    enumerated = [
        sequence([a], [], probability=0.3),
        sequence([b], [], probability=0.2),
        sequence([b, EOS], [], "eos", probability=0.2),
        sequence([b], [], prompt_id="q", probability=0.1),
    ]
    table = samples_table(unit, enumerated, tokenizer)
    assert table["generation_indices"].to_pylist() == [[1], [0], [0], [0]]
    completions = distinct_completions(samples_of(table))
    found = [(c.prompt_id, c.text, c.generation_idx) for c in completions]
    assert found == [("p", "b", 0), ("p", "a", 1), ("q", "b", 0)]
    assert [c.prevalence for c in completions] == pytest.approx([0.4, 0.3, 0.1])


@settings(max_examples=200)
@given(drawn=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12), data=st.data())
def test_distinct_prefixes_are_those_of_the_definition(drawn: list[list[int]], data: st.DataObject) -> None:
    sequences = [sequence(ids, [0], prompt_id=data.draw(st.sampled_from("pq"))) for ids in drawn]
    expected = {(s.prompt_id, s.token_ids[:depth]) for s in sequences for depth in range(len(s.token_ids))}
    assert distinct_prefixes(sequences) == len(expected)
