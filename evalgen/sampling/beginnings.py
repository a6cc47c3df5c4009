"""Where prompts begin alike, as few-shot prompts do: what the model reads once and not for each of them.

Prompts are left-padded. What a prompt has before some column is its head; distinct heads are read first, then, behind
them, what each prompt has from that column on. Nothing is padded in between, so that positions and sliding windows are
those of whole prompts.

Dimension letters: P prompts, S length of the longest, C the column, G distinct heads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_TOKENS_SAVED = 512  # fewer are not worth another pass: about what a GPU computes while it reads all weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginnings:
    """The distinct heads of P prompts."""

    column: int
    prompts: NDArray[np.int64]  # (G,) one prompt with each head
    head_of: NDArray[np.int64]  # (P,) which of these heads each prompt has, or has the beginning of
    shift: NDArray[np.int64]  # (P,) by how many columns the prompt's is farther to the right

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which head (P, 1), and which column of it (P, C), each prompt has in each column; in the padding any."""
        columns = (np.arange(self.column) - self.shift[:, None]).clip(min=0)
        return torch.from_numpy(self.head_of[:, None]).to(device), torch.from_numpy(columns).to(device)


def of_prompts(of_heads: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Keys or values of the heads (G, K, C, E) as those of each prompt (P, K, C, E)."""
    return of_heads.transpose(1, 2)[places].transpose(1, 2)


def shared_beginnings(prompts: Sequence[Sequence[int]]) -> Beginnings | None:
    """With the column that leaves the fewest tokens to read, padding included. None: hardly fewer than before."""
    longest = max(map(len, prompts))
    padding = np.array([longest - len(prompt) for prompt in prompts])
    order = sorted(range(len(prompts)), key=lambda index: list(prompts[index]))  # those that begin alike stand together
    num_alike = [num_equal_first(prompts[a], prompts[b]) for a, b in pairwise(order)]
    best, most_saved = None, LEAST_TOKENS_SAVED - 1
    for column in range(longest - 1, 0, -1):  # of each prompt a token is left
        if (len(prompts) - 1) * column <= most_saved:
            break
        groups = _groups(order, num_alike, column - padding)
        saved = (len(prompts) - len(groups)) * column
        if saved > most_saved:
            best, most_saved = _beginnings(groups, column, padding), saved
    return best


def _groups(order: Sequence[int], num_alike: Sequence[int], head_lengths: NDArray[np.int64]) -> list[list[int]]:
    """Prompts of which one has the longest head and all others the beginning of it; an empty head is of any."""
    lengths = head_lengths.clip(min=0).tolist()
    groups = [[order[0]]]
    longest, in_common = lengths[order[0]], sys.maxsize  # the group's longest head, and what the next one has of it
    for index, num in zip(order[1:], num_alike, strict=True):
        in_common = min(in_common, num)
        length = lengths[index]
        if in_common < min(longest, length):
            groups.append([])
        if not groups[-1] or length > longest:
            longest, in_common = length, sys.maxsize
        groups[-1].append(index)
    return groups


def _beginnings(groups: list[list[int]], column: int, padding: NDArray[np.int64]) -> Beginnings:
    head_of = np.zeros(len(padding), np.int64)
    for number, group in enumerate(groups):
        head_of[group] = number
    prompts = np.array([min(group, key=padding.__getitem__) for group in groups])
    return Beginnings(column=column, prompts=prompts, head_of=head_of, shift=padding - padding[prompts[head_of]])


def num_equal_first(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
