"""Keeps the memory that tensors on a CPU free, for the next ones.

glibc soon gives large blocks back to the kernel, which has to clear them page by page when they are wanted again: a
tenth of the time of a level of the tree, and of an element-wise operation on a few megabytes nine tenths.
"""

from __future__ import annotations

import ctypes

# mallopt(3), malloc.h. Larger blocks come from the kernel and go back to it.
M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES = -3, 32 * 2**20
M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES = -1, 256 * 2**20  # at the end of the heap; below a block in use all stays


def keep_freed_memory() -> None:
    """Has this process keep the memory of smaller blocks. Nothing happens where the C library is not glibc."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def give_back_freed_memory() -> None:
    """Gives the kernel all that was kept, malloc_trim(3): before one looks at how much is free, or when it is none."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
