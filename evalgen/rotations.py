"""How a model rotates positions (RoPE), as far as that changes with the length of what it reads.

LongRoPE (Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", 2024) has two sets of factors:
one up to the length of the original training, one for all that is longer. Keys that were kept were rotated by the one
that held then.
"""

from __future__ import annotations

from typing import Any

from evalgen.errors import InputError


def rope_parameters(config: Any) -> list[dict[str, Any]]:
    """Those of a transformers configuration: of all layers, or of each kind of them."""
    found = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return [each for each in (found, *found.values()) if isinstance(each, dict) and "rope_type" in each]


def rotation_changes(config: Any) -> tuple[int, ...]:
    """The lengths in tokens beyond which LongRoPE rotates all positions otherwise."""
    of_layers = (each for each in rope_parameters(config) if each["rope_type"] == "longrope")
    return tuple(sorted({each["original_max_position_embeddings"] for each in of_layers}))


def check_rotations(prompt_id: str, num_prompt_tokens: int, max_new_tokens: int, changes: tuple[int, ...]) -> None:
    """Whether a prompt and its completions are rotated in one way; `changes` as from `rotation_changes`.

    Raises:
        InputError: they may not be: the model would look for the prompt's keys where they are not.
    """
    longest = num_prompt_tokens + max_new_tokens - 1  # the last token is not read
    for limit in changes:
        if num_prompt_tokens <= limit < longest:
            raise InputError(
                f"prompt {prompt_id!r} takes {num_prompt_tokens} tokens and {longest} with its completion, but beyond "
                f"{limit} tokens this model (LongRoPE) rotates all positions otherwise; expected lengths that are all "
                f"on one side of that: give --max_new_tokens {limit - num_prompt_tokens + 1}, or a longer prompt"
            )
