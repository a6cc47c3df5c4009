"""Hostile query files: whatever a file holds, the answer is queries or one line of error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.errors import InputError
from tests.unit.test_queries import GOOD, from_json

LIMITED = settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        ("null", "list"),
        ({"query": []}, 'expected a list or {"queries"'),
        ({"queries": 1}, "list"),
        ([], "has no queries"),
        ([1], r"queries\[0\]"),
        ([GOOD, {"id": "2"}], r"queries\[1\].prompt: field required"),
        ([{**GOOD, "id": 5}], r"queries\[0\].id"),
        ([{**GOOD, "prompt": None}], r"queries\[0\].prompt"),
        ([{**GOOD, "original_completion": 1}], r"queries\[0\].original_completion"),
        ('[{"prompt": "p", "metadata": {"x": [1e999]}}]', "has a number that is too large"),
        ([{**GOOD, "metadata": "x"}], r"queries\[0\].metadata"),
        ([{**GOOD, "completion": "x"}], r"queries\[0\].completion"),
        ([{**GOOD, "prompt": ""}], "query '1' .*empty prompt"),
        ([{**GOOD, "prompt": " \n\u3000"}], "empty prompt"),
    ],
    ids=repr,
)
def test_a_wrong_query_file_says_what_is_wrong_where(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        from_json(tmp_path / "q.json", content)
    assert "\n" not in str(raised.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["queries", "id", "prompt", "original_completion", "metadata", "source_dataset", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


@LIMITED
@given(
    content=_JSON
    | st.lists(
        st.fixed_dictionaries(
            {"prompt": _JSON, "original_completion": _JSON}, optional={"id": _JSON, "metadata": _JSON}
        ),
        max_size=3,
    )
)
def test_any_json_is_queries_or_an_input_error(content: object, tmp_path: Path) -> None:
    try:
        queries = from_json(tmp_path / "q.json", content)
    except InputError:
        return
    assert queries and len({q.id for q in queries}) == len(queries)


@LIMITED
@given(content=st.binary(max_size=40) | st.text('[]{}",:\\u0d8 1-eE.ntrf', max_size=30).map(str.encode))
def test_any_bytes_are_queries_or_an_input_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        from_json(tmp_path / "q.json", content)


def test_json_nested_too_deep_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        from_json(tmp_path / "q.json", "[" * 100_000)


@pytest.mark.parametrize("key", ["id", "prompt", "original_completion", "metadata", "no id"])
def test_text_that_cannot_be_encoded_is_an_input_error(key: str, tmp_path: Path) -> None:
    entry: dict[str, Any] = {**GOOD, "metadata": {}}
    entry[key if key != "no id" else "prompt"] = {"k": "\ud800"} if key == "metadata" else "\ud800"
    if key == "no id":
        del entry["id"]
    with pytest.raises(InputError):
        from_json(tmp_path / "q.json", [entry])
