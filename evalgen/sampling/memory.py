"""How much memory the KV cache takes, and how much it may take."""

from __future__ import annotations

import psutil
import torch
from transformers import Cache

SHARE_OF_FREE_DEVICE_MEMORY = 0.6  # the rest is for logits, activations and the allocator's gaps
BYTES_PER_LOGIT = 50  # its float32 and float64 copies while the next tokens are drawn
SHARE_OF_FREE_HOST_MEMORY = 0.2  # other processes live there too


def cache_bytes(cache: Cache) -> int:
    """Size of the keys and values that `cache` holds."""
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def cache_budget_bytes(device: torch.device) -> int:
    """What all KV caches of a unit may take together, from the memory that is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * SHARE_OF_FREE_DEVICE_MEMORY)
    return int(psutil.virtual_memory().available * SHARE_OF_FREE_HOST_MEMORY)
