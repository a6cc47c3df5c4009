"""How many nodes may be evaluated together, so that all that the samplers keep fits a budget.

The tree is searched depth-first by slices. A slice whose subtree cannot have more than `max_leaves` nodes at any depth
is never cut again, and is searched level by level. Other slices have at most `max_nodes` nodes; at every depth some may
wait for another to be done, which is why they are small. Each kind has half of the budget for prefixes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from evalgen.records import SamplingLaw
from evalgen.sampling.freed_memory import give_back_freed_memory
from evalgen.sampling.model import LoadedModel

SHARE_OF_FREE_DEVICE_MEMORY = 0.8  # the rest is for activations and the allocator's gaps
SHARE_OF_FREE_HOST_MEMORY = 0.3  # other processes live there too
SHARE_OF_PROMPTS = 0.3  # of the budget
SHARE_OF_ROWS = 0.2  # for what is computed of one slice and not kept
BYTES_PER_LOGIT = 12  # the model's own; all else that is made of them, for a few rows at a time, is small
BYTES_PER_ATTENTION_WEIGHT = 24  # float32, a few copies, in a grid of which half may be empty
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest slices, and batches of prompts, of one unit."""

    max_leaves: int
    max_nodes: int
    max_prompt_tokens: int  # of a batch of prompts, padding included; one prompt may be longer


@dataclass(kw_only=True)
class Capacity:
    """What memory was found to suffice for, by running out of it: with one model, and prompts of about one length."""

    max_prompts: int = sys.maxsize  # evaluated together
    max_rows: int = sys.maxsize  # prefixes

    def halve(self, num_failed: int, are_prompts: bool) -> None:
        """Memory did not suffice for so many of either."""
        if are_prompts:
            self.max_prompts = min(self.max_prompts, max(1, num_failed // 2))
        else:
            self.max_rows = min(self.max_rows, max(1, num_failed // 2))


def limits_of(loaded: LoadedModel, law: SamplingLaw, longest_prompt: int, budget_bytes: int | None) -> Limits:
    """Limits such that prompts, prefixes and logits stay within `budget_bytes`; None: within what is free now."""
    budget = free_bytes(loaded.devices) if budget_bytes is None else budget_bytes
    footprint = loaded.footprint
    own_tokens = law.max_new_tokens + (0 if footprint.shares_prompts else longest_prompt)
    prefix = footprint.bytes_per_row + footprint.bytes_per_token * own_tokens  # at the greatest depth
    num_heads = getattr(loaded.model.config.get_text_config(), "num_attention_heads", 0)
    row = loaded.num_logits * BYTES_PER_LOGIT + longest_prompt * num_heads * BYTES_PER_ATTENTION_WEIGHT
    max_rows = int(budget * SHARE_OF_ROWS / len(loaded.devices)) // row  # of a slice all is on one of them at a time
    per_kind = int(budget * (1 - SHARE_OF_PROMPTS - SHARE_OF_ROWS) / 2)
    return Limits(
        max_leaves=max(1, min(max_rows, per_kind // (prefix * 2))),  # parents and children at once
        max_nodes=max(1, min(max_rows, per_kind // (prefix * (law.max_new_tokens + 1)))),
        # A recurrent state takes the same for every prompt: nothing to limit but the batch.
        max_prompt_tokens=int(budget * SHARE_OF_PROMPTS) // max(1, footprint.bytes_per_token),
    )


def free_bytes(devices: Collection[torch.device]) -> int:
    """What the samplers may use of the memory that is free now. Layers, and so keys, are spread evenly over GPUs."""
    if all(device.type == "cuda" for device in devices):
        return int(min(map(_free_on_gpu, devices)) * len(devices) * SHARE_OF_FREE_DEVICE_MEMORY)
    give_back_freed_memory()
    return int(_free_on_host() * SHARE_OF_FREE_HOST_MEMORY)


def _free_on_gpu(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    # The second is held by torch for later.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_on_host() -> int:
    """A container sees all memory of its host, and has what its cgroup (version 2) leaves it, and all those above."""
    free = psutil.virtual_memory().available
    lines = OWN_CGROUP.read_text().splitlines() if OWN_CGROUP.exists() else []
    for path in (CGROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        free = min(free, *map(_left_in_cgroup, (path, *path.parents)))
    return max(0, int(free))


def _left_in_cgroup(path: Path) -> float:
    """Bytes; what it has of files that nobody has read again lately is given up when wanted, and counts as free."""
    try:
        limit, used = (int((path / name).read_text()) for name in ("memory.max", "memory.current"))
        fields = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max": it has no limit
        return math.inf
    return limit - used + int(fields.get("inactive_file", 0))
