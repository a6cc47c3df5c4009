"""Freed memory is kept for the next tensor: otherwise the kernel clears it anew, page by page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Page faults of a hundred tensors of four megabytes, one after the other, when the first are there.
COUNT = """
import resource, torch
from evalgen.sampling.freed_memory import keep_freed_memory
if {keeps}:
    keep_freed_memory()
torch.set_num_threads(1)
blocker = torch.ones(2**18)
for number in range(110):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first = torch.ones(2**20)
    second = first + 1
    del first, second
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keeps: bool) -> int:
    program = [sys.executable, "-c", COUNT.format(keeps=keeps)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_tensors_are_made_of_memory_that_others_freed() -> None:
    assert page_faults(keeps=True) < 100 < page_faults(keeps=False)
