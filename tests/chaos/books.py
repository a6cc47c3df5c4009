"""The books of the chaos server: what was asked, answered, refused and billed. The truth that a test compares with."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.chaos.limits import Clock
from tests.chaos.settings import Price

BATCH_DISCOUNT = 0.5


@dataclass(frozen=True, kw_only=True)
class QuestionCounts:
    """One distinct question: the same model, rules, prompt, reference and completion, alone or in a pack or batch."""

    asked: int  # requests and batch items that asked it, with the right key; refused ones too
    answered: int  # replies with a readable verdict that left the server whole; each of them was billed


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The books at one moment. Seconds are counted from the server's start, by its own clock."""

    now_s: float
    by_status: Mapping[int, int]  # responses to POST /v1/messages; 0: none came
    batch_calls: Mapping[str, int]  # requests with the right key: "create", "retrieve", "list", "results", "cancel"
    faults: Mapping[str, int]  # how often each struck; "storm" and "spend_cap" too
    refused: Mapping[str, int]  # 429s by limit: "requests", "input tokens", "output tokens"
    arrivals_by_s: Mapping[int, int]  # POST /v1/messages
    served_by_s: Mapping[int, int]  # those that the limits let through, by their arrival
    refused_by_s: Mapping[int, int]
    num_in_flight: int
    max_in_flight: int
    in_flight_by_s: Mapping[int, float]  # on average in that second; not exact where nothing came or went in one
    num_questions: int  # distinct
    times_asked: Mapping[int, int]  # how many distinct questions were asked so many times
    times_answered: Mapping[int, int]
    input_tokens: int  # billed
    output_tokens: int
    batch_input_tokens: int  # billed at half price
    batch_output_tokens: int
    billed_usd: float  # 0 for a model without a price

    @property
    def calls(self) -> int:
        """Requests to POST /v1/messages, whatever came of them."""
        return sum(self.by_status.values())

    @property
    def asked_per_question(self) -> float:
        return sum(times * num for times, num in self.times_asked.items()) / max(1, self.num_questions)


@dataclass(kw_only=True)
class Books:
    """Counts only, so memory grows by some 200 bytes a distinct question and by nothing else."""

    clock: Clock = time.monotonic
    by_status: Counter[int] = field(default_factory=Counter)
    batch_calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    num_served: int = 0  # messages and batch items that were judged

    def __post_init__(self) -> None:
        self._started_at = self.clock()
        self._by_second: dict[str, Counter[int]] = {"arrivals": Counter(), "served": Counter(), "refused": Counter()}
        self._asked: Counter[bytes] = Counter()
        self._answered: Counter[bytes] = Counter()
        self._tokens: Counter[str] = Counter()
        self._num_in_flight = self._max_in_flight = 0
        self._in_flight: defaultdict[int, float] = defaultdict(float)  # by second, times how long
        self._changed_at = self._started_at
        self.billed_usd = 0.0

    def arrive(self) -> None:
        """A message request is here."""
        self.tick("arrivals")
        self._change_in_flight(1)
        self._max_in_flight = max(self._max_in_flight, self._num_in_flight)

    def leave(self, status: int) -> None:
        """It is answered, or its connection is gone (`status` 0)."""
        self._change_in_flight(-1)
        self.by_status[status] += 1

    def _change_in_flight(self, by: int) -> None:
        now = self.clock()
        self._in_flight[int(now - self._started_at)] += self._num_in_flight * (now - self._changed_at)
        self._changed_at = now
        self._num_in_flight += by

    def tick(self, what: str) -> None:
        self._by_second[what][int(self.clock() - self._started_at)] += 1

    def ask(self, digests: Iterable[bytes]) -> None:
        self._asked.update(digests)

    def answered(self, digests: Iterable[bytes]) -> None:
        self._answered.update(digests)

    def refuse(self, limit: str) -> None:
        self.refused[limit] += 1
        self.tick("refused")

    def bill(self, price: Price | None, *, input_tokens: int, output_tokens: int, in_batch: bool = False) -> None:
        prefix = "batch_" if in_batch else ""
        self._tokens[f"{prefix}input_tokens"] += input_tokens
        self._tokens[f"{prefix}output_tokens"] += output_tokens
        if price is not None:
            usd = (input_tokens * price.input_usd + output_tokens * price.output_usd) / 1e6
            self.billed_usd += usd * (BATCH_DISCOUNT if in_batch else 1)

    def questions(self) -> dict[str, QuestionCounts]:
        """Every distinct question by its digest in hex."""
        return {
            digest.hex(): QuestionCounts(asked=asked, answered=self._answered[digest])
            for digest, asked in self._asked.items()
        }

    def stats(self) -> Stats:
        return Stats(
            now_s=self.clock() - self._started_at,
            by_status=self.by_status,
            batch_calls=self.batch_calls,
            faults=self.faults,
            refused=self.refused,
            **{f"{what}_by_s": counts for what, counts in self._by_second.items()},
            num_in_flight=self._num_in_flight,
            max_in_flight=self._max_in_flight,
            in_flight_by_s=self._in_flight,
            num_questions=len(self._asked),
            times_asked=Counter(self._asked.values()),
            times_answered=Counter(self._answered[digest] for digest in self._asked),
            input_tokens=self._tokens["input_tokens"],
            output_tokens=self._tokens["output_tokens"],
            batch_input_tokens=self._tokens["batch_input_tokens"],
            batch_output_tokens=self._tokens["batch_output_tokens"],
            billed_usd=self.billed_usd,
        )
