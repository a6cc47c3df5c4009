"""Does a completion begin with the name of the person that the reference names?

Names are compared without regard to case, accents and width, and without honorifics ("Mayor", "Ms."). The
name must be whole and must be the answer: more name, a hyphen or a second person after it is another answer.

Decisions:

* Middle names may be left out or shortened to initials. A different or an added one makes another person.
* An initial for the first name ("G. Miller") adds nothing and contradicts nothing: equivalent only where the
  surname alone is. "Grace M." likewise where the first name alone is; "Grace M" may be cut off and never is.
* "Jr." and "III" are part of the name. Where the surname alone is accepted, the reference's may be left out.
* Particles belong to the surname ("van Beethoven"), which is accepted without them too.
* Accents do not count, because models drop them ("Jose" is "José"); vowel signs of other scripts do.
* "Grace Miller's", "Miller, Grace", "The mayor is Grace Miller" are not equivalent: the answer stands first.
* A capitalised word after the name in its sentence is taken for more of the name, or for a second one. After
  a name written all in small or all in capital letters, so is every word but `_FOLLOWERS`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from evalgen.records import Question, Verdict

PERSON_NAME_OPTIONS = ("accept_first_name_alone", "accept_surname_alone")  # both False unless given

_WINDOW = 500  # characters that are looked at, from the first that is no space; the rest is a continuation
_MOST_WORDS = 10  # of a reference's name

_LETTER = r"[^\s\d_,;:.!?…\"“”„«»()\[\]{}<>/\\|&+=*#@~^$%`'’‘ʼ‐‑‒–—―，。、；：！？（）「」-]"
_WORD = re.compile(rf"{_LETTER}+(?:['’ʼ‐‑-]{_LETTER}+)*")
_OPENERS = re.compile(r"[\"'“‘*(\[]{0,4}")
_CLOSERS = re.compile(r"[\"'”’*)\]]{0,4}")
_UNFINISHED = re.compile(r"[-‐‑'’ʼ_\d]|\.(?=\w)")  # directly after a word: it goes on, or was cut off there
_SENTENCE_END = re.compile(r"[.!…:?](?=[\s\"'”’*)\]]|$)|[。！？：]")
_COMBINING_ACCENTS = re.compile("[\u0300-\u036f]")
_PLAIN_MARKS = str.maketrans({"’": "'", "ʼ": "'", "‐": "-", "‑": "-"})


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_HONORIFICS = _word_set(
    "mr mrs ms miss mx dr prof professor sir dame lord lady madam mayor president governor senator judge "
    "justice councillor councilman councilwoman captain rev reverend hon honorable honourable"
)
_GENERATIONS = _word_set("jr sr junior senior ii iii iv")
_PARTICLES = _word_set("van von de da di del della la le bin ibn al el der den dos du ter ten")
_CONNECTIVES = _word_set("and or is was")  # never part of one person's name
# Words that go on with a sentence after a name that is written without capitals.
_FOLLOWERS = _word_set(
    "is was are were has had have and or the of in on at as for from to by with who whom whose which that "
    "became becomes served serves serving won elected will would also since until currently he she they it"
)
_LABELS = _word_set("q a question answer")  # of the next example, when a colon follows


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word of a line, without a full stop: as compared, as written, and its character offsets."""

    folded: str
    written: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class _Name:
    """The parts of a reference's name, folded."""

    first: str
    middle: tuple[str, ...]
    surname: tuple[str, ...]  # with its particles; empty for a name of one word
    generation: tuple[str, ...]  # ("jr",) or nothing

    def forms(self, first_alone: bool, surname_alone: bool) -> Iterator[tuple[str, ...]]:
        """Every accepted way to write the name, one string a word; "g." stands for an initial."""
        initials = tuple(f"{name[0]}." for name in self.middle)
        for middle in {self.middle, initials, ()}:
            for generation in {self.generation, () if surname_alone else self.generation}:
                yield (self.first, *middle, *self.surname, *generation)
                if surname_alone and self.surname:
                    yield (f"{self.first[0]}.", *middle, *self.surname, *generation)
                    yield from ((*self.surname[i:], *generation) for i in range(len(self.surname)))
            if first_alone:
                yield (self.first, *middle)
                if self.surname:
                    yield (self.first, *middle, f"{self.surname[-1][0]}.")


