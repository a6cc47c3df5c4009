"""What a failed request to the Messages API means: try again later, stop the job, or give up on one question.

Sources: https://platform.claude.com/docs/en/api/errors and .../api/rate-limits, and the error classes of the
``anthropic`` SDK 2.12. No text made here ever contains the API key.
"""

from __future__ import annotations

import math
import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import anthropic

from evalgen.errors import GraderUnavailable
from evalgen.grading.limiter_records import Lease, Outcome
from evalgen.grading.server_limits import announced_limits
from evalgen.printable import printable
from evalgen.records import Limits

_MAX_MESSAGE_CHARS = 300
_MOST_CHARS_READ = 10_000  # of a body in which a message may stand anywhere
_BILLING_OPENINGS = (
    "your credit balance is too low",
    "you have reached your api usage limits",
    "you have reached your specified",  # ... (workspace) API usage limits
    "this organization has been disabled",
)


def is_transient(error: BaseException) -> bool:
    """Whether the same request can succeed later.

    The SDK's own rule (connection, timeout, 408, 409, 429, any 5xx, 529 overloaded), less the 429s of a spend
    cap, which look like a rate limit but last until somebody pays or the month ends.
    """
    if isinstance(error, anthropic.APIConnectionError):
        return True
    if not isinstance(error, anthropic.APIStatusError) or _is_billing(error):
        return False
    return error.status_code in (408, 409, 429) or error.status_code >= 500


def retry_after_s(error: BaseException | None) -> float:
    """Seconds the server asks us to wait (its ``retry-after`` header), 0 if it does not say.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    if not isinstance(error, anthropic.APIStatusError):
        return 0.0
    headers = error.response.headers
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        until = _date(told)
        now = _date(headers.get("date", "")) or datetime.now(UTC)  # the server's clock, if we know it
        seconds = 0.0 if until is None else (until - now).total_seconds()
    return seconds if 0 < seconds < math.inf else 0.0


def _date(header: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def outcome_of(error: anthropic.AnthropicError, lease: Lease) -> Outcome:
    """What a failed request means for the others, and whether it may have been charged for."""
    kind: Literal["rejected", "throttled", "failed"] = "rejected"
    limits = Limits()
    if isinstance(error, anthropic.APIStatusError):
        limits = announced_limits(error.response.headers)
    if is_transient(error):
        is_told_when = isinstance(error, anthropic.RateLimitError) and retry_after_s(error) > 0
        kind = "throttled" if is_told_when else "failed"
    return Outcome(
        lease=lease,
        kind=kind,
        limits=limits,
        retry_after_s=retry_after_s(error),
        error=describe(error),
        cost_usd=None if _may_be_charged(error) else 0.0,
        is_down=_was_never_sent(error) or getattr(error, "status_code", None) in (503, 529),
    )


def _may_be_charged(error: anthropic.AnthropicError) -> bool:
    """The API charges for no error that it answers. Where the answer was lost, nobody knows what it was."""
    return isinstance(error, anthropic.APIConnectionError) and not _was_never_sent(error)


def _was_never_sent(error: anthropic.AnthropicError) -> bool:
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def unavailable(error: anthropic.AnthropicError, model: str) -> GraderUnavailable | None:
    """The one-line error that ends the job, or None if only this question is lost."""
    if isinstance(error, anthropic.AuthenticationError):
        # The server's own words are left out: they may quote the key.
        return GraderUnavailable("the Messages API refuses the key: check ANTHROPIC_API_KEY (HTTP 401)")
    if isinstance(error, anthropic.CredentialsError):
        return GraderUnavailable("the anthropic SDK cannot load its credentials: set ANTHROPIC_API_KEY")
    if isinstance(error, anthropic.PermissionDeniedError):
        return GraderUnavailable(f"the API key may not use the grader model {model!r}: {describe(error)}")
    if isinstance(error, anthropic.NotFoundError) and error.api_message is None:
        return GraderUnavailable(
            "nothing answers as the Messages API: check ANTHROPIC_BASE_URL, which is given without the /v1 of its "
            f"paths ({describe(error)})"
        )
    if isinstance(error, anthropic.NotFoundError):
        return GraderUnavailable(
            f"the Messages API has no grader model {model!r}: check --grader_model and ANTHROPIC_BASE_URL "
            f"({describe(error)})"
        )
    if isinstance(error, anthropic.APIStatusError) and _is_billing(error):
        return GraderUnavailable(
            f"the account cannot be billed for more requests: {describe(error)}. "
            "Raise the limit or add credit in the Claude Console, then run the job again: what was paid for is reused"
        )
    return None


def describe(error: anthropic.AnthropicError) -> str:
    """The failure in one line: status, the API's type and message, the request id that support asks for."""
    if isinstance(error, anthropic.APITimeoutError):
        return "a request to the Messages API timed out; a slow server has time for fewer --max_connections"
    if isinstance(error, anthropic.APIConnectionError):
        return f"no connection to the Messages API ({type(error.__cause__).__name__})"
    if not isinstance(error, anthropic.APIStatusError):
        return type(error).__name__
    # Of any type where the server is not Anthropic's; and what it says may stand elsewhere.
    parts = [f"HTTP {error.status_code}", str(error.type or ""), error.error_code or ""]
    text = " ".join(part for part in parts if part)
    if said := error.api_message or error.response.text[:_MOST_CHARS_READ]:
        text += f": {said}"
    text = _one_line(_without_secrets(text, error))
    return f"{text} [{error.request_id}]" if error.request_id else text


def _is_billing(error: anthropic.APIStatusError) -> bool:
    """A spend cap, an empty account or a disabled organization.

    A tier's or contract's spend cap is a 429 with an error code. A limit that the organization set for itself
    and an empty account are 400s without any code, so there the message has to tell them apart.
    """
    code = error.error_code or ""
    if error.status_code == 402 or error.type == "billing_error" or code == "organization_on_hold":
        return True
    if code.endswith("spend_limit_reached"):
        return True
    if error.status_code == 429 and "retry-after" in error.response.headers:
        return False  # some limits on a workspace: worth waiting for
    message = str(error.api_message or "").lower()
    return error.status_code in (400, 429) and message.startswith(_BILLING_OPENINGS)


def _without_secrets(text: str, error: anthropic.APIStatusError) -> str:
    """Without the key, and what stands in `ANTHROPIC_CUSTOM_HEADERS`, where a proxy's may: a page may quote both."""
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").splitlines()
    headers = {"authorization", "x-api-key", *(line.partition(":")[0].strip() for line in lines)}
    for header in headers - {""}:
        for secret in error.request.headers.get(header, "").split():
            if len(secret) > len("Bearer"):
                text = text.replace(secret, "***")
    return text


def _one_line(text: str) -> str:
    line = printable(re.sub(r"\s+", " ", text).strip())
    return line if len(line) <= _MAX_MESSAGE_CHARS else f"{line[:_MAX_MESSAGE_CHARS]}…"
