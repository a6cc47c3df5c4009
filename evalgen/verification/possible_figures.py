"""What figures of a prompt cannot be, whatever was sampled: shares above 1, parts above their wholes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from evalgen.records import VerdictKind

ROUNDING = 1e-9
SHARES = (
    *("seen_mass", "equivalent_mass", "seen_mass_sampling", "equivalent_mass_sampling"),
    *("unseen_mass", "covered_mass", "equivalent_draw_share"),
)
# The first of each pair is no more than the second.
PARTS = (
    ("equivalent_mass", "seen_mass"),
    ("equivalent_mass_sampling", "seen_mass_sampling"),
    ("semantic_entropy_lower", "semantic_entropy"),
    ("num_equivalent", "num_unique"),
)


def impossible_figures(prompt: Mapping[str, Any]) -> list[str]:
    """Each as a sentence; `prompt` is a row of prompts.parquet."""
    problems = [
        f"{name} is {prompt[name]}, no share"
        for name in SHARES
        if prompt[name] is not None and not -ROUNDING <= prompt[name] <= 1 + ROUNDING
    ]
    for part, whole in PARTS:
        if prompt[part] is None or prompt[whole] is None:
            is_possible = prompt[part] is prompt[whole]
        else:
            is_possible = prompt[part] <= prompt[whole] + ROUNDING
        if not is_possible:
            problems.append(f"{part} is {prompt[part]}, and {whole} {prompt[whole]}")
    if (entropy := prompt["semantic_entropy_lower"]) is not None and not entropy >= 0:
        problems.append(f"semantic_entropy_lower is {entropy}")
    if (prompt["greedy_completion"] is None) != (prompt["greedy_verdict"] is None):
        problems.append("of greedy_completion and greedy_verdict one is null")
    if prompt["greedy_verdict"] not in (None, *get_args(VerdictKind)):
        problems.append(f"greedy_verdict is {prompt['greedy_verdict']!r:.40}")
    if prompt["greedy_draws"] is not None and not 0 <= prompt["greedy_draws"] <= (prompt["num_draws"] or 0):
        problems.append(f"greedy_draws is {prompt['greedy_draws']}, and num_draws {prompt['num_draws']}")
    return problems
