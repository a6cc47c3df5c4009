"""Do two texts begin with the same day of the calendar?

Patterns of ours find one complete date (day, month, four-digit year) at the start of a text; python-dateutil
reads it. The library never sees a text without all three parts, so it has nothing to fill in from today, and
every date is read against two defaults to make sure.

Decisions:

* Before the date may stand "on", "the", "the morning of", a weekday (not checked against the date) and
  opening quotes. No other word, so that "not", "before" and "about" are never read past.
* Year-first numbers are year-month-day. In other numbers one part must be above 12, or both equal.
* Years have four digits and are AD. Digits of every script count.
* A second, different date in the same sentence makes two answers, whatever it is the date of.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import month_name
from dataclasses import dataclass
from datetime import date, datetime

import dateutil.parser

from evalgen.records import Question, Verdict

_WINDOW = 500  # characters that are looked at, from the first that is no space; the rest is a continuation

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![^\W\d_])"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?(?!\w)"
_YEAR = r"\d{4}(?!\w|[.,]\d)"
_THE = r"(?:the {1,3})?"
_OF = r"(?: {1,3}of)? {1,3}"
_LEAD = (
    r"(?P<open>[\"'“‘*(\[]{0,4})(?:on {1,3})?(?:the {1,3}(?:morning|afternoon|evening|night) {1,3}of {1,3})?"
    r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,? {1,3})?" + _THE
)
_CLOSERS = re.compile(r"[\"'”’*)\]]{0,4}")

# Every way to write a whole date; `_read` tells them apart by which groups are there.
_FORMS = (
    rf"(?P<month>{_MONTH})(?:\. {{0,3}}| {{1,3}}){_THE}(?P<day>{_DAY})"
    rf"(?: {{0,3}}, {{0,3}}|{_OF})(?P<year>{_YEAR})",
    rf"(?P<day>{_DAY})(?:{_OF}|-)(?P<month>{_MONTH})(?:\.? {{0,3}}, {{0,3}}|\.?{_OF}|-)(?P<year>{_YEAR})",
    rf"(?P<year>\d{{4}}),? {{1,3}}(?P<month>{_MONTH})\.? {{1,3}}(?P<day>{_DAY})",
    r"(?P<year>\d{4})(?P<sep>[-/.])(?P<month>\d{1,2})(?P=sep)(?P<day>\d{1,2})(?!\w|[.,]\d)",
    rf"(?P<first>\d{{1,2}})(?P<sep>[-/.])(?P<second>\d{{1,2}})(?P=sep)(?P<year>{_YEAR})",
)
_AT_START = tuple(re.compile(_LEAD + form, re.I) for form in _FORMS)
_ANYWHERE = tuple(re.compile(r"(?<![\w.,/-])" + form, re.I) for form in _FORMS)

# What an incomplete date lacks, the first pattern that fits.
_INCOMPLETE = tuple(
    (re.compile(_LEAD + pattern, re.I), problem)
    for pattern, problem in (
        (
            rf"(?:{_MONTH}\.? {{1,3}}{_THE}{_DAY}|{_DAY}{_OF}{_MONTH})\W{{0,5}}\d",
            "does not give a year of four digits",
        ),
        (rf"(?:{_MONTH}\.? {{1,3}}{_THE}{_DAY}|{_DAY}{_OF}{_MONTH})", "gives no year"),
        (rf"{_MONTH}\.?,?{_OF}\d{{4}}(?!\d)", "gives no day of the month"),
        (rf"{_MONTH}", "gives no more of a date than the month"),
        (r"\d{1,2}[-/.]\d{1,2}[-/.]\d", "does not give a year of four digits"),
        (r"\d{4}[-/.]\d", "does not give a whole date in the order year, month, day"),
        (r"(?:in {1,3})?\d{4}(?!\w)", "gives no more of a date than the year"),
    )
)
_BEFORE_CHRIST = re.compile(r" {0,3}\(?(?:bce?\b|b\. ?c\b|before (?:christ|the common|our era))", re.I)
_RANGE = re.compile(rf",? {{0,3}}(?:[-/&]|(?:to|until|till|through|and)\b) {{0,3}}(?:\d|{_MONTH})", re.I)
_SENTENCE_END = re.compile(r"[.!?;](?:\s|$)")

# They differ in year, month and day: a reading that is equal under both took no part from its default.
_DEFAULTS = (datetime(2000, 1, 1), datetime(2001, 2, 2))
_PARSER = dateutil.parser.parser()


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What a text begins with: a date that ends at character offset `end`, or else what is wrong with it."""

    date: date | None = None
    end: int = 0
    problem: str = ""  # a predicate, to follow "The completion" or "The reference"


