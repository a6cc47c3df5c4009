"""Everything that can be asked of the chaos server, as one value that travels to it as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tests.chaos.limits import Limits
from tests.messages_api import API_KEY

MAX_MESSAGE_BYTES = 32 * 2**20  # https://platform.claude.com/docs/en/api/errors, "Request size limits"
MAX_BATCH_BYTES = 256 * 2**20
MAX_BATCH_REQUESTS = 100_000


def _check_probabilities(record: Faults | BatchFaults) -> None:
    values = {entry.name: getattr(record, entry.name) for entry in fields(record)}
    assert all(0 <= value <= 1 for value in values.values()) and sum(values.values()) <= 1 + 1e-9, values


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The probability of each fault; at most one strikes a request. What is billed has been judged, too."""

    # Instead of any work, not billed:
    server_error: float = 0.0  # 500
    bad_gateway: float = 0.0  # 502, a proxy's page
    unavailable: float = 0.0  # 503
    overloaded: float = 0.0  # 529
    reset: float = 0.0  # the connection is reset on arrival
    not_a_message: float = 0.0  # 200 and a page that the API never wrote
    not_found: float = 0.0  # 404 for a batch that exists, as anthropic-sdk-python's issue 1432 reports
    # On the way back, billed. A batch is created all the same:
    lost: float = 0.0  # the connection is reset in place of the response
    hang: float = 0.0  # a response that never comes
    slow: float = 0.0  # `slow_s` later than otherwise
    cut: float = 0.0  # the connection is closed in the middle of the body
    malformed: float = 0.0  # 200 and half of the JSON
    # In the judge's reply, billed:
    refusal: float = 0.0  # stop reason "refusal"
    max_tokens: float = 0.0  # stop reason "max_tokens", half of the text
    prose: float = 0.0  # a text that is no JSON
    # In the reply to a pack, billed; they strike one entry, and requests for one verdict not at all:
    pack_missing: float = 0.0
    pack_duplicated: float = 0.0
    pack_out_of_range: float = 0.0
    pack_malformed: float = 0.0

    def __post_init__(self) -> None:
        _check_probabilities(self)


BEFORE_WORK = ("server_error", "bad_gateway", "unavailable", "overloaded", "reset", "not_a_message")
AT_A_BATCH = ("not_found",)
ON_THE_WAY_BACK = ("lost", "hang", "slow", "cut", "malformed")
IN_REPLY = ("refusal", "max_tokens", "prose")
IN_PACK = ("pack_missing", "pack_duplicated", "pack_out_of_range", "pack_malformed")


@dataclass(frozen=True, kw_only=True)
class BatchFaults:
    """The probability of each outcome that is not a success, item by item. None of them is billed."""

    overloaded: float = 0.0  # errored, overloaded_error
    server_error: float = 0.0  # errored, api_error
    invalid_request: float = 0.0  # errored, invalid_request_error
    expired: float = 0.0
    canceled: float = 0.0

    def __post_init__(self) -> None:
        _check_probabilities(self)


@dataclass(frozen=True, kw_only=True)
class Storm:
    """Every request gets 529, from `start_s` after the server was given the storm on, for `duration_s`."""

    start_s: float = 0.0
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """USD for a million tokens; in a batch, half."""

    input_usd: float
    output_usd: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the chaos server behaves. Any of it can be changed in mid-run."""

    limits: Limits = field(default_factory=Limits)
    faults: Faults = Faults()
    storm: Storm | None = None
    seed: int = 0  # with the question and how often it was asked, decides every fault and latency
    latency_s: float = 0.0  # the median, from arrival to response
    latency_sigma: float = 0.0  # of a lognormal distribution; 0: every response takes `latency_s`
    slow_s: float = 30.0
    clock_skew_s: float = 0.0  # the server's clock minus the true time
    api_key: str = API_KEY
    judge: str = "tests.messages_api:honest_judge"  # module:function, or :class to be made anew
    prices: Mapping[str, Price] | None = None  # by model, and no other model exists; None: any does, and costs nothing
    spend_cap_requests: int | None = None  # once so many requests were billed, no more is served
    spend_cap_usd: float | None = None
    batch_faults: BatchFaults = BatchFaults()
    batch_polls: int = 1  # how many polls find a batch in progress; one that is listed is polled
    batch_min_s: float = 0.0  # how long a batch is in progress at the least
    batch_canceled_share: float = 1.0  # of a batch that is cancelled; the rest is done by then
    lost_batch_creates: int = 0  # the first so many batches are created, and their response is lost
    max_queued: int | None = None  # items of all batches in progress; a batch above that is refused with 429
    max_batch_requests: int = MAX_BATCH_REQUESTS
    max_batch_bytes: int = MAX_BATCH_BYTES
    max_message_bytes: int = MAX_MESSAGE_BYTES
