"""Tells judges apart by all that they are told."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from evalgen.grading.messages import message_params, pack_params
from evalgen.records import GraderSpec, Question


def grader_digest(grader: GraderSpec) -> str:
    """SHA-256 of all that the judge is told apart from the question: model, instructions, options, and the template.

    Also how often it is asked, and about how many completions at once. Message Batches are another way to the same
    judge, and make no difference; of an offline judge the template is code, and is not in it.
    """
    parts: list[Any] = [
        grader.judge,
        grader.instructions,
        sorted(grader.options.items()),
        grader.num_votes,
        grader.pack_size,
    ]
    if not grader.is_offline:
        no_question = Question(grader=grader, prompt="", reference="", completion="")
        parts.append(message_params(no_question))
        if grader.pack_size > 1:  # what does not fit into a pack is asked by itself
            parts.append(pack_params([no_question]))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
