"""Reading a list item by item gives what json.loads gives, wherever the file is cut into pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.verification import json_lists
from evalgen.verification.json_lists import json_list

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
items = st.lists(scalars | st.dictionaries(st.text(), scalars, max_size=3) | st.lists(scalars, max_size=3), max_size=5)
few = settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, content: str) -> list[Any]:
    path.write_text(content, encoding="utf-8", newline="")
    return list(json_list(path))


@few
@given(content=items, indent=st.sampled_from([None, 2]), chunk=st.integers(1, 40))
def test_items_are_those_that_json_reads(
    content: list[Any], indent: int | None, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lists, "CHUNK_CHARS", chunk)
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    assert read(tmp_path / "list.json", text) == read(tmp_path / "list.json", f" {text}\n") == json.loads(text)


@few
@given(content=st.lists(st.sampled_from(list('[]{},:"1 -e.\\')) | st.sampled_from(["null", "[1,2]"]), max_size=12))
def test_what_json_refuses_is_refused(content: list[str], tmp_path: Path) -> None:
    text = "".join(content)
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    if isinstance(expected, list):
        assert read(tmp_path / "list.json", text) == expected
    else:
        with pytest.raises(ValueError):
            read(tmp_path / "list.json", text)
