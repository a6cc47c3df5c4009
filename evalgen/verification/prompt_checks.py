"""What can be said of the rows of one prompt together: their order, what each weighs, and which contains which."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from evalgen.samples import text_ids
from evalgen.tokenization import covering_ids
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import Row
from evalgen.verification.findings import Check, Findings
from evalgen.verification.row_checks import completion_ids

SUM = 1e-9  # by which weights of a prompt may add up to something other than 1
SHARE = 1e-6  # by which one weight may be off, relatively


class PromptChecks:
    """Checks prompt after prompt, and adds up what the whole dataset has of each."""

    def __init__(self, evidence: Evidence, prompts: Mapping[str, Mapping[str, Any]] | None, findings: Findings) -> None:
        """`prompts` are the rows of prompts.parquet by prompt id, in order; None: there is no such file."""
        self._evidence = evidence
        self._prompts = prompts
        self._places = {prompt_id: place for place, prompt_id in enumerate(prompts or ())}
        self._findings = findings
        origin = evidence.origin
        self._is_exclusive = origin is not None and not evidence.outdated and origin.settings.exclusive
        self._last_place = -1
        self._num_unweighed = 0  # rows whose weight only a tokenizer could tell
        self._num_unnested = 0  # prompts of which only a tokenizer could tell what contains what
        self.num_rows = self.num_reencoded = 0
        self.draws: Counter[str] = Counter()  # by prompt id
        self.variations: dict[str, int] = {}  # distinct completions by prompt id; in it are prompts with rows

    def check(self, rows: Sequence[Row]) -> None:
        """All rows of a prompt, as they stand in the dataset."""
        prompt_id = rows[0]["prompt_id"]
        if prompt_id in self.variations:
            self._findings.fail(Check.ORDER, "rows of its prompt stand in two places", rows[0]["id"])
        self._check_order(prompt_id, rows)
        self._check_prompt(prompt_id, rows)
        self._check_weights(rows)
        self._check_prefixes(rows)
        self.num_rows += len(rows)
        self.num_reencoded += sum(not row["tokens_as_drawn"] for row in rows)
        self.draws[prompt_id] += sum(row["sample_count"] or 0 for row in rows)
        self.variations[prompt_id] = len({row["completion"] for row in rows})

    def done(self) -> None:
        """No prompt is left."""
        self._findings.held(Check.ORDER, "prompts as in prompts.parquet, then by generation_idx")
        self._findings.held(Check.PROMPTS, f"{len(self.variations):,} with rows, of {len(self._places):,}")
        unknown = f"; {self._num_unweighed:,} encoded again were not, without tokenizer" if self._num_unweighed else ""
        self._findings.held(Check.WEIGHTS, f"add up to 1, and were computed again from log-probs{unknown}")
        unknown = f"; of {self._num_unnested:,} prompts it was not, without tokenizer" if self._num_unnested else ""
        self._findings.held(Check.PREFIXES, f"is_prefix_of computed again{unknown}")

    def _check_order(self, prompt_id: str, rows: Sequence[Row]) -> None:
        place = self._places.get(prompt_id, self._last_place)
        if place < self._last_place:
            self._findings.fail(Check.ORDER, "its prompt stands earlier in prompts.parquet", rows[0]["id"])
        self._last_place = place
        for before, row in pairwise(rows):
            if row["generation_idx"] <= before["generation_idx"]:
                problem = f"generation_idx {row['generation_idx']} after {before['generation_idx']}"
                self._findings.fail(Check.ORDER, problem, row["id"])

    def _check_prompt(self, prompt_id: str, rows: Sequence[Row]) -> None:
        if self._prompts is None:
            return
        prompt = self._prompts.get(prompt_id)
        for row in rows:
            if prompt is None:
                self._findings.fail(Check.PROMPTS, "prompts.parquet has no such prompt_id", row["id"])
                continue
            for name in ("prompt", "reference_completion"):
                if row[name] != prompt[name]:
                    self._findings.fail(Check.PROMPTS, f"{name} is not that of prompts.parquet", row["id"])
            is_drawn = prompt["num_draws"] is not None
            if row["num_samples"] != prompt["num_draws"]:
                problem = f"num_samples is {row['num_samples']}, the prompt's draws {prompt['num_draws']}"
                self._findings.fail(Check.DRAWS, problem, row["id"])
            if (row["sample_count"] is not None) != is_drawn or (is_drawn and row["sample_count"] < 1):
                self._findings.fail(Check.DRAWS, f"sample_count is {row['sample_count']}", row["id"])

    def _check_weights(self, rows: Sequence[Row]) -> None:
        total = sum(row["weight"] for row in rows)
        if not abs(total - 1) <= SUM:
            self._findings.fail(Check.WEIGHTS, f"those of its prompt add up to {total}", rows[0]["id"])
        by_text: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_text[row["completion"]].append(row)
        masses = {text: self._log_mass(of_text) for text, of_text in by_text.items()}
        known = {text: mass for text, mass in masses.items() if mass is not None}
        self._num_unweighed += sum(len(by_text[text]) for text in masses.keys() - known.keys())
        if not known:
            return
        # Of those that are known alone: their share of one another is what it is, whatever the others weigh.
        largest = max(known.values())
        norm = sum(math.exp(mass - largest) for mass in known.values())
        whole = sum(row["weight"] for text in known for row in by_text[text])
        for text, mass in known.items():
            expected = math.exp(mass - largest) / norm * whole / len(by_text[text])
            for row in by_text[text]:
                if not math.isclose(row["weight"], expected, rel_tol=SHARE, abs_tol=1e-300):
                    self._findings.fail(Check.WEIGHTS, f"weight is {row['weight']}, expected {expected}", row["id"])

    def _log_mass(self, rows: Sequence[Row]) -> float | None:
        """Of a completion, which is one row or, without deduplication, a row for each draw; None: cannot be told.

        That of the ids most often drawn for it; where none of them end with the text, of the shortest start of the
        drawn ids that covers it.
        """
        as_drawn = [row for row in rows if row["logprob"] is not None]
        if as_drawn:
            counts = Counter(tuple(completion_ids(row)) for row in as_drawn)
            # max takes the first of equally frequent ones: rows stand by generation index.
            logprob: float = max(as_drawn, key=lambda row: counts[tuple(completion_ids(row))])["logprob"]
            return logprob
        tokenizer = self._evidence.tokenizer
        if tokenizer is None:
            return None
        counts = Counter(tuple(row["token_ids"]) for row in rows)
        # As above: of equally frequent ones the one with the smallest generation index.
        row = max(rows, key=lambda row: counts[tuple(row["token_ids"])])
        drawn = text_ids(tuple(row["token_ids"]), row["finish_reason"])
        return float(sum(row["token_logprobs"][: len(covering_ids(tokenizer, drawn, row["completion"]))]))

    def _mass_ids(self, row: Row) -> tuple[int, ...] | None:
        """The ids whose probability the row weighs; None: only a tokenizer could tell."""
        if row["tokens_as_drawn"]:
            return tuple(completion_ids(row))
        if self._evidence.tokenizer is None:
            return None
        drawn = text_ids(tuple(row["token_ids"]), row["finish_reason"])
        return covering_ids(self._evidence.tokenizer, drawn, row["completion"])

    def _check_prefixes(self, rows: Sequence[Row]) -> None:
        """A row names the first one whose probability is in its own: whose ids go on, or with equal ids the text."""
        if self._is_exclusive and any(row["is_prefix_of"] for row in rows):
            self._findings.fail(Check.PREFIXES, "contained in another row, in a set without such", rows[0]["id"])
        ids = [known for known in map(self._mass_ids, rows) if known is not None]
        if len(ids) < len(rows):
            self._num_unnested += 1
            return
        wanted, lengths = set(ids), sorted({len(of_row) for of_row in ids})
        first: dict[tuple[int, ...], int] = {}  # the place of the first row that begins with some row's, and goes on
        texts: dict[tuple[int, ...], dict[str, int]] = defaultdict(dict)  # with some ids, and the first place of each
        for place, (row, of_row) in enumerate(zip(rows, ids, strict=True)):
            texts[of_row].setdefault(row["completion"], place)
            for length in lengths[: bisect_left(lengths, len(of_row))]:
                if (start := of_row[:length]) in wanted:
                    first.setdefault(start, place)
        for row, of_row in zip(rows, ids, strict=True):
            text = row["completion"]
            places = [place for other, place in texts[of_row].items() if other != text and other.startswith(text)]
            places += [first[of_row]] if of_row in first else []
            expected = rows[min(places)]["id"] if places else None
            if row["is_prefix_of"] != expected:
                problem = f"is_prefix_of is {row['is_prefix_of']!r:.60}, expected {expected!r:.60}"
                self._findings.fail(Check.PREFIXES, problem, row["id"])
