"""Where a model is read from: a directory, or the Hub at one commit, written `organisation/name@<commit>`.

Every process of a job, every later part of it, and whoever checks its datasets read the files of that commit, whatever
is pushed meanwhile.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PINNED = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


class ModelSource(NamedTuple):
    """What `from_pretrained` takes."""

    name: str  # directory or hub id
    commit: str | None  # of the hub id; None: a directory, or whatever the Hub has

    @classmethod
    def of(cls, path: str) -> ModelSource:
        """The source that a checkpoint's `path` or `tokenizer_path` names."""
        pinned = _PINNED.fullmatch(path)
        return cls(pinned[1], pinned[2]) if pinned else cls(path, None)

    @property
    def revision(self) -> str:
        """The commit, or the branch that the Hub's clients take by themselves; of no meaning for a directory."""
        return self.commit or "main"
