"""What sampling a unit is likely to cost, before anything has been sampled."""

from __future__ import annotations

from typing import NamedTuple

from evalgen.records import SamplingUnit

NODES_PER_PASS = 32  # a forward pass takes as long as so many nodes, on top of its own


class CostModel(NamedTuple):
    """What sampling costs, in evaluations of one node."""

    num_tokens: int  # of a completion at most
    exponent: float  # how the nodes of a prompt grow with its draws

    @property
    def fixed(self) -> float:
        """Of a unit, however few its nodes are."""
        return NODES_PER_PASS * float(1 + self.num_tokens)

    def of_prompt(self, num_draws: float) -> float:
        """Its nodes."""
        return float(1 + self.num_tokens * num_draws**self.exponent)

    def of_piece(self, num_draws: int) -> float:
        """A unit of one prompt."""
        return self.fixed + self.of_prompt(num_draws)


def estimated_cost(unit: SamplingUnit) -> float:
    """How long sampling takes, in evaluations of one node; loading the checkpoint not included.

    Every unit takes a forward pass for each token, however few nodes there are: measured on two cores, a pass took as
    long as 12 to 22 nodes on top of its own with SmolLM2, and 55 to 85 with the demo's checkpoints. Draws share
    prefixes, fewer the hotter the sampling: on the demo's checkpoints 1,000 times the draws took 2.8 times as long at
    T=0.1, 10 times at T=0.7 and 51 times at T=1.
    """
    return cost_model(unit).fixed + cost_of_nodes(unit)


def is_divisible(unit: SamplingUnit) -> bool:
    """Whether draws of a prompt can be made apart: one greedy completion stands for all."""
    return unit.law.do_sample and unit.num_draws > 1


def num_sampled(unit: SamplingUnit) -> int:
    """Draws of a prompt that are really made."""
    return unit.num_draws if is_divisible(unit) else 1


def leaves_of_prompt(unit: SamplingUnit) -> float:
    """Draws that cost as much as what is done for a prompt: what is enumerated, about as many find."""
    return 1 / unit.min_probability if unit.min_probability else num_sampled(unit)


def cost_of_nodes(unit: SamplingUnit) -> float:
    return len(unit.queries) * cost_model(unit).of_prompt(leaves_of_prompt(unit))


def cost_model(unit: SamplingUnit) -> CostModel:
    exponent = 1.0 if unit.sampler == "independent" else min(1.0, 0.1 + 0.5 * unit.law.temperature)
    return CostModel(unit.law.max_new_tokens, exponent)
