"""Reads flags into a dict of what was given: both spellings of a name, lists in every form, errors in one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from evalgen.errors import ConfigError


class CommandSettings(BaseSettings):
    """The flags of a command: the command line alone, no environment variables and no file."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", cli_hide_none_type=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


Settings = TypeVar("Settings", bound=CommandSettings)


def checked_settings(model: type[Settings], values: dict[str, Any]) -> Settings:
    """The flags' values as `model` has them.

    Raises:
        ConfigError: the first that is out of range, in one line.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{first['loc'][0]}: found {first['input']!r}, but {message}") from None


def parse_flags(
    argv: Sequence[str], model: type[BaseSettings], program: str, first: str = ""
) -> dict[str, str | list[str]]:
    """The flags that were given, and only those, by their name with underscores; `--help` prints them all and exits.

    `first` names the one that may be left out where its value comes first.

    pydantic-settings writes the help, and does not parse: it splits a list value at its commas, which would tear a
    regex such as `a{1,2}` apart, and knows no several values after one flag.

    Raises:
        ConfigError: unknown flag, a flag without a value, a value without a flag.
    """
    if {"-h", "--help"} & set(argv):
        CliSettingsSource[Any](model, cli_parse_args=["--help"], cli_hide_none_type=True, cli_prog_name=program)
    if first and argv and not argv[0].startswith("-"):
        argv = ["--" + first, *argv]
    valid = [key for key in model.model_fields if key != "runs"]  # `runs` is for files
    values: dict[str, list[str]] = {}
    name = ""
    for argument in argv:
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
    return {name: _flag_value(name, given, model) for name, given in values.items()}


def _flag_value(name: str, given: list[str], model: type[BaseSettings]) -> str | list[str]:
    if not given and model.model_fields[name].annotation is bool:
        return "true"
    is_list = "tuple" in str(model.model_fields[name].annotation)
    if not given:
        raise ConfigError(f"--{name}: found no value; give one after the flag")
    if "" in map(str.strip, given) and (not is_list or "" in given):  # a blank may be a stop string
        raise ConfigError(f"--{name}: found an empty value (an unset shell variable?)")
    if is_list:
        parsed = [(value, _json_list(value)) for value in given]
        return [item for value, items in parsed for item in ([value] if items is None else items)]
    if len(given) > 1:
        raise ConfigError(f"--{name}: found {len(given)} values ({' '.join(given)}), expected one")
    return given[0]


def _json_list(value: str) -> list[str] | None:
    """The strings of a JSON list; None for anything else, such as a regex that begins with a bracket."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) else None


def unknown_name(what: str, shown: str, name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean {close[0]}?" if close else ""
    return f"unknown {what} {shown}; {hint + ' ' if hint else ''}valid ones: {', '.join(valid)}"
