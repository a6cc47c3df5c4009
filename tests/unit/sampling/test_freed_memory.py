"""Freed memory is kept for the next tensor: otherwise the kernel clears it anew, page by page."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of a hundred times eight tensors of four megabytes, all freed each time, when the first have been made.
COUNT = """
import resource, torch
from evalgen.sampling.freed_memory import keep_freed_memory
if {keeps}:
    keep_freed_memory()
torch.set_num_threads(1)
for number in range(110):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**20) for _ in range(8)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keeps: bool) -> int:
    program = [sys.executable, "-c", COUNT.format(keeps=keeps)]
    gives_back = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # always, and not only where the heap happens to end with them
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=os.environ | gives_back)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_tensors_are_made_of_memory_that_others_freed() -> None:
    assert page_faults(keeps=True) < 100 < page_faults(keeps=False)


HELD = """
import psutil, torch
from evalgen.sampling.freed_memory import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
tensors = [torch.ones(2**22) for _ in range(20)]
above = torch.ones(2**18)
del tensors
process = psutil.Process()
held = process.memory_info().rss
give_back_freed_memory()
print(held - process.memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_is_kept_below_a_tensor_in_use_is_given_back_when_asked_for() -> None:
    """All of it counts as used until then, and budgets would shrink from unit to unit."""
    given_back = int(subprocess.run([sys.executable, "-c", HELD], check=True, capture_output=True, text=True).stdout)
    assert given_back > 15 * 16 * 2**20
