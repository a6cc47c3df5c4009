"""The log of a job: warnings on the terminal, once each; everything in `experiment.log`, one line for each event.

A line is `<UTC time> <LEVEL> <message> key=value ...`; values with spaces or quotes are JSON strings. What happens in
other processes comes as `Event`s: about a second later, with the time at which it happened. `sort` puts all in order.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from evalgen.plain_lines import give_up
from evalgen.printable import printable

LOG_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"
MOST_WARNINGS = 3  # of one kind that the terminal shows
MOST_EVENTS = 1_000  # kept until they are fetched
RAY_IS_THERE = "ray is there"  # logged once by each part of a job: by it one sees how often a job was resumed

log = logging.getLogger(__name__)


def fields(**values: Any) -> Mapping[str, Any]:
    """For `extra=` of a logging call: what stands behind its message as key=value."""
    return {"fields": values}


def known_figures(named: Mapping[str, Any]) -> dict[str, Any]:
    """For logs and charts: without those that are None, fractions to the thousandth."""
    return {name: round(it, 3) if isinstance(it, float) else it for name, it in named.items() if it is not None}


class LineFormatter(logging.Formatter):
    """One line, whatever the message has in it, with its `fields`."""

    def __init__(self, format: str = LOG_FORMAT) -> None:
        super().__init__(format, DATE_FORMAT)

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        parts = [super().format(record)]
        parts += [f"{name}={_value_text(value)}" for name, value in getattr(record, "fields", {}).items()]
        return printable(" ".join(" ".join(parts).splitlines()))


def _value_text(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text


class JobLog:
    """Collects log records from the start, and sends them to `experiment.log` once there is one.

    Warnings go to the terminal as well, each text once and few of a kind. With `to_stdout` everything goes there
    instead, at once, as it is in the file. `has_file`: it will be opened; else the terminal has all texts of a kind.
    """

    def __init__(self, to_stdout: bool = False, has_file: bool = True) -> None:
        self._logger = logging.getLogger("evalgen")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        # Flushed by us alone: what is logged before the directory exists must reach the file too.
        self._memory = logging.handlers.MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL + 1)
        self._file: logging.FileHandler | None = None
        terminal = _Stdout() if to_stdout else _Terminal(MOST_WARNINGS if has_file else None)
        self._handlers: Sequence[logging.Handler] = (*([self._memory] if has_file else []), terminal)
        for handler in self._handlers:
            self._logger.addHandler(handler)

    def open(self, path: Path) -> None:
        """Begins the file with everything logged so far."""
        file = _LogFile(path)
        self._memory.setTarget(file)
        self._memory.flush()
        self._logger.removeHandler(self._memory)
        self._logger.addHandler(file)
        self._file = file

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._logger.error("%s", str(error) or type(error).__name__)
        for handler in (*self._handlers, *([self._file] if self._file else [])):
            self._logger.removeHandler(handler)
            handler.close()
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


class _ToldOnce(logging.Handler):
    """Where it cannot be written, on a full disk say, stderr is told once, and nothing stops."""

    target: str
    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        self._tell(sys.exception())

    def _tell(self, error: BaseException | None) -> None:
        if not self._has_failed:
            self._has_failed = True
            with suppress(OSError):  # stderr may be where this goes
                sys.stderr.write(f"WARNING: {self.target} lacks lines: {error}\n")


class _LogFile(_ToldOnce, logging.FileHandler):
    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(LineFormatter())
        self.target = self.baseFilename

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # of what was still to be written
            self._tell(error)


class _Stdout(_ToldOnce, logging.StreamHandler[TextIO]):
    target = "stdout"

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(LineFormatter())

    def handleError(self, record: logging.LogRecord) -> None:
        super().handleError(record)
        if isinstance(sys.exception(), OSError):  # and not a record that is none
            give_up(self.stream)

    def format(self, record: logging.LogRecord) -> str:
        """What the encoding of stdout lacks, as completions and names may, is escaped."""
        encoding = self.stream.encoding or "utf-8"  # of text in memory it is None
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)


class _Terminal(logging.Handler):
    """Looks up the stream for each line: a live view puts its own in the place of `sys.stderr`, and prints above it."""

    def __init__(self, most_of_a_kind: int | None) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
        self._most_of_a_kind = most_of_a_kind
        self._said: dict[str, set[str]] = {}  # by kind

    def emit(self, record: logging.LogRecord) -> None:
        # An error ends the job, and is the last line of it: the driver prints that one.
        if record.levelno >= logging.ERROR:
            return
        try:
            line, text = self.format(record), record.getMessage()
            said = self._said.setdefault(getattr(record, "kind", str(record.msg)), set())
            if text in said or len(said) == self._most_of_a_kind:
                return
            said.add(text)
            line += " (experiment.log has more like this)" if len(said) == self._most_of_a_kind else ""
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except Exception:  # as every handler of `logging`: a log that cannot be written stops nothing
            self.handleError(record)


@dataclass(frozen=True, kw_only=True)
class Event:
    """A log record of another process."""

    at: float  # when it happened, in seconds since the epoch, by the clock of its node
    level: int
    message: str  # in one line
    actor: str  # whose it is
    kind: str  # the message before its values stood in it


class EventHandler(logging.Handler):
    """Hands each record of `evalgen.*` on as an event."""

    def __init__(self, actor: str, hand_on: Callable[[Event], object], level: int = logging.INFO) -> None:
        super().__init__(level)
        self.setFormatter(LineFormatter("%(message)s"))
        self._actor, self._hand_on = actor, hand_on

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message, kind = self.format(record), str(record.msg)
            event = Event(at=record.created, level=record.levelno, message=message, actor=self._actor, kind=kind)
            self._hand_on(event)
        except Exception:  # as above
            self.handleError(record)


def log_in_process(handler: logging.Handler) -> None:
    """Sends the records of `evalgen.*` in a process that is not the driver's to `handler`, and to its own stderr."""
    logger = logging.getLogger("evalgen")
    logger.setLevel(logging.INFO)
    own = logging.StreamHandler()
    own.setFormatter(LineFormatter())
    for each in (handler, own):
        logger.addHandler(each)


@dataclass(frozen=True, kw_only=True)
class EventsRead:
    """How far somebody has read an `EventList`; another process that took its place has a list of its own."""

    of_list: str
    num_events: int
    num_lost: int  # since the last time: more came than are kept


class EventList:
    """The last events of a process. Those that nobody has read end with it."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._num_added = 0

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._num_added += 1

    def since(self, read: EventsRead | None) -> tuple[tuple[Event, ...], EventsRead]:
        """Those that were not read, as far as they are kept, and how far these go."""
        num_read = read.num_events if read is not None and read.of_list == self._id else 0
        num_new = min(len(self._events), self._num_added - num_read)
        new = tuple(self._events)[len(self._events) - num_new :]
        num_lost = self._num_added - num_read - num_new
        return new, EventsRead(of_list=self._id, num_events=self._num_added, num_lost=num_lost)


@contextmanager
def without_log() -> Iterator[None]:
    """A block in which nothing is logged, warnings included: another says the same."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def log_event(event: Event) -> None:
    """Into this process's log, with the time that the event has."""
    values = {
        "name": log.name,
        "levelno": event.level,
        "levelname": logging.getLevelName(event.level),
        "msg": event.message,
        "kind": event.kind,
        "created": event.at,
        "msecs": int(event.at % 1 * 1_000),
        "fields": {"actor": event.actor},
    }
    log.handle(logging.makeLogRecord(values))
