"""Notices that a judge gives no verdict, whatever it is asked: a server without structured replies, say."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from evalgen.records import Answer

MANY_QUESTIONS = 50

log = logging.getLogger(__name__)


class AskedInVain:
    """Warns once if none of the first questions got a verdict. The job goes on: others may get one."""

    def __init__(self) -> None:
        self._num_questions = 0
        self._is_settled = False  # one had a verdict, or it has been said that none did

    def note(self, answers: Sequence[Answer]) -> None:
        """Takes what became of some questions."""
        for answer in answers:
            if self._is_settled:
                return
            self._num_questions += 1
            self._is_settled = answer.verdict.kind != "ungraded" or self._num_questions == MANY_QUESTIONS
            if answer.verdict.kind == "ungraded" and self._is_settled:
                log.warning(
                    "none of the first %d questions got a verdict; the last: %s. Check --grader_model, and that the "
                    "server at ANTHROPIC_BASE_URL can give structured replies",
                    self._num_questions,
                    answer.verdict.error,
                )
