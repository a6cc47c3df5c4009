"""When the end of a completion may be cut off: only where the judge names an exact prefix of it."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def valid_trim(completion: str, proposed: str | None) -> str | None:
    """The prefix of `completion` to keep, or None to keep all of it.

    A judge often drops the one space that a completion starts with, so that space is put back. Any other
    proposal that is not a prefix would put words into the model's mouth: it is ignored, with a warning. A
    blank one carries no answer and is ignored too.
    """
    if proposed is None or not proposed.strip():
        return None
    for prefix in (proposed, f" {proposed}"):
        if completion.startswith(prefix):
            return prefix if prefix != completion else None
    logger.warning("trim ignored: %.80r is not a prefix of %.80r", proposed, completion)
    return None
