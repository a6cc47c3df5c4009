"""Seeded chance: which fault strikes and how long a response takes, whatever the order of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.chaos.settings import BatchFaults, Faults, Settings


def chance(seed: int, *key: object) -> random.Random:
    """A stream of random numbers that depends on the seed and the key alone."""
    return random.Random(f"{seed}:{key}")


def struck_by(faults: Faults | BatchFaults, possible: Sequence[str], stream: random.Random) -> str | None:
    """The fault that strikes, None if none does. Those that are not `possible` here leave the request alone."""
    point = stream.random()
    for name, probability in vars(faults).items():
        point -= probability
        if point < 0:
            return name if name in possible else None
    return None


def latency_s(settings: Settings, stream: random.Random) -> float:
    return settings.latency_s * stream.lognormvariate(0.0, settings.latency_sigma)
