"""What the Messages API charges for tokens. The cost of a model that is not listed is unknown, not zero."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Price:
    """List price in USD per million tokens, without cache or batch discounts."""

    input_usd: float
    output_usd: float
    as_of: str  # ISO date on which the price was read


# https://platform.claude.com/docs/en/about-claude/pricing. Keys are model names without their release date.
PRICES: dict[str, Price] = {
    "claude-haiku-4-5": Price(input_usd=1.00, output_usd=5.00, as_of="2026-11-23"),
    # For prompts of up to 100,000 tokens, five times that above: no question about a completion gets there.
    "claude-haiku-5-5": Price(input_usd=0.10, output_usd=0.50, as_of="2026-11-23"),
}


def cost_usd(model: str, input_tokens: int, output_tokens: int) -> float | None:
    """List price of these tokens, None if the model's is unknown. `model` may end in its release date."""
    price = PRICES.get(re.sub(r"-\d{8}$", "", model))
    if price is None:
        return None
    return (input_tokens * price.input_usd + output_tokens * price.output_usd) / 1e6
