"""What configuration files hold, which path a relative one means, and whether one can be written."""

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


def check_writable(directory: Path, setting: str, or_else: str) -> None:
    """Whether files can be made in `directory`, or it can be made itself. Nothing is made; the disk may yet be full.

    Raises:
        ConfigError: it is not so, and why. `setting` names the directory; `or_else` says what a user can do about it.
    """
    try:
        existing = next(path for path in (directory, *directory.parents) if _is_there(path))
        if not existing.is_dir():
            raise ConfigError(
                f"{setting}: cannot make {directory}: {existing} is there and no directory; move it, or {or_else}"
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
            reason = "lies on a read-only file system" if is_read_only else "may not be written by this user"
            raise ConfigError(f"{setting}: cannot write to {directory}: {existing} {reason}; allow it, or {or_else}")
    except (OSError, ValueError) as error:  # no file can have that name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{setting}: cannot make {str(directory)!r}: {reason}; {or_else}") from None


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def without_tilde(path: str) -> Path:
    """`path` with the home directory in place of `~`.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path!r} is no path: {error}") from None
