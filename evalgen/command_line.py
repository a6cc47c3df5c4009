"""Reads flags into a dict of what was given: both spellings of a name, lists in every form, errors in one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from pydantic_settings import BaseSettings, CliSettingsSource

from evalgen.errors import ConfigError


def parse_flags(argv: Sequence[str], model: type[BaseSettings]) -> dict[str, Any]:
    """The flags that were given, and only those, by their name with underscores."""
    source = CliSettingsSource[Any](
        model,
        cli_parse_args=_normalise(argv, model),
        cli_hide_none_type=True,
        cli_prog_name="generate_eval_datasets.py",
    )
    return source()


def _normalise(argv: Sequence[str], model: type[BaseSettings]) -> list[str]:
    """`argv` in the one spelling that the parser takes.

    Dashes in a flag's name become underscores, and the values of a list flag (repeated, several after one flag, JSON,
    or one value) become one JSON list: left alone, the parser would split a regex such as `a{1,2}` at its comma.

    Raises:
        ConfigError: unknown flag, a flag without a value, a value without a flag.
    """
    valid = [key for key in model.model_fields if key != "runs"]  # `runs` is for files
    values: dict[str, list[str]] = {}
    name = ""
    for argument in argv:
        if argument in ("-h", "--help"):
            return ["--help"]
        if argument.startswith("--"):
            flag, has_value, value = argument[2:].partition("=")
            name = flag.replace("-", "_")
            if name not in valid:
                raise ConfigError(unknown_name("flag", "--" + flag, name, valid))
            values.setdefault(name, []).extend([value] if has_value else [])
        elif not name:
            raise ConfigError(f"found {argument!r} where a flag was expected; --help lists the flags")
        else:
            values[name].append(argument)
    return [part for name, given in values.items() for part in ("--" + name, _flag_value(name, given, model))]


def _flag_value(name: str, given: list[str], model: type[BaseSettings]) -> str:
    if not given:
        raise ConfigError(f"--{name}: found no value; give one after the flag")
    is_list = "tuple" in str(model.model_fields[name].annotation)
    if is_list:
        items: list[str] = []
        for value in given:
            parsed = _json_list(value)
            items.extend([value] if parsed is None else parsed)
        return json.dumps(items)
    if len(given) > 1:
        raise ConfigError(f"--{name}: found {len(given)} values ({' '.join(given)}), expected one")
    return given[0]


def _json_list(value: str) -> list[str] | None:
    """The strings of a JSON list; None for anything else, such as a regex that begins with a bracket."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return None
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) else None


def unknown_name(what: str, shown: str, name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean {close[0]}?" if close else ""
    return f"unknown {what} {shown}; {hint + ' ' if hint else ''}valid ones: {', '.join(valid)}"
