"""Reads a labelled file: questions about completions, and what people say about each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalgen.errors import InputError
from evalgen.records import GraderSpec, Question

NO_CASE = "unnamed"  # the case of an item whose file names none
_TEXT_KEYS = ("prompt", "reference", "completion", "case")
_MAX_SHOWN_CHARS = 80  # of a wrong value, in an error of one line


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    """A question, and what a person says about it."""

    prompt: str
    reference: str
    completion: str
    equivalent: bool
    case: str = NO_CASE  # what makes it hard, in one word
    line: int  # of the labelled file, from 1

    def question(self, grader: GraderSpec) -> Question:
        return Question(grader=grader, prompt=self.prompt, reference=self.reference, completion=self.completion)


LABELLED_KEYS = ("prompt", "reference", "completion", "equivalent")
_EXPECTED = f"{', '.join(LABELLED_KEYS)} and, if you like, case"


def read_labelled_items(path: Path) -> tuple[LabelledItem, ...]:
    """The items of a JSONL file, one object of `LABELLED_KEYS` and maybe `case` a line; blank lines are passed over.

    Raises:
        InputError: it cannot be read, has no item, or one that is malformed or there already; file and line are named.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # not splitlines: JSON may hold a bare U+2028
    except OSError as error:
        raise InputError(f"labelled_path: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"labelled_path: {path} is not UTF-8: {error.reason} at byte {error.start}") from None
    items: dict[tuple[str, str, str], LabelledItem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = _item(line, number)
            question = (item.prompt, item.reference, item.completion)
            if before := items.get(question):
                differently = "" if before.equivalent == item.equivalent else ", with the other label"
                raise ValueError(f"the same question as in line {before.line}{differently}; keep one of them")
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        items[question] = item
    if not items:
        raise InputError(f"{path} has no items; expected one JSON object a line with {_EXPECTED}")
    return tuple(items.values())


def _item(line: str, number: int) -> LabelledItem:
    """Raises `ValueError` with what is wrong."""
    try:
        pairs = json.loads(line, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deep") from None
    if not isinstance(pairs, _Pairs):
        raise ValueError(f"expected a JSON object with {_EXPECTED}, found {type(pairs).__name__}")
    names = [name for name, _ in pairs]
    values: dict[str, Any] = {"case": NO_CASE} | dict(pairs)
    if values.keys() != {*LABELLED_KEYS, "case"} or len(names) != len(set(names)):
        raise ValueError(f"found the keys {_shown(names)}; expected {_EXPECTED}, each once")
    for name in _TEXT_KEYS:
        _check_text(name, values[name])
    if not isinstance(values["equivalent"], bool):
        raise ValueError(f"equivalent: found {_shown(values['equivalent'])}, expected true or false")
    if not values["reference"].strip():
        raise ValueError("reference: found nothing in it; a completion needs one to be held against")
    if not re.fullmatch(r"[a-z0-9_]{1,32}", values["case"]):
        raise ValueError(f"case: found {_shown(values['case'])}, expected up to 32 of a-z, 0-9 and _")
    return LabelledItem(**values, line=number)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object in which a key that stands twice is seen; as a dict it would silently take the last."""


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: found {_shown(value)}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: found half a surrogate pair, which is no character") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}…"
