"""Journals: what was appended is read back, and damage of any kind only ever takes lines away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalgen import journal as journal_module
from evalgen.journal import Journal, journal_lines, read_journal

RECORDS: list[dict[str, Any]] = [
    {"key": "a", "text": " São\n\ufffd\ud800\x00", "n": 1},
    {},
    {"key": "b", "nested": {"x": [None, True, 0.1]}},
    {"key": "c", "text": "x" * 300},
]
ADVERSARIAL = settings(max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def journal_of(path: Path, records: list[dict[str, Any]] = RECORDS) -> bytes:
    journal = Journal(path)
    journal.append(records)
    journal.close()
    return path.read_bytes()


def test_records_come_back_in_order_from_the_file_and_from_their_places(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    places = [*journal.append(RECORDS[:1]), *journal.append([]), *journal.append(RECORDS[1:])]
    assert [journal.read(place) for place in places] == RECORDS
    assert list(journal_lines(tmp_path / "j")) == list(zip(places, RECORDS, strict=True))
    journal.close()
    again = Journal(tmp_path / "j")
    (place,) = again.append([{"more": 1}])
    assert again.read(place) == {"more": 1} and again.read(places[0]) == RECORDS[0]
    assert read_journal(tmp_path / "j") == ([*RECORDS, {"more": 1}], 0)


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none") == ([], 0)


def test_what_was_appended_is_there_when_the_process_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from evalgen.journal import Journal
Journal(Path({str(tmp_path / "j")!r})).append([{{"n": 1}}, {{"n": 2}}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert read_journal(tmp_path / "j") == ([{"n": 1}, {"n": 2}], 0)


def test_appending_is_one_fsync_and_making_the_file_is_one_of_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    journal = Journal(tmp_path / "j")
    assert synced == [str(tmp_path)]
    journal.append(RECORDS)
    assert synced == [str(tmp_path), str(tmp_path / "j")]
    Journal(tmp_path / "j")
    assert len(synced) == 2


@ADVERSARIAL
@given(data=st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_takes_more(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    content = journal_of(path)
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    # A line that lacks nothing but its end is whole.
    num_whole = sum(end <= cut for end in _line_ends(content))
    num_torn = int(cut not in {0, *_line_ends(content), *(end + 1 for end in _line_ends(content))})
    assert read_journal(path) == (RECORDS[:num_whole], num_torn)
    journal = Journal(path)
    (place,) = journal.append([{"more": 1}])
    assert journal.read(place) == {"more": 1}
    assert read_journal(path) == ([*RECORDS[:num_whole], {"more": 1}], num_torn)


@ADVERSARIAL
@given(data=st.data())
def test_a_flipped_bit_takes_a_line_or_two_and_changes_none(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    content = bytearray(journal_of(path))
    places = [place for place, _ in journal_lines(path)]
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    intact, num_damaged = read_journal(path)
    assert num_damaged >= 1 and len(RECORDS) - 2 <= len(intact) < len(RECORDS)
    remaining = iter(RECORDS)
    assert all(record in remaining for record in intact), "in order, and as they were"
    journal = Journal(path)
    for place, record in zip(places, RECORDS, strict=True):
        assert journal.read(place) in (record, None)


@ADVERSARIAL
@given(content=st.binary(max_size=60))
def test_any_bytes_are_lines_that_are_passed_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    assert read_journal(tmp_path / "j")[0] == []


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"null", b"\x00", b"\xff", b"{", b'{"a": 1} {}'], ids=repr)
def test_a_checksum_that_fits_does_not_make_a_record_of_anything(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"%08x %s\n\n" % (zlib.crc32(content), content))
    assert read_journal(tmp_path / "j") == ([], 2)


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_write_that_fails_leaves_the_journal_as_it_was_and_usable(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(RECORDS)
    before = path.read_bytes()
    written = 0

    def write_a_part(descriptor: int, content: memoryview) -> int:
        nonlocal written
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.pwrite(descriptor, content[:7], 0)
        return written

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, failing, write_a_part if failing == "write" else fail)
        with pytest.raises(OSError):
            journal.append([{"more": 1}, {"more": 2}])
    assert path.read_bytes() == before
    journal.append([{"more": 3}])
    assert read_journal(path) == ([*RECORDS, {"more": 3}], 0)


def _line_ends(content: bytes) -> list[int]:
    return [index for index, byte in enumerate(content) if byte == ord("\n")]
