"""Influence runs put the rows beside those of a source set, and map what they computed back by row order and id."""

from __future__ import annotations

import re

from datasets import concatenate_datasets

from tests.consumers.conftest import Sampled

TOKEN_COLUMNS = ["input_ids", "labels", "attention_mask"]


def test_rows_join_a_source_set_without_a_cast(sampled: Sampled) -> None:
    rows, source = (dataset.select_columns(TOKEN_COLUMNS) for dataset in (sampled.rows, sampled.source))
    assert rows.features == source.features
    both = concatenate_datasets([source, rows])
    assert both.features == source.features
    assert both[len(source) :] == rows[:]


def test_row_ids_lead_back_to_the_source_rows(sampled: Sampled) -> None:
    source_ids = sampled.source["id"][:]
    led_back = [match[1] for id in sampled.rows["id"] if (match := re.fullmatch(r"(.+)_gen_\d+", id))]
    assert led_back == sampled.rows["prompt_id"][:]
    assert set(led_back) <= set(source_ids)


def test_rows_are_in_the_order_of_the_source_set_then_of_the_draws(sampled: Sampled) -> None:
    source_ids = sampled.source["id"][:]
    places = [(source_ids.index(row["prompt_id"]), row["generation_idx"]) for row in sampled.rows]
    assert len(places) > len(set(sampled.rows["prompt_id"])), "some prompt has several rows"
    assert places == sorted(set(places))
