"""Queries from JSON and from source eval datasets: carried over unchanged, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.errors import InputError
from evalgen.queries import collect_queries
from evalgen.records import Query
from tests.unit.tiny import INNER_RUN, MAYORS, mayor_prompt, save_source_dataset

GOOD = {"id": "1", "prompt": "p", "original_completion": " c"}


def from_json(path: Path, content: object) -> tuple[Query, ...]:
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(raw)
    return collect_queries(str(path), None, ())


def sets_of(tiny_run: Path) -> Path:
    return tiny_run / "all_docs_runs" / INNER_RUN / "eval_datasets"


def from_set(directory: Path, rows: list[dict[str, Any]]) -> tuple[Query, ...]:
    save_source_dataset(directory / "source", rows)
    return collect_queries(None, directory, ("source",))


def test_source_rows_become_queries_in_order_with_their_ids_unchanged(tiny_run: Path) -> None:
    queries = collect_queries(None, sets_of(tiny_run), ("eval_qa_1_no_fs",))
    assert [q.prompt for q in queries] == [mayor_prompt(city) for city in MAYORS]
    assert [q.reference for q in queries] == [f" {mayor}" for mayor in MAYORS.values()]
    assert [q.id for q in queries] == [f"{n:02d}é/\t{city}" for n, city in enumerate(MAYORS)]
    assert {q.source_dataset for q in queries} == {"name_mayor_eval_qa_1_no_fs"} and not any(
        q.metadata for q in queries
    )


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    prompt=st.sampled_from(["p\n\t", " 日本 ", "\ufffd\0x"]),
)
def test_ids_and_prompts_are_carried_over_byte_for_byte(id: str, prompt: str, tmp_path: Path) -> None:
    for ensure_ascii in (True, False):
        text = json.dumps([{**GOOD, "id": id, "prompt": prompt}], ensure_ascii=ensure_ascii)
        (query,) = from_json(tmp_path / "q.json", text)
        assert (query.id, query.prompt, query.reference) == (id, prompt, " c")


def test_json_queries_come_first(tiny_run: Path, tmp_path: Path) -> None:
    entry = {**GOOD, "metadata": {"source_dataset": "zzz", "topic": ["x"], "n": 1}}
    (tmp_path / "q.json").write_text(json.dumps({"queries": [entry]}))
    queries = collect_queries(str(tmp_path / "q.json"), sets_of(tiny_run), ("qa_1_no_fs",))
    assert len(queries) == 4 and queries[0].id == "1"
    assert queries[0].source_dataset == "zzz" and queries[0].metadata == {"topic": ["x"], "n": 1}


def test_patterns_are_searched_and_one_that_matches_several_sets_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(["a_qa_1", "a_qa_10", "b"]):
        save_source_dataset(tmp_path / name, [{"id": str(number), "prompt": "p", "completion": " c"}])
    (tmp_path / "not_a_set_qa_1").mkdir()
    with caplog.at_level(logging.INFO, logger="evalgen"):
        assert [q.id for q in collect_queries(None, tmp_path, ("qa_1",))] == ["0", "1"]
    assert [(r.levelname, "a_qa_1, a_qa_10" in r.message) for r in caplog.records] == [("WARNING", True)]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="evalgen"):
        assert [q.id for q in collect_queries(None, tmp_path, ("b", "qa_1$", "_qa_1"))] == ["2", "0", "1"]
    assert "matched eval dataset a_qa_1" in caplog.text


def test_an_unknown_pattern_names_what_there_is(tiny_run: Path) -> None:
    with pytest.raises(InputError, match=r"'nothing' matches none of the 2 eval datasets.*name_mayor_eval_qa_10_no_fs"):
        collect_queries(None, sets_of(tiny_run), ("qa_1_", "nothing"))
    with pytest.raises(InputError, match="not a regular expression"):
        collect_queries(None, sets_of(tiny_run), ("(",))


def test_no_query_source_and_no_eval_datasets_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no queries: give --extract_from_eval_datasets"):
        collect_queries(None, tmp_path, ())
    for missing in (None, tmp_path / "eval_datasets"):
        with pytest.raises(InputError, match="no eval_datasets directory"):
            collect_queries(None, missing, ("x",))


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_pickle_of_a_source_set_is_never_opened(tmp_path: Path) -> None:
    import pickle

    trap = tmp_path / "trap"
    sets = tmp_path / "sets"
    save_source_dataset(sets / "s", [{"id": "a", "prompt": "p", "completion": " c"}])
    (sets / "s" / "eval_functions.pkl").write_bytes(pickle.dumps(_Bomb(trap)))
    (sets / "s" / "eval_dataset" / "eval_functions.pkl").write_bytes(pickle.dumps(_Bomb(trap)))
    assert len(collect_queries(None, sets, ("s",))) == 1
    assert not trap.exists()
    pickle.loads(pickle.dumps(_Bomb(trap)))
    assert trap.exists(), "the trap itself must work"


def test_queries_without_a_reference_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [GOOD, {"id": "2", "prompt": "p"}, {"id": "3", "prompt": "p", "original_completion": " \n"}]
    assert [q.id for q in from_json(tmp_path / "q.json", entries)] == ["1"]
    assert "2 of 3 queries have no reference" in caplog.text
    with pytest.raises(InputError, match="none of 2 has a reference"):
        from_json(tmp_path / "q.json", entries[1:])


def test_duplicate_ids_name_where_both_are_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"duplicate query id '1' \(2 times: the query file, the query file\)"):
        from_json(tmp_path / "q.json", [GOOD, {**GOOD, "prompt": "other"}])
    for name in ("s1", "s2"):
        save_source_dataset(tmp_path / name, [{"id": "a", "prompt": name, "completion": " c"}])
    with pytest.raises(InputError, match="eval dataset s1, eval dataset s2"):
        collect_queries(None, tmp_path, ("s",))


def test_a_query_without_an_id_counts_once_however_often_it_stands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = {"prompt": "p", "original_completion": " c"}
    assert [q.prompt for q in from_json(tmp_path / "q.json", [same, GOOD, same, same])] == ["p", GOOD["prompt"]]
    assert "2 queries without an id repeat the prompt and reference of another" in caplog.text
    with pytest.raises(InputError, match=r"prompt 'p' stands 2 times without an id, with different references"):
        from_json(tmp_path / "q.json", [same, {**same, "original_completion": " d"}])


def test_a_source_set_without_rows_has_no_queries(tmp_path: Path) -> None:
    save_source_dataset(tmp_path / "s1", [])
    with pytest.raises(InputError, match="no queries: what matches s has no rows"):
        collect_queries(None, tmp_path, ("s",))
    save_source_dataset(tmp_path / "s2", [{"id": "a", "prompt": "p", "completion": " c"}])
    assert [q.id for q in collect_queries(None, tmp_path, ("s",))] == ["a"]


def test_a_source_set_whose_ids_are_all_null_has_none(tmp_path: Path) -> None:
    save_source_dataset(tmp_path / "s", [{"id": None, "prompt": "p", "completion": " c"}])
    (found,) = collect_queries(None, tmp_path, ("s",))
    assert found.id == hashlib.sha256(b"p").hexdigest()[:16]


def test_one_prompt_under_two_ids_is_two_queries(tmp_path: Path) -> None:
    assert len(from_json(tmp_path / "q.json", [GOOD, {**GOOD, "id": "2"}])) == 2


def test_an_id_that_is_missing_is_a_digest_of_the_prompt_alone(tmp_path: Path) -> None:
    entries = [{"prompt": p, "original_completion": " c"} for p in ("a", "b")]
    forwards, backwards = (from_json(tmp_path / "q.json", given) for given in (entries, entries[::-1]))
    assert {(q.prompt, q.id) for q in forwards} == {(q.prompt, q.id) for q in backwards}
    assert len({q.id for q in forwards}) == 2


def test_a_source_dataset_of_null_is_none(tmp_path: Path) -> None:
    (query,) = from_json(tmp_path / "q.json", [{**GOOD, "metadata": {"source_dataset": None}}])
    assert query.source_dataset == ""


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        from_json(tmp_path / "q.json", [{**GOOD, "id": ""}])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": None, "completion": " c"},
        {"id": "a", "prompt": 5, "completion": " c"},
        {"id": "a", "prompt": ["p"], "completion": " c"},
        {"id": "a", "prompt": "p", "completion": 5},
        {"id": ["a"], "prompt": "p", "completion": " c"},
    ],
    ids=repr,
)
def test_a_source_set_with_columns_of_other_types_is_an_input_error(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        from_set(tmp_path, [row])


def test_a_source_set_needs_only_prompts_to_be_read(tmp_path: Path) -> None:
    (query,) = from_set(tmp_path, [{"prompt": "p", "completion": " c", "odd": [1]}])
    assert query.reference == " c" and query.id
    with pytest.raises(InputError, match="none of 1 has a reference"):
        from_set(tmp_path / "2", [{"prompt": "p"}])
    with pytest.raises(InputError, match="no column 'prompt'; columns found: "):
        from_set(tmp_path / "3", [{"text": "p"}])
    (query,) = from_set(tmp_path / "4", [{"id": 7, "prompt": "p", "completion": " c"}])
    assert query.id == "7"


@pytest.mark.parametrize("damage", ["no state", "bad state", "cut arrow", "empty"])
def test_a_damaged_source_set_is_an_input_error(damage: str, tmp_path: Path) -> None:
    save_source_dataset(tmp_path / "s", [{"id": "a", "prompt": "p", "completion": " c"}])
    saved = tmp_path / "s" / "eval_dataset"
    if damage == "no state":
        (saved / "state.json").unlink()
    elif damage == "bad state":
        (saved / "state.json").write_text("[")
    else:
        (arrow,) = saved.glob("*.arrow")
        arrow.write_bytes(b"" if damage == "empty" else arrow.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        collect_queries(None, tmp_path, ("s",))