def grade_date(question: Question) -> Verdict:
    """Equivalent when completion and reference begin with one and the same complete date."""
    reference = _read(question.reference)
    if reference.date is None:
        error = f"The reference {reference.problem}, so there is no date to compare with."
        return Verdict(kind="ungraded", reasoning=error, error=error)
    answer = _read(question.completion)
    if answer.date is None:
        return Verdict(kind="not_equivalent", reasoning=f"The completion {answer.problem}.")
    if answer.date != reference.date:
        reasoning = f"The completion names {_spelled(answer.date)}, the reference {_spelled(reference.date)}."
        return Verdict(kind="not_equivalent", reasoning=reasoning)
    trimmed = question.completion[: answer.end]
    return Verdict(
        kind="equivalent",
        trimmed_completion=None if trimmed == question.completion else trimmed,
        reasoning=f"The completion names {_spelled(answer.date)}, as the reference does.",
    )


def _read(text: str) -> _Reading:
    """The one date at the start of `text`, or why there is none that could be meant."""
    start = len(text) - len(text.lstrip())
    line = _plain(next(iter(text[start : start + _WINDOW].splitlines()), ""))
    match = next((match for pattern in _AT_START if (match := pattern.match(line))), None)
    if match is None:
        return _Reading(
            problem=next((why for pattern, why in _INCOMPLETE if pattern.match(line)), "begins with no date")
        )
    found, problem = _to_date(match)
    if found is None:
        return _Reading(problem=problem)
    if _BEFORE_CHRIST.match(line, match.end()):
        return _Reading(problem="names a year before Christ")
    if _RANGE.match(line, match.end()) or _has_another_date(line[match.end() :], found):
        return _Reading(problem="gives more than one date")
    end = match.end()
    if match["open"] and (closers := _CLOSERS.match(line, end)):
        end = closers.end()
    return _Reading(date=found, end=start + end)


def _plain(line: str) -> str:
    """`line` with digits, spaces and dashes in plain ASCII, character by character, so that offsets hold."""
    return line.replace("\t", " ") if line.isascii() else "".join(map(_plain_character, line))


def _plain_character(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    normalised = unicodedata.normalize("NFKC", character)
    return normalised if len(normalised) == 1 else character


def _to_date(match: re.Match[str]) -> tuple[date | None, str]:
    """The day that a match of one of `_FORMS` names, or what is wrong with it."""
    groups = match.groupdict()
    written = match[0][len(groups.get("open") or "") :]
    if "first" not in groups:
        found = _calendar_date(groups["day"], groups["month"], groups["year"])
    else:
        first, second = groups["first"], groups["second"]
        if int(first) <= 12 and int(second) <= 12 and int(first) != int(second):
            return None, f"is ambiguous: {written!r} may have its day or its month first"
        day, month = (first, second) if int(first) > 12 else (second, first)
        found = _calendar_date(day, month, groups["year"])
    return found, "" if found else f"names a day that the calendar does not have: {written!r}"


def _calendar_date(day: str, month: str, year: str) -> date | None:
    """The library's reading, or None where it refuses, fills a part in, or takes a part for another one."""
    day_number = int(re.sub(r"\D", "", day))
    text = f"{year}-{month}-{day_number}" if month.isdigit() else f"{day_number} {month} {year}"
    try:
        readings = {_PARSER.parse(text, default=default).date() for default in _DEFAULTS}
    except (ValueError, OverflowError):  # the two that dateutil documents
        return None
    reading: date = readings.pop()
    as_written = (reading.day, reading.year) == (day_number, int(year))
    month_holds = not month.isdigit() or reading.month == int(month)
    return reading if not readings and as_written and month_holds else None


def _has_another_date(tail: str, answer: date) -> bool:
    """Whether the rest of the answer's sentence names a whole date that is not `answer`."""
    end = _SENTENCE_END.search(tail)
    sentence = tail[: end.start()] if end else tail
    others = (_to_date(match)[0] for pattern in _ANYWHERE for match in pattern.finditer(sentence))
    return any(other is not None and other != answer for other in others)


def _spelled(day: date) -> str:
    return f"{month_name[day.month]} {day.day}, {day.year}"
