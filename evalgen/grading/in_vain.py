"""Notices that a judge gives no verdict, whatever it is asked: a server without structured replies, say."""

from __future__ import annotations

from collections.abc import Sequence

from evalgen.errors import GraderUnavailable
from evalgen.grading.messages import REFUSED
from evalgen.records import Answer

MANY_QUESTIONS = 50
SEVERAL_PROMPTS = 2  # one may be of a kind that this judge cannot take


class AskedInVain:
    """Counts questions until one gets a verdict. A refusal is one in this sense: the judge knows what it was asked."""

    def __init__(self) -> None:
        self._is_useful = False
        self._num_questions = 0
        self._prompts: set[str] = set()

    def note(self, answers: Sequence[Answer]) -> None:
        """Takes what became of some questions.

        Raises:
            GraderUnavailable: none of many has a verdict.
        """
        for answer in answers:
            error = answer.verdict.error or ""
            self._is_useful |= answer.verdict.kind != "ungraded" or REFUSED in error
            if self._is_useful:
                return
            self._num_questions += 1
            self._prompts.add(answer.question.prompt)
            if self._num_questions >= MANY_QUESTIONS and len(self._prompts) >= SEVERAL_PROMPTS:
                raise GraderUnavailable(
                    f"none of the first {self._num_questions} questions got a verdict; the last: {error}. Check "
                    "--grader_model, and that the server at ANTHROPIC_BASE_URL can give structured replies"
                )
