"""How actors say what is wrong: in one line, and through the store, so that it reaches the job's log."""

from __future__ import annotations

import logging
from typing import Any

import ray

from evalgen.errors import EvalgenError
from evalgen.job_log import EventHandler, log_in_process


def forward_warnings(store: Any, kind: str) -> None:
    """What this actor warns of reaches the job's log through the store. Nobody waits for it to arrive."""
    name = ray.get_runtime_context().get_actor_name() or kind  # the first where this Ray can name a pool's actors
    log_in_process(EventHandler(name, store.note_event.remote, logging.WARNING))


def in_one_line(error: BaseException) -> str:
    """Our own errors are written for people; others need their type to make sense. Of Ray's, what caused them."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return in_one_line(cause)
    message = " ".join(str(error).split())
    return message if isinstance(error, EvalgenError) else f"{type(error).__name__}: {message}"
