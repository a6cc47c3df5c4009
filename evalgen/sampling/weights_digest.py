"""A digest of the weights that a checkpoint was loaded from: two that are equal give the same draws.

It is what `sha256sum *.safetensors | sha256sum` prints in the checkpoint's directory. Threads work it out while the
first unit is sampled: hashing leaves the interpreter to others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from evalgen.files import sha256_of
from evalgen.model_source import ModelSource

FILES_AT_ONCE = 4  # a core each, and about 2 GB/s


class WeightsDigest:
    """Begins at once to read the files; their order makes no difference, and neither does where they lie."""

    def __init__(self, files: Sequence[Path]) -> None:
        threads = ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="weights-digest")
        self._digests = {file.name: threads.submit(sha256_of, file) for file in files}
        threads.shutdown(wait=False)  # what was submitted is done all the same

    def result(self) -> str:
        """SHA-256 in hexadecimal, waited for; "" of no files.

        Raises:
            OSError: a file cannot be read.
        """
        lines = [f"{self._digests[name].result()}  {name}\n" for name in sorted(self._digests)]
        return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def weight_files(path: str) -> list[Path]:
    """The safetensors files of the checkpoint with that `path` that transformers reads; after it did so."""
    if whole := _file(path, SAFE_WEIGHTS_NAME):
        return [whole]
    if index := _file(path, SAFE_WEIGHTS_INDEX_NAME):
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [index.with_name(shard) for shard in set(shards)]
    return list(Path(path).glob("*.safetensors"))  # under names that the config may give, as transformers allows


def _file(path: str, name: str) -> Path | None:
    """A file of a checkpoint, from the hub's cache where `path` is a hub id; None: there is none of that name."""
    source = ModelSource.of(path)
    with contextlib.suppress(OSError):
        found = cached_file(source.name, name, revision=source.revision, local_files_only=True)
        return Path(found) if found else None
    return None
