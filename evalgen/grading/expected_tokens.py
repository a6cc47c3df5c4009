"""How many tokens a request takes, as far as those before it tell."""

from __future__ import annotations

from evalgen.grading.limiter_records import Demand, Outcome

LEARNING = 0.05  # weight of a new request


class ExpectedTokens:
    """Learned from requests that were answered."""

    def __init__(self) -> None:
        self.tokens_of_byte = 0.3
        self.tokens_of_answer = 100.0

    def learn(self, demand: Demand, outcome: Outcome) -> None:
        of_byte = outcome.input_tokens / max(1, demand.num_bytes)
        of_answer = outcome.output_tokens / demand.num_questions
        self.tokens_of_byte += LEARNING * (of_byte - self.tokens_of_byte)
        self.tokens_of_answer += LEARNING * (of_answer - self.tokens_of_answer)
