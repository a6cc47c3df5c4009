"""Keeps the memory that tensors on a CPU free, for the next ones.

glibc gives large blocks back to the kernel at once, which has to clear them page by page when they are wanted again: a
tenth of the time of a level of the tree, and of an element-wise operation on a few megabytes nine tenths.
"""

from __future__ import annotations

import ctypes

# mallopt(3), malloc.h. Larger blocks come from the kernel and go back to it, as all did before.
M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES = -1, 256 * 2**20
M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES = -3, 32 * 2**20


def keep_freed_memory() -> None:
    """Has this process keep up to `TRIM_THRESHOLD_BYTES` of it. Nothing happens where the C library is not glibc."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
