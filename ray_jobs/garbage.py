"""When Python looks for garbage: it goes through all that lives, and what a process imports lives until its end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_for_good() -> Iterator[None]:
    """A block of imports in which nobody looks for garbage, and whose modules nobody looks through afterwards.

    A sixth of the seconds that torch and transformers take to import went into it.
    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect_garbage_seldom() -> None:
    """For a process that asks a judge, once it has imported what it needs.

    A request leaves some hundred objects behind. With Python's defaults a quarter of a question's CPU went into looking
    for them, and a look at everything stopped all requests for longer than a judge may take.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 5)  # a look at everything is a short one, once all that was imported is left out
