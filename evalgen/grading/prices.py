"""What the Messages API charges for tokens. The cost of a model that is not listed is unknown, not zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalgen.errors import ConfigError

SHIPPED_PRICES = Path(__file__).parents[2] / "configs" / "prices.yaml"
BATCH_DISCOUNT = 0.5  # https://platform.claude.com/docs/en/build-with-claude/batch-processing#pricing
# Of a request, beside what we send: the API puts the reply's schema, and how to follow it, before our text.
MOST_HIDDEN_TOKENS = 2000


class Price(BaseModel):
    """USD per million tokens, without cache or batch discounts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


class _PriceFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    as_of: date
    source: str = ""
    usd_per_million_tokens: dict[str, Price]


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """Prices by model name without its release date."""

    prices: Mapping[str, Price] = field(default_factory=dict)
    as_of: str = ""  # ISO date on which they were read

    def of(self, model: str) -> Price | None:
        """`model` may end in its release date; None: not listed."""
        return self.prices.get(model) or self.prices.get(re.sub(r"-\d{8}$", "", model))

    def cost_usd(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """Of these tokens; None if the model's price is unknown."""
        price = self.of(model)
        return None if price is None else (input_tokens * price.input + output_tokens * price.output) / 1e6

    def most_usd(self, model: str, num_bytes: int, max_tokens: int) -> float:
        """What a request of so many bytes can cost: no token is less than a byte. 0 if the price is unknown."""
        return self.cost_usd(model, num_bytes + MOST_HIDDEN_TOKENS, max_tokens) or 0.0


def load_prices(path: Path | None = None) -> PriceList:
    """The prices in a file like `configs/prices.yaml`; None: that one, and none at all where it is not there.

    Raises:
        ConfigError: the file cannot be read, or is no list of prices.
    """
    if path is None and not SHIPPED_PRICES.exists():
        return PriceList()
    path = path or SHIPPED_PRICES
    try:
        content = _PriceFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"prices_path: cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(f"prices_path: {path}: {where}: {first['msg'].lower()}; see configs/prices.yaml") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"prices_path: {path} is not valid YAML: {' '.join(str(error).split())}") from None
    return PriceList(prices=content.usd_per_million_tokens, as_of=content.as_of.isoformat())