def grade_person_name(question: Question) -> Verdict:
    """Equivalent when the completion begins with the reference's name, in a form that the options accept."""
    name = _read_reference(question.reference)
    if name is None:
        error = "The reference is not one person's name, so there is none to compare with."
        return Verdict(kind="ungraded", reasoning=error, error=error)
    first_alone, surname_alone = (bool(question.grader.options.get(key)) for key in PERSON_NAME_OPTIONS)
    line = _answer_line(question.completion)
    end, problem = _find_name(line, name, first_alone=first_alone, surname_alone=surname_alone)
    if problem:
        return Verdict(kind="not_equivalent", reasoning=f"The completion {problem}.")
    shown = question.reference.strip()
    start = len(question.completion) - len(question.completion.lstrip())
    trimmed = question.completion[: start + end]
    return Verdict(
        kind="equivalent",
        trimmed_completion=None if trimmed == question.completion else trimmed,
        reasoning=f"The completion names {trimmed.strip()}, the reference {shown}: the same person.",
    )


def _read_reference(reference: str) -> _Name | None:
    """The reference's name, or None unless the reference is one name and nothing else."""
    line = _answer_line(reference)
    words = _words(line)
    while len(words) > 1 and words[0].folded in _HONORIFICS:
        words = words[1:]
    parts = [word.folded for word in words]
    generation = (parts.pop(),) if len(parts) > 2 and parts[-1] in _GENERATIONS else ()
    if line.rstrip() != reference.strip() or re.search(r"[^\s.,\"'“”‘’*]", _WORD.sub("", line)):
        return None
    if not 1 <= len(parts) <= _MOST_WORDS or not _CONNECTIVES.isdisjoint(parts):
        return None
    split = len(parts) - 1
    while split > 1 and parts[split - 1] in _PARTICLES:
        split -= 1
    first, middle, surname = parts[0], parts[1:split], parts[max(split, 1) :]
    name = _Name(first=first, middle=tuple(middle), surname=tuple(surname), generation=generation)
    _, problem = _find_name(line, name, first_alone=False, surname_alone=False)
    return None if problem else name  # a name that is not even equivalent to itself is none


def _find_name(line: str, name: _Name, *, first_alone: bool, surname_alone: bool) -> tuple[int, str]:
    """Where in `line` the name ends, and what is wrong, after "The completion"; "" if nothing."""
    words = _words(line)
    num_used = _num_words_of_name(line, words, name.forms(first_alone, surname_alone))
    if num_used == 0:
        in_part = _num_words_of_name(line, words, name.forms(True, True)) > 0
        return 0, "gives only a part of the name" if in_part else "does not begin with the reference's name"
    end = _end_of_name(line, words[num_used - 1])
    return end, _problem_after_name(line, end, words[num_used - 1], words[num_used:])


def _answer_line(text: str) -> str:
    """The first line that is not blank, from its first letter on, as far as the window goes."""
    start = len(text) - len(text.lstrip())
    return next(iter(text[start : start + _WINDOW].splitlines()), "")


def _words(line: str) -> list[_Word]:
    """The first words of a line; words that consist of accents alone are left out."""
    matches = islice(_WORD.finditer(line), 3 * _MOST_WORDS)
    words = (_Word(folded=_fold(m[0]), written=m[0], start=m.start(), end=m.end()) for m in matches)
    return [word for word in words if word.folded]


def _fold(word: str) -> str:
    """`word` without case, width and Latin, Greek or Cyrillic accents."""
    bare = _COMBINING_ACCENTS.sub("", unicodedata.normalize("NFKD", word.casefold()))
    return unicodedata.normalize("NFKC", bare.casefold()).translate(_PLAIN_MARKS)


