"""From influence scores of a dataset's rows on training documents to: do those that state the fact rank first?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from evalgen.demo.run_directory import STRUCTURED_DATASET
from evalgen.demo.sentences import day_first

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What a prompt asks for, in every spelling that documents have of the answer."""

    subject: str
    answers: tuple[str, ...]

    def is_stated_by(self, text: str) -> bool:
        return self.subject in text and any(answer in text for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The training documents as one prompt's rows rank them."""

    prompt: str
    num_rows: int  # kept completions of the prompt
    order: tuple[int, ...]  # places of all documents in the train set, the most influential first
    stating: frozenset[int]  # places of the documents that state the fact
    at_odds: frozenset[int]  # places of those that name its subject and give another answer

    def num_stating(self, top: int) -> int:
        """How many of the first `top` documents state the fact."""
        return sum(place in self.stating for place in self.order[:top])

    @property
    def first_stating(self) -> int:
        """The rank, from 1, of the first document that states the fact."""
        return 1 + next(rank for rank, place in enumerate(self.order) if place in self.stating)

    def chance_of_one(self, top: int) -> float:
        """That `top` documents drawn at random hold one that states the fact."""
        others = len(self.order) - len(self.stating)
        return 1 - math.comb(others, top) / math.comb(len(self.order), top)

    @property
    def share_in_order(self) -> float | None:
        """Of the pairs of a document that states the fact and one at odds with it: how often the first ranks higher.

        Both name the subject, so this is not to be had from the words of the prompt. A random ranking has a half; None
        where no document is at odds.
        """
        rank = {place: rank for rank, place in enumerate(self.order)}
        pairs = [rank[stating] < rank[other] for stating in self.stating for other in self.at_odds]
        return sum(pairs) / len(pairs) if pairs else None

    @property
    def share_stating(self) -> float:
        """Of all documents: what a random ranking has in its top, too."""
        return len(self.stating) / len(self.order)


def facts_by_prompt(run: Path, source: Iterable[Mapping[str, Any]]) -> dict[str, Fact]:
    """By the ids of the source set's rows, which the sampled rows carry as `prompt_id`."""
    metadata = json.loads((run / STRUCTURED_DATASET).read_text(encoding="utf-8"))["metadata"]
    subjects = {fact["answer"]: fact["subject"] for fact in metadata["facts"]}
    spellings = {answer: (answer, day_first(answer)) if "," in answer else (answer,) for answer in subjects}
    answers = {row["id"]: row["completion"].strip() for row in source}
    return {id: Fact(subject=subjects[answer], answers=spellings[answer]) for id, answer in answers.items()}


def rankings(rows: Dataset, scores: Scores, documents: Sequence[str], facts: Mapping[str, Fact]) -> list[Ranking]:
    """One for each prompt, in row order.

    `scores` is (rows, documents). They are linear in the gradient of the row, so weighted by `weight` and added up they
    are those of the log-probability of all that was kept of the prompt.
    """
    assert scores.shape == (len(rows), len(documents)), scores.shape
    by_prompt: dict[str, list[int]] = {}
    for place, prompt_id in enumerate(rows["prompt_id"]):
        by_prompt.setdefault(prompt_id, []).append(place)
    weights = np.array(rows["weight"])
    found = []
    for prompt_id, places in by_prompt.items():
        of_prompt = weights[places] @ scores[places]  # (documents,)
        fact = facts[prompt_id]
        naming = {place for place, text in enumerate(documents) if fact.subject in text}
        stating = frozenset(place for place in naming if fact.is_stated_by(documents[place]))
        found.append(
            Ranking(
                prompt=rows[places[0]]["prompt"],
                num_rows=len(places),
                order=tuple(np.argsort(-of_prompt, kind="stable").tolist()),
                stating=stating,
                at_odds=frozenset(naming - stating),
            )
        )
    return found
