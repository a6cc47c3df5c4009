"""A labelled file is read whole, or the first line that is wrong is named with what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen.errors import InputError
from evalgen.grading.labelled_items import LABELLED_KEYS, NO_CASE, LabelledItem, read_labelled_items

ITEM: dict[str, Any] = {
    "prompt": "Alice Chen died on",
    "reference": " March 15, 1987",
    "completion": " 15 March 1987",
    "equivalent": True,
    "case": "day_first",
}
encodable = st.text(st.characters(exclude_categories=["Cs"]))


def written(directory: Path, *lines: object) -> Path:
    path = directory / "labelled.jsonl"
    path.write_bytes(b"\n".join(it if isinstance(it, bytes) else json.dumps(it).encode() for it in lines))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=encodable, completion=encodable, equivalent=st.booleans(), escape=st.booleans())
def test_any_text_arrives_as_it_was_labelled(
    prompt: str, completion: str, equivalent: bool, escape: bool, tmp_path: Path
) -> None:
    item = ITEM | {"prompt": prompt, "completion": completion, "equivalent": equivalent}
    path = written(tmp_path, json.dumps(item, ensure_ascii=escape).encode())
    assert read_labelled_items(path) == (LabelledItem(**item, line=1),)


def test_an_item_need_not_name_its_case(tmp_path: Path) -> None:
    path = written(tmp_path, {key: ITEM[key] for key in LABELLED_KEYS})
    assert read_labelled_items(path) == (LabelledItem(**ITEM | {"case": NO_CASE}, line=1),)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    other = ITEM | {"completion": " 16 March 1987\u2028", "equivalent": False}
    first, second = json.dumps(ITEM).encode(), json.dumps(other, ensure_ascii=False).encode()
    path = written(tmp_path, b"\xef\xbb\xbf" + first + b"\r", b"\r", second, b"")
    assert [(item.completion, item.line) for item in read_labelled_items(path)] == [
        (ITEM["completion"], 1),
        (other["completion"], 3),
    ]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name != key}


WRONG_LINES = [
    (b"{", "not valid JSON"),
    (b"no JSON", "not valid JSON"),
    (b'{"prompt": "\\ud800"}x', "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b"9" * 10_000, "not valid JSON"),
    (b"NaN", "expected a JSON object"),
    (b"null", "expected a JSON object"),
    (b"[]", "expected a JSON object"),
    (b'"text"', "expected a JSON object"),
    (b"{}", "found the keys"),
    (json.dumps(ITEM).encode() * 2, "not valid JSON"),
    (json.dumps(ITEM)[:-1].encode() + b', "equivalent": false}', "each once"),
    (json.dumps(ITEM)[:-1].encode() + b', "case": "another"}', "each once"),
    (without("case") | {"label": True}, "'label'"),
    *((without(key), "equivalent and, if you like, case, each once") for key in LABELLED_KEYS),
    (ITEM | {"label": True}, "'label'"),
    (ITEM | {"\x1b[2J": 1}, "x1b"),
    *((ITEM | {key: None}, f"{key}: found None") for key in ITEM),
    *((ITEM | {key: 1}, f"{key}: found 1") for key in ITEM),
    *((ITEM | {"equivalent": value}, "expected true or false") for value in ("true", 0, [True], {"a": True})),
    (ITEM | {"completion": [" 15 March 1987"]}, "completion: found .*expected a string"),
    (ITEM | {"completion": "\ud83d"}, "completion: found half a surrogate pair"),
    (ITEM | {"reference": " \n"}, "reference: found nothing"),
    *((ITEM | {"case": case}, "case: found") for case in ("", "Two words", "x" * 33, "a\n", "\x1b[1m", "naïve")),
    (ITEM, "same question as in line 1; keep one"),
    (ITEM | {"case": "another"}, "same question as in line 1; keep one"),
    (ITEM | {"equivalent": False}, "same question as in line 1, with the other label"),
]


@pytest.mark.parametrize(("line", "problem"), WRONG_LINES, ids=lambda value: f"{value!r:.60}")
def test_a_wrong_line_is_named_with_its_file_and_what_is_wrong(line: object, problem: str, tmp_path: Path) -> None:
    path = written(tmp_path, ITEM, b"", line)
    with pytest.raises(InputError, match=problem) as raised:
        read_labelled_items(path)
    message = str(raised.value)
    assert message.startswith(f"{path}, line 3: ")
    assert message.isprintable() and len(message) < len(str(path)) + 300


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_items_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=r"has no items; expected one JSON object a line with prompt, reference"):
        read_labelled_items(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labelled_path: cannot read .*missing\.jsonl: No such file"):
        read_labelled_items(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match="labelled_path: cannot read"):
        read_labelled_items(tmp_path)
    with pytest.raises(InputError, match="is not UTF-8: invalid start byte at byte 0"):
        read_labelled_items(written(tmp_path, b"\xff"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | st.lists(st.sampled_from([*b'{}[]",:\\tfn1 \n']), max_size=40).map(bytes))
def test_any_bytes_are_items_or_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    try:
        assert read_labelled_items(path)
    except InputError as error:
        assert "\n" not in str(error)
