"""Reads the limits that the Messages API announces with every response.

Source: https://platform.claude.com/docs/en/api/rate-limits, "Response headers".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evalgen.records import Limits


def announced_limits(headers: Mapping[str, str]) -> Limits:
    """What a response's headers say, None for each limit that they do not name. Other servers send none of them."""
    return Limits(
        requests=_per_minute(headers, "requests"),
        input_tokens=_per_minute(headers, "input-tokens"),
        output_tokens=_per_minute(headers, "output-tokens"),
    )


def _per_minute(headers: Mapping[str, str], what: str) -> float | None:
    try:
        limit = float(headers.get(f"anthropic-ratelimit-{what}-limit", ""))
    except ValueError:
        return None
    return limit if math.isfinite(limit) and limit > 0 else None
