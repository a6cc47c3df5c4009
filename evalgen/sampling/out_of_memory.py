"""Tells an allocation that failed from other errors, and what to do about one that nothing mends."""

from __future__ import annotations

import torch

from evalgen.errors import SequenceTooLarge

# For which torch raises errors of no kind of their own: its allocator on a CPU, and what allocates past its allocator
# on a GPU, a cuBLAS workspace or the driver itself.
SAID_OF_CPU = "DefaultCPUAllocator"
SAID_OF_DRIVER = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in (SAID_OF_CPU, *SAID_OF_DRIVER))


def out_of_memory(device: torch.device, num_tokens: int, reason: str) -> Exception:
    """What to raise where it did not suffice for a single sequence; `reason` is what torch said."""
    if any(said in reason for said in SAID_OF_DRIVER):  # another process has the memory: the device cannot work now
        return RuntimeError(reason)
    return SequenceTooLarge(
        f"out of memory on {device} with one sequence of {num_tokens} tokens: the model leaves too little; "
        "give fewer --num_replicas, a larger device, or shorter prompts"
    )
