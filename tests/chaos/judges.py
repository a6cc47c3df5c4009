"""Judges for the chaos server besides the honest one: ``ChaosApi(judge="tests.chaos.judges:WaveringJudge")``."""

from __future__ import annotations

from collections import Counter

from tests.messages_api import Json, honest_judge, verdict

OTHER_VERDICT = {"equivalent": "not_equivalent", "not_equivalent": "equivalent"}


class WaveringJudge:
    """Honest, but says the opposite every third time that it is asked the same: its votes do not all agree."""

    def __init__(self) -> None:
        self._times_asked: Counter[str] = Counter()

    def __call__(self, question: dict[str, str]) -> Json:
        key = repr(sorted(question.items()))
        self._times_asked[key] += 1
        honest = honest_judge(question)
        if self._times_asked[key] % 3:
            return honest
        return verdict(OTHER_VERDICT[honest["verdict"]], reasoning="I am of another mind.")
