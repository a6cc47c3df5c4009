"""When a draw ends: at an end-of-sequence token, at a stop string in its text, or at its greatest length."""

from __future__ import annotations

import numpy as np

from evalgen.records import FinishReason, SamplingLaw
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import Leaves, Nodes
from evalgen.tokenization import before_stop, decode


class Stopping:
    """Tells nodes at which every draw ends from those that go on."""

    def __init__(self, loaded: LoadedModel, law: SamplingLaw) -> None:
        self._tokenizer = loaded.tokenizer
        self._law = law
        self._eos_ids = np.array(sorted(loaded.eos_ids), np.int64)

    def apart(self, nodes: Nodes) -> tuple[list[Leaves], Nodes]:
        """The leaves among `nodes`, and the others. A draw that ends in several ways ends in the first of these."""
        ended: list[Leaves] = []
        going_on = nodes
        for reason in ("eos", "stop", "length"):
            if len(going_on):
                ends = self._ends(going_on, reason)
                if ends.any():
                    ended.append(Leaves(nodes=going_on.select(ends), finish_reason=reason))
                    going_on = going_on.select(~ends)
        return ended, going_on

    def _ends(self, nodes: Nodes, reason: FinishReason) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        if reason == "eos":
            return np.isin(nodes.tokens, self._eos_ids)
        if reason == "length":
            return np.full(len(nodes), nodes.depth == self._law.max_new_tokens)
        if not self._law.stop_strings:
            return np.zeros(len(nodes), bool)
        texts = (decode(self._tokenizer, token_ids) for token_ids in nodes.paths("tokens"))
        return np.array([before_stop(text, self._law.stop_strings) is not None for text in texts])