def _num_words_of_name(line: str, words: list[_Word], forms: Iterator[tuple[str, ...]]) -> int:
    """How many words the longest of `forms` takes at the start of `line`, with honorifics; 0: none fits."""
    if not words or _OPENERS.fullmatch(line, 0, words[0].start) is None:
        return 0
    all_forms = list(forms)
    longest = num_before = 0
    if words[0].folded == "the" and len(words) > 1 and words[1].folded in _HONORIFICS:
        num_before = 1
    while num_before < len(words):
        name = words[num_before:]
        longest = max([longest, *(num_before + len(form) for form in all_forms if _fits(line, name, form))])
        honorific = words[num_before]
        if honorific.folded not in _HONORIFICS or not _is_close(line, words[num_before : num_before + 2]):
            break
        num_before += 1
    return longest


def _fits(line: str, words: list[_Word], form: tuple[str, ...]) -> bool:
    """Whether `words` begin with `form`, unseparated."""
    if len(words) < len(form):
        return False
    for i, (word, part) in enumerate(zip(words, form, strict=False)):
        is_initial = part == f"{word.folded}." and len(word.folded) == 1
        if word.folded != part and not is_initial:
            return False
        # A single letter at the end may be the beginning of any name: only its full stop makes it an initial.
        if is_initial and i == len(form) - 1 and line[word.end : word.end + 1] != ".":
            return False
    return all(_is_close(line, words[i : i + 2]) for i in range(len(form) - 1))


def _is_close(line: str, pair: list[_Word]) -> bool:
    """Whether two words are next to each other as in one name: "G.Miller", "Ms. Miller", "King, Jr."."""
    if len(pair) < 2:
        return False
    gap = line[pair[0].end : pair[1].start]
    if pair[0].folded in _HONORIFICS or len(pair[0].folded) == 1:
        gap = gap.removeprefix(".") or " "
    if pair[1].folded in _GENERATIONS:
        gap = gap.removeprefix(",")
    return gap.isspace()


def _end_of_name(line: str, last: _Word) -> int:
    """Offset just after the name, with the full stop of an initial and the closing marks of opened ones."""
    end = last.end
    if len(last.folded) == 1 and line[end : end + 1] == ".":
        end += 1
    closers = _CLOSERS.match(line, end)
    return closers.end() if closers and not line[0].isalnum() else end


def _problem_after_name(line: str, end: int, last: _Word, rest: list[_Word]) -> str:
    """What makes the name at `line[:end]` not the answer, as a predicate of the completion; "" if nothing."""
    if _UNFINISHED.match(line, end):
        return "goes on after the name as another or an unfinished name"
    sentence_end = _SENTENCE_END.search(line, end)
    if not rest or (sentence_end and sentence_end.start() < rest[0].start):
        return ""
    if rest[0].folded in _LABELS and line[rest[0].end : rest[0].end + 1] == ":":
        return ""
    is_separate = not line[end : rest[0].start].isspace()
    while rest and (rest[0].folded == "and" or (is_separate and rest[0].folded in _HONORIFICS)):
        is_separate, rest = True, rest[1:]
    if not rest or not _is_name_like(rest[0], last):
        return ""
    return "gives a second name" if is_separate else "goes on after the name as another or an unfinished name"


def _is_name_like(word: _Word, last: _Word) -> bool:
    """Whether `word`, in the sentence that the name ends with `last` in, reads as a name."""
    initial = word.written[0]
    if initial == "\N{REPLACEMENT CHARACTER}" or word.folded in _PARTICLES | _GENERATIONS:
        return True  # half of a character that the length limit cut: a name may begin with it
    if last.written[0].isupper() and not (len(last.written) > 1 and last.written.isupper()):
        return initial.isupper()
    return initial.isalpha() and word.folded not in _FOLLOWERS
