"""Tells an allocation that failed from other errors, and what to do about one that nothing mends."""

from __future__ import annotations

import torch

from evalgen.errors import InputError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on whatever device; on a CPU torch raises nothing more special for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(device: torch.device, num_tokens: int) -> InputError:
    """Why a single sequence could not be evaluated, and what to do."""
    return InputError(
        f"out of memory on {device} with one sequence of {num_tokens} tokens: the model leaves too little; "
        "give fewer --num_replicas, a larger device, or shorter prompts"
    )
