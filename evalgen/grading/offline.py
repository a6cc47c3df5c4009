"""Graders that need no network, no key and no money: the same verdict on every machine, for closed answers.

``offline/exact`` compares text, ``offline/person_name`` names, ``offline/date`` dates. They judge the answer
at the start of the completion and are strict where a reader could hesitate: one that hedges, negates,
contradicts itself or breaks off is not equivalent. Whatever else follows an equivalent answer is trimmed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from evalgen.errors import ConfigError
from evalgen.grading.dates import grade_date
from evalgen.grading.person_names import PERSON_NAME_OPTIONS, grade_person_name
from evalgen.records import Question, Verdict

__all__ = ["OFFLINE_GRADERS", "OFFLINE_OPTIONS", "grade_offline"]

OFFLINE_OPTIONS: tuple[str, ...] = PERSON_NAME_OPTIONS  # every key that `GraderSpec.options` may hold

# Directly after an answer, these take it back or offer another: "X or Y", "X?", "X is not ...", "X, perhaps"; a
# correction does so in a sentence of its own too: "X. Correction: Y", "X. Wait, no: Y".
_DOUBT = re.compile(
    r"""[^\w?]{0,9}(?:sorry|correction|wait|oops|scratch\ {1,3}that|i\ {1,3}meant?)\b
      | [^\w?.!]{0,9}
        (?: \?
          | (?:(?:is|was|are|were|has|had|did|does|may|might|could|would)\ {1,3})?
            (?: (?:or|either|nor|not|never|no|maybe|perhaps|possibly|probably|presumably|allegedly|disputed
                  |unconfirmed|uncertain|unknown|wrong|false|incorrect)\b
              | (?:is|was|are|were|has|had|did|does|could|would)n['’]t\b
              | (?:i|we)\ {1,3}(?:think|believe|guess|suppose)\b
              | (?:may|might|could)\ {1,3}(?:have\ {1,3})?be
            )
        )""",
    re.IGNORECASE | re.VERBOSE,
)


def grade_offline(question: Question) -> Verdict:
    """Judge by the offline grader that `question.grader.model` names, always with a one-sentence `reasoning`.

    ``ungraded`` only where the reference itself cannot be read (empty, or no name or date). Text of any kind
    and length gets a verdict, never an exception.

    Raises:
        ConfigError: the model is none of `OFFLINE_GRADERS`.
    """
    grade = _GRADERS.get(question.grader.model)
    if grade is None:
        raise ConfigError(
            f"unknown offline grader {question.grader.model!r}: choose one of {', '.join(OFFLINE_GRADERS)}"
        )
    if not question.reference.strip():
        reasoning = "The reference is empty, so there is nothing to compare with."
        return Verdict(kind="ungraded", reasoning=reasoning, error=reasoning)
    verdict = grade(question)
    if verdict.kind == "not_equivalent" and not question.completion.strip():
        return Verdict(kind="not_equivalent", reasoning="The completion is empty.")
    if _is_doubted(question.completion, verdict.trimmed_completion):
        reasoning = "The completion gives the reference's answer, then doubts it or offers another."
        return Verdict(kind="not_equivalent", reasoning=reasoning)
    return verdict


def _grade_exact(question: Question) -> Verdict:
    """Equal apart from surrounding whitespace; case, accents and punctuation count."""
    if question.completion.strip() != question.reference.strip():
        reasoning = "The completion is not the same text as the reference."
        return Verdict(kind="not_equivalent", reasoning=reasoning)
    trimmed = question.completion.rstrip()
    return Verdict(
        kind="equivalent",
        trimmed_completion=None if trimmed == question.completion else trimmed,
        reasoning="The completion is the same text as the reference.",
    )


def _is_doubted(completion: str, trimmed: str | None) -> bool:
    """Whether what stands on the answer's line, directly after it, casts doubt on it."""
    if trimmed is None:
        return False  # nothing stands after the answer
    rest_of_line = completion[len(trimmed) : len(trimmed) + 80].splitlines()[0]
    return _DOUBT.match(rest_of_line) is not None


_GRADERS: dict[str, Callable[[Question], Verdict]] = {
    "offline/exact": _grade_exact,
    "offline/person_name": grade_person_name,
    "offline/date": grade_date,
}
OFFLINE_GRADERS: tuple[str, ...] = tuple(_GRADERS)
