"""Stored units: whatever is damaged or killed, what is read are draws as they were sampled, and the rest is missing."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen import unit_store
from evalgen.errors import JobStopped
from evalgen.files import parquet_bytes
from evalgen.journal import read_journal, rewrite_journal
from evalgen.records import SamplingUnit
from evalgen.sample_tables import SamplesByPrompt, united_samples
from evalgen.samples import SAMPLES_SCHEMA, samples_of
from evalgen.unit_store import Ranges, SamplingCost, UnitStore
from tests.unit.tiny import query, unit_of

COST = SamplingCost(
    model_evaluations=3,
    distinct_prefixes=2,
    out_of_memory_halvings=1,
    load_s=0.5,
    sample_s=0.25,
    finished_at=1e9,
    weights_digest="d" * 64,
)
DATASET = "sampled_test_checkpoint_final"
Draws = dict[tuple[str, str, int], tuple[int, ...]]  # token ids, by dataset, prompt id and draw
RowsOfPrompts = dict[tuple[str, str], list[dict[str, Any]]]  # by dataset and prompt id
ADVERSARIAL = settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def token_ids(dataset: str, prompt_id: str, draw: int) -> tuple[int, ...]:
    """What the draw always is. Some draws of a prompt are equal, also from far apart."""
    return tuple(zlib.crc32(f"{dataset}/{prompt_id}/{draw}/{depth}".encode()) % 2 for depth in range(2)) * 2


def unit(prompt_ids: Sequence[str], first: int, stop: int, dataset: str = DATASET) -> SamplingUnit:
    """Its id says what it is; a real one is a digest of that."""
    queries = [query(f"prompt {prompt_id}", id=prompt_id) for prompt_id in prompt_ids]
    name = f"{dataset}-{''.join(prompt_ids)}-{first}-{stop}"
    return unit_of(queries, id=name, dataset=dataset, first_draw=first, num_draws=stop - first)


def samples(of: SamplingUnit, noise: float = 0.0) -> pa.Table:
    """`noise` is what another batch shape does to the last bits of log-probabilities."""
    rows: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for prompt in of.queries:
        for draw in range(of.first_draw, of.first_draw + of.num_draws):
            rows.setdefault((prompt.id, token_ids(of.dataset, prompt.id, draw)), []).append(draw)
    return pa.Table.from_pylist(
        [
            {
                "run": "run",
                "checkpoint": "checkpoint_final",
                "prompt_id": prompt_id,
                "prompt": f"prompt {prompt_id}",
                "completion": f" {ids}",
                "token_ids": ids,
                "token_logprobs": [-0.5 + noise] * len(ids),
                "logprob": -0.5 * len(ids) + noise,
                "logprob_sampling": -0.25 * len(ids),
                "token_logprobs_sampling": [-0.25] * len(ids),
                "sample_count": len(draws),
                "generation_indices": draws,
                "finish_reason": "length",
                "is_greedy": not any(ids),
            }
            for (prompt_id, ids), draws in rows.items()
        ],
        schema=SAMPLES_SCHEMA,
    )


def cost_of(of: SamplingUnit) -> SamplingCost:
    return replace(COST, model_evaluations=zlib.crc32(of.id.encode()) % 1000)


def save(store: UnitStore, *units: SamplingUnit) -> None:
    for one in units:
        store.save(one, samples(one), cost_of(one))


# Prompts cut one way for the first draws and another way for more of them, as on resuming; one prompt's draws in two.
UNITS = (
    unit("ab", 0, 6),
    unit("cd", 0, 6),
    unit("a", 6, 9),
    unit("bcd", 6, 9),
    unit("e", 0, 5),
    unit("e", 5, 9),
    unit("fg", 0, 9),
    unit("a", 0, 3, dataset="other"),
)
WANTED: dict[str, dict[str, Ranges]] = {
    DATASET: dict.fromkeys("abcdefg", ((0, 9),)),
    "other": {"a": ((0, 3),)},
}


def draws_in(store: UnitStore) -> Draws:
    """Every draw that the store gives out; a wrong one, or one with two contents, is an error."""
    found: Draws = {}
    for stored in store.stored:
        for row in store.load(stored.unit_id).to_pylist():
            assert row["sample_count"] == len(row["generation_indices"])
            for draw in row["generation_indices"]:
                assert tuple(row["token_ids"]) == token_ids(stored.dataset, row["prompt_id"], draw)
                found[stored.dataset, row["prompt_id"], draw] = tuple(row["token_ids"])
    return found


def claimed_by(store: UnitStore) -> set[tuple[str, str, int]]:
    return {
        (dataset, prompt_id, draw)
        for dataset, of_prompts in store.ranges().items()
        for prompt_id, ranges in of_prompts.items()
        for first, stop in ranges
        for draw in range(first, stop)
    }


def compacted(store: UnitStore) -> RowsOfPrompts:
    """The rows of every prompt as assembly sees them."""
    rows = {}
    for dataset, of_prompts in store.ranges().items():
        store.compact(dataset)
        tables = store.samples_of_prompts(dataset, list(of_prompts))
        rows |= {(dataset, p): table.to_pylist() for p, table in zip(of_prompts, tables, strict=True)}
    return rows


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "samples"
    save(UnitStore(directory), *UNITS)
    return directory


@pytest.fixture(scope="module")
def compacted_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compacted") / "samples"
    shutil.copytree(template, directory)
    compacted(UnitStore(directory))
    return directory


@pytest.fixture(scope="module")
def rows_of_template(compacted_template: Path) -> RowsOfPrompts:
    return compacted(UnitStore(compacted_template))


def test_units_come_back_as_they_were_saved_by_this_process_and_the_next(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, *UNITS)
    for again in (store, UnitStore(tmp_path)):
        assert [stored.unit_id for stored in again.stored] == [one.id for one in UNITS]
        assert again.stored == store.stored
        assert all(again.load(one.id) == samples(one) for one in UNITS)
        assert all(stored.num_samples == len(samples(one)) for stored, one in zip(again.stored, UNITS, strict=True))
        assert again.ranges() == WANTED
        assert again.costs("other") == [cost_of(UNITS[-1])]
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".jsonl"}
    assert pq.read_schema(tmp_path / f"{UNITS[0].id}.parquet").remove_metadata() == SAMPLES_SCHEMA


def test_saving_a_unit_twice_changes_nothing(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, UNITS[0])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    store.save(UNITS[0], samples(UNITS[0], noise=1e-7), COST)
    UnitStore(tmp_path).save(UNITS[0], samples(UNITS[0]), COST)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_that_lacks_draws_of_its_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="5 draws, expected 12"):
        UnitStore(tmp_path).save(UNITS[0], samples(unit("a", 0, 5)), COST)
    assert UnitStore(tmp_path).ranges() == {}


def test_ranges_are_joined_and_gaps_stay(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, unit("a", 5, 7), unit("a", 0, 2), unit("a", 2, 3), unit("a", 8, 9))
    assert store.ranges() == {DATASET: {"a": ((0, 3), (5, 7), (8, 9))}}
    store.compact(DATASET)
    assert store.ranges() == {DATASET: {"a": ((0, 3), (5, 7), (8, 9))}} and len(store.stored) == 1


def test_enumerated_prompts_are_stored_also_where_nothing_was_found(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    one = replace(unit("ab", 0, 0), sampler="enumerate", min_probability=0.1)
    rows = samples(unit("a", 0, 1)).to_pylist()
    table = pa.Table.from_pylist([row | {"sample_count": None} for row in rows], schema=SAMPLES_SCHEMA)
    store.save(one, table, COST)
    for again in (store, UnitStore(tmp_path)):
        assert again.ranges() == {DATASET: {"a": ((0, 0),), "b": ((0, 0),)}}
        again.compact(DATASET)
        assert [len(found) for found in again.samples_of_prompts(DATASET, "ab")] == [1, 0]
    assert [stored.unit_id for stored in store.stored] == [one.id]
    save_again = replace(one, id="twin")
    store.save(save_again, table, COST)
    store.compact(DATASET)
    assert store.load(store.stored[0].unit_id) == table, "enumerated twice is enumerated once"


@pytest.mark.parametrize("order", [1, -1])
def test_compaction_gives_one_row_for_each_prompt_and_sequence_with_all_of_its_draws(
    order: int, tmp_path: Path
) -> None:
    store = UnitStore(tmp_path)
    save(store, *UNITS[::order])
    before = draws_in(store)
    rows = compacted(store)
    assert draws_in(store) == before and store.ranges() == WANTED
    keys = [
        (stored.dataset, row["prompt_id"], tuple(row["token_ids"]))
        for stored in store.stored
        for row in store.load(stored.unit_id).to_pylist()
    ]
    assert len(set(keys)) == len(keys)
    for (dataset, prompt_id), of_prompt in rows.items():
        expected = samples(unit(prompt_id, 0, WANTED[dataset][prompt_id][0][1], dataset)).drop_columns(
            ["run", "checkpoint", "prompt"]
        )
        assert of_prompt == expected.to_pylist(), "as if the prompt had been sampled at once"
    costs = sorted(cost.model_evaluations for cost in store.costs(DATASET))
    assert costs == sorted(cost_of(one).model_evaluations for one in UNITS[:-1]), "each unit is paid for once"
    assert UnitStore(tmp_path).stored == store.stored
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"units.jsonl"} | {f"{stored.unit_id}.parquet" for stored in store.stored}
    compacted(store)
    assert {path.name for path in tmp_path.iterdir()} == files, "nothing is left to do"


def test_units_that_share_no_prompt_are_left_alone(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, unit("ab", 0, 3), unit("cd", 0, 3))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    store.compact(DATASET)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_units_sampled_in_two_ways_are_never_put_together(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, unit("a", 0, 3), replace(unit("a", 3, 6), seed=8))
    with pytest.raises(AssertionError, match="sampled in different ways"):
        store.compact(DATASET)


def test_equal_sequences_keep_the_log_probabilities_of_their_first_draw_and_overlaps_count_once() -> None:
    first, second = samples(unit("ab", 0, 6)), samples(unit("ba", 3, 9), noise=0.125)
    for tables in ([first, second], [second, first]):
        united = united_samples(tables)
        assert united.schema == SAMPLES_SCHEMA
        for row in united.to_pylist():
            draws = row["generation_indices"]
            assert draws == sorted(set(draws)) and row["sample_count"] == len(draws)
            assert row["logprob"] == (-2.0 if draws[0] < (6 if tables[0] is first else 3) else -1.875)
        assert sorted(d for row in united.to_pylist() for d in row["generation_indices"]) == sorted([*range(9)] * 2)


def test_the_rows_of_a_prompt_are_found_in_any_order() -> None:
    table = samples(unit("abc", 0, 6))
    mixed = table.take(list(range(1, len(table), 2)) + list(range(0, len(table), 2)))
    by_prompt = SamplesByPrompt(mixed)
    for prompt_id in "abcx":
        expected = [row for row in mixed.to_pylist() if row["prompt_id"] == prompt_id]
        assert by_prompt.of(prompt_id).to_pylist() == expected
    assert SamplesByPrompt(SAMPLES_SCHEMA.empty_table()).of("a").num_rows == 0


@ADVERSARIAL
@given(data=st.data())
def test_a_bit_flipped_or_a_cut_anywhere_only_makes_draws_missing(
    data: st.DataObject, template: Path, compacted_template: Path, rows_of_template: RowsOfPrompts, tmp_path: Path
) -> None:
    """In any file, journal included, before and after compaction; then the missing draws are sampled again."""
    directory = tmp_path / "samples"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(data.draw(st.sampled_from([template, compacted_template])), directory)
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    damage(path, data)
    store = UnitStore(directory)
    assert set(draws_in(store)) == claimed_by(store), "what is there is said to be there, and nothing else"
    missing = [
        unit(prompt_id, first, stop, dataset)
        for dataset, of_prompts in WANTED.items()
        for prompt_id, ((_, num_draws),) in of_prompts.items()
        for first, stop in gaps(store.ranges().get(dataset, {}).get(prompt_id, ()), num_draws)
    ]
    if path.suffix == ".parquet":
        assert missing, "the damage is noticed"
    save(store, *missing)
    assert compacted(store) == rows_of_template
    assert UnitStore(directory).ranges() == WANTED


def damage(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    else:
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])


def gaps(ranges: Ranges, num_draws: int) -> Iterator[tuple[int, int]]:
    start = 0
    for first, stop in (*ranges, (num_draws, num_draws)):
        if start < first:
            yield start, first
        start = stop


def snapshots(directory: Path, work: Callable[[], Any], into: Path, patch: pytest.MonkeyPatch) -> list[Path]:
    """The directory as a kill would leave it before every single file operation of `work`, and after the last."""
    found: list[Path] = []

    def snapshot() -> None:
        found.append(into / str(len(found)))
        shutil.copytree(directory, found[-1])

    def spied(operation: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not copying:
                copying.append(True)
                snapshot()
                copying.clear()
            return operation(*args, **kwargs)

        return call

    copying: list[bool] = []
    with patch.context() as spying:
        for name in ("write", "fsync", "replace", "rename", "unlink", "truncate"):
            spying.setattr(os, name, spied(getattr(os, name)))
        work()
    snapshot()
    return found


def test_a_kill_between_any_two_steps_of_compaction_loses_nothing(
    template: Path, rows_of_template: RowsOfPrompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "samples"
    shutil.copytree(template, directory)
    store = UnitStore(directory)
    steps = snapshots(directory, partial(compacted, store), tmp_path / "steps", monkeypatch)
    assert len(steps) > 25
    costs = sorted(cost.model_evaluations for cost in store.costs(DATASET))
    for step in steps:
        opened = UnitStore(step)
        assert opened.ranges() == WANTED and set(draws_in(opened)) == claimed_by(opened)
        assert sorted(cost.model_evaluations for cost in opened.costs(DATASET)) == costs
        assert compacted(opened) == rows_of_template
        assert {path.name for path in step.glob("*.parquet")} == {path.name for path in directory.glob("*.parquet")}
        assert not list(step.glob("*.writing"))


def test_a_kill_between_any_two_steps_of_saving_leaves_the_unit_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Path
) -> None:
    directory = tmp_path / "samples"
    store = UnitStore(directory)
    save(store, UNITS[0])
    steps = snapshots(directory, partial(save, store, UNITS[1]), tmp_path / "steps", monkeypatch)
    assert len(steps) >= 6
    for step in steps:
        opened = UnitStore(step)
        assert [one.unit_id for one in opened.stored] in ([UNITS[0].id], [UNITS[0].id, UNITS[1].id])
        save(opened, UNITS[1])
        assert opened.load(UNITS[1].id) == samples(UNITS[1]) and UnitStore(step).stored == opened.stored


def failing_from(nth: int, operation: Any) -> Any:
    calls = iter(range(100))

    def call(*args: Any) -> Any:
        if next(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return operation(*args)

    return call


@pytest.mark.parametrize("failing", ["fsync", "write", "replace"])
def test_a_save_on_a_full_disk_is_an_error_and_can_be_done_again(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = UnitStore(tmp_path)
    save(store, UNITS[0])
    operation = getattr(os, failing)
    for nth in range(10):
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, failing_from(nth, operation))
            try:
                save(store, UNITS[1])
            except OSError:
                assert UNITS[1].id not in {one.unit_id for one in store.stored}
                continue
        break
    assert nth >= 1, "it never failed"
    assert UnitStore(tmp_path).stored == store.stored and len(store.stored) == 2
    assert not list(tmp_path.glob("*.writing"))


def test_damage_while_the_job_runs_stops_it_and_is_named(tmp_path: Path) -> None:
    store = UnitStore(tmp_path)
    save(store, UNITS[0])
    (tmp_path / f"{UNITS[0].id}.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobStopped, match="was damaged while the job ran"):
        store.load(UNITS[0].id)
    (tmp_path / f"{UNITS[0].id}.parquet").unlink()
    with pytest.raises(JobStopped, match="was damaged while the job ran"):
        next(store.samples_of_prompts(DATASET, "a"))


def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(UnitStore(tmp_path), UNITS[0])
    path = tmp_path / f"{UNITS[0].id}.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "x.parquet.writing").write_bytes(b"half")
    with caplog.at_level(logging.WARNING, "evalgen"):
        assert UnitStore(tmp_path).stored == []
    assert f"{path} is damaged" in caplog.text
    assert {p.name for p in tmp_path.iterdir()} == {f"{path.name}.damaged", "units.jsonl"}
    caplog.clear()
    assert UnitStore(tmp_path).stored == [] and not caplog.text, "once"


def test_a_line_that_a_kill_tore_is_dropped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(UnitStore(tmp_path), *UNITS[:2])
    lines = tmp_path / "units.jsonl"
    lines.write_bytes(lines.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING, "evalgen"):
        assert [stored.unit_id for stored in UnitStore(tmp_path).stored] == [UNITS[0].id]
        assert "1 lines are torn or damaged" in caplog.text and "never finished" in caplog.text
        caplog.clear()
        store = UnitStore(tmp_path)
        save(store, *UNITS[:2])
        assert UnitStore(tmp_path).stored == store.stored and len(store.stored) == 2
    assert not caplog.text


def test_units_are_put_together_a_few_prompts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_store, "MAX_SAMPLES", 8)
    store = UnitStore(tmp_path)
    save(store, unit("abcde", 0, 3), unit("abcde", 3, 9))
    store.compact(DATASET)
    assert len(store.stored) > 1 and all(stored.num_samples <= 8 for stored in store.stored)
    assert store.ranges() == {DATASET: dict.fromkeys("abcde", ((0, 9),))} == UnitStore(tmp_path).ranges()
    assert len(draws_in(store)) == 5 * 9 and len(store.costs(DATASET)) == 2


def save_as_older_version(directory: Path, of: SamplingUnit) -> None:
    """As a version stored it that knew neither of greedy sequences nor of digests of weights."""
    save(UnitStore(directory), of)
    (record,), _ = read_journal(directory / "units.jsonl")
    content = parquet_bytes(samples(of).drop_columns("is_greedy"))
    (directory / f"{of.id}.parquet").write_bytes(content)
    (cost,) = record["costs"].values()
    del cost["weights_digest"]
    rewrite_journal(directory / "units.jsonl", [record | {"sha256": hashlib.sha256(content).hexdigest()}])


def test_what_an_older_version_stored_is_read_and_united_with_what_this_one_stores(tmp_path: Path) -> None:
    older, newer = unit("ab", 0, 6), unit("a", 6, 9)
    save_as_older_version(tmp_path, older)
    store = UnitStore(tmp_path)
    unknown = pa.nulls(len(samples(older)), pa.bool_())
    read = store.load(older.id)
    assert read.schema == SAMPLES_SCHEMA and read == samples(older).drop_columns("is_greedy").append_column(
        SAMPLES_SCHEMA.field("is_greedy"), unknown
    )
    assert [cost.weights_digest for cost in store.costs(DATASET)] == [""]
    assert {s.is_greedy for s in samples_of(next(store.samples_of_prompts(DATASET, "a")))} == {None}
    save(store, newer)
    store.compact(DATASET)
    for again in (store, UnitStore(tmp_path)):
        a, b = again.samples_of_prompts(DATASET, "ab")
        told = {tuple(row["token_ids"]): row["is_greedy"] for row in samples(newer).to_pylist()}
        assert {s.token_ids: s.is_greedy for s in samples_of(a)} == {
            tuple(row["token_ids"]): told.get(tuple(row["token_ids"])) for row in samples(unit("a", 0, 9)).to_pylist()
        }
        assert set(b["is_greedy"].to_pylist()) == {None}
        assert sorted(cost.weights_digest for cost in again.costs(DATASET)) == ["", "d" * 64]


def test_lines_are_json_that_says_which_draws_of_which_prompts_are_stored(template: Path) -> None:
    line = (template / "units.jsonl").read_text().splitlines()[0]
    record = json.loads(line[9:])
    assert record["ranges"] == {"a": [[0, 6]], "b": [[0, 6]]} and record["dataset"] == DATASET
    assert record["costs"] == {UNITS[0].id: vars(cost_of(UNITS[0]))}
