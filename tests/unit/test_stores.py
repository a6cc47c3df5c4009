"""Files and directories: the old content or the new, never a part, whatever fails or is killed in between."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from evalgen import files
from evalgen.files import (
    JsonListWriter,
    durable_file,
    remove_unfinished,
    set_aside,
    whole_directory,
    write_bytes,
    write_json,
    write_text,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fill(path: Path, content: str) -> None:
    with whole_directory(path) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "f").write_text(content)


def test_a_failure_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "d") as directory:
        (directory / "half").write_text("x")
        raise RuntimeError
    assert names(tmp_path) == []
    (tmp_path / "d.writing").mkdir()
    (tmp_path / "d.writing" / "half").write_text("left by a kill")
    with whole_directory(tmp_path / "d") as directory:
        assert not (directory / "half").exists(), "what a kill left is not taken over"
        assert not (tmp_path / "d").exists()
        (directory / "whole").write_text("y")
    assert names(tmp_path) == ["d"] and names(tmp_path / "d") == ["whole"]


def test_a_directory_replaces_an_older_one_of_its_name_or_leaves_it(tmp_path: Path) -> None:
    fill(tmp_path / "d", "old")
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "d") as directory:
        (directory / "half").write_text("x")
        raise RuntimeError
    assert (tmp_path / "d" / "sub" / "f").read_text() == "old"
    fill(tmp_path / "d", "new")
    assert (tmp_path / "d" / "sub" / "f").read_text() == "new" and names(tmp_path) == ["d"]


def test_a_kill_at_any_step_of_replacing_a_directory_leaves_a_whole_one_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(100):
        path = tmp_path / str(step) / "d"
        fill(path, "old")
        with monkeypatch.context() as patch:
            killed = kill_at(step, patch, ["rename", "fsync", "rmdir", "unlink"])
            fill_or_be_killed(path)
        found = {name: (path.parent / name / "sub" / "f") for name in names(path.parent)}
        if not killed:
            break
        whole = [file.read_text() for name, file in found.items() if not name.endswith(".writing") and file.exists()]
        assert set(whole) & {"old", "new"}
        if "d" in found:
            assert found["d"].read_text() in ("old", "new")
        fill(path, "newer")
        assert names(path.parent) == ["d"] and (path / "sub" / "f").read_text() == "newer"
    assert step > 5


class Killed(BaseException):
    """As far as the file system can tell, the process ended here."""


def kill_at(step: int, patch: pytest.MonkeyPatch, operations: list[str]) -> list[str]:
    """From the given file operation on, each raises: nothing that follows, cleaning up included, has an effect."""
    done: list[str] = []
    killed: list[str] = []

    def counted(name: str, operation: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) > step:
                killed.append(name)
                raise Killed
            return operation(*args, **kwargs)

        return call

    for name in operations:
        patch.setattr(os, name, counted(name, getattr(os, name)))
    return killed


def fill_or_be_killed(path: Path) -> None:
    try:
        fill(path, "new")
    except Killed:
        return


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_text(path, "old é")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, b"new")
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"a": 1})
    assert path.read_text(encoding="utf-8") == "old é" and names(tmp_path) == ["f"]
    with pytest.raises(RuntimeError), durable_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old é" and names(tmp_path) == ["f"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["f"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The real thing, where this machine lets a test have a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    (tmp_path / "f.writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "f", b"x" * 100_000)
    assert names(tmp_path) == []


def test_json_is_written_as_json_itself_would(tmp_path: Path) -> None:
    content = {"é": [1, None, {"x": []}], "b": {}}
    write_json(tmp_path / "j", content)
    assert (tmp_path / "j").read_text(encoding="utf-8") == json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with pytest.raises(ValueError):
        write_json(tmp_path / "j", {"x": float("nan")})
    assert json.loads((tmp_path / "j").read_text(encoding="utf-8")) == content and names(tmp_path) == ["j"]


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": "\n", "b": None}, {"a": "é", "b": 0.1}]])
def test_a_list_written_row_by_row_is_as_json_itself_would_write_it(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with JsonListWriter(tmp_path / "j") as writer:
        for row in rows:
            writer.write([row])
    assert (tmp_path / "j").read_text(encoding="utf-8") == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    assert writer.num_rows == len(rows)


def test_what_a_kill_left_is_removed_and_what_is_damaged_is_kept_under_another_name(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.parquet.writing", "b.writing"):
        (tmp_path / name).write_text(name)
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["a.parquet"]
    set_aside(tmp_path / "a.parquet")
    assert names(tmp_path) == ["a.parquet.damaged"]
