"""What configuration files hold, and which path a relative one means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from evalgen.errors import ConfigError


def read_config_file(path: str) -> dict[str, Any]:
    """The settings in a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"config: expected a mapping of settings in {path}, found {type(settings).__name__}")
    return settings


def absolute_path(path: str, root: Path, may_be_hub_id: bool = False) -> str:
    """An input `path` made absolute: from the working directory where it exists there, else from `root`.

    What may be a hub id, looks like `organisation/name` and exists in neither place stays as it is.

    Raises:
        ConfigError: no file can have that name.
    """
    expanded = without_tilde(path)
    in_root = root / expanded
    try:
        if expanded.is_absolute() or expanded.exists():
            return os.path.abspath(expanded)
        if may_be_hub_id and len(expanded.parts) == 2 and not in_root.parent.exists():
            return path
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path!r} is no path: {getattr(error, 'strerror', None) or error}") from None
    return os.path.abspath(in_root)


def without_tilde(path: str) -> Path:
    """`path` with the home directory in place of `~`.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path!r} is no path: {error}") from None
