"""One random number for every (seed, prompt, draw, depth): a pure function, so that draws depend on nothing else.

Philox is a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): any number
of its stream can be computed on its own. The key is a digest of (seed, prompt id), the counter is (draw, depth).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUMBERS_PER_COUNTER = 4  # a Philox4x64 block


def uniforms(seed: int, prompt_ids: Sequence[str], depth: int, first_draw: int, num_draws: int) -> NDArray[np.float64]:
    """`u(seed, prompt_id, g, depth)` in [0, 1) for the `num_draws` draws g from `first_draw` on: (prompts, draws)."""
    first_block, offset = divmod(first_draw, NUMBERS_PER_COUNTER)
    raw = np.empty((len(prompt_ids), num_draws), np.uint64)
    generator = np.random.Philox(key=0)  # to make one takes longer than to draw a thousand numbers
    state = generator.state
    state["state"]["counter"][:] = first_block, depth, 0, 0
    for row, prompt_id in zip(raw, prompt_ids, strict=True):
        digest = hashlib.sha256(f"{seed}\0{prompt_id}".encode()).digest()
        state["state"]["key"][:] = np.frombuffer(digest[:16], dtype="<u8")
        generator.state = state
        row[:] = generator.random_raw(offset + num_draws)[offset:]
    # The top 53 bits, the usual way to a double. From the raw stream, which numpy promises never to change.
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
