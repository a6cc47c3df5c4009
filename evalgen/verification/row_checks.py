"""What can be said of one row alone: its tokens, its text, the draw that it shows, and their log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

from evalgen.records import FinishReason
from evalgen.samples import text_ids
from evalgen.tokenization import IGNORED_LABEL, cut_drawn_ids, decode, encode_completion, encode_prompt
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import Row
from evalgen.verification.findings import Check, Findings

ROUNDING = 1e-6  # nats: of sums of float32 numbers, whatever the order
POSITIVE = 1e-3  # nats: above 0 by no more than a float32 softmax may round


def completion_ids(row: Row) -> list[int]:
    """The labelled ids."""
    return [label for label in row["labels"] if label != IGNORED_LABEL]


class RowChecks:
    """Checks rows one by one, those of the dataset and its rejects."""

    def __init__(self, evidence: Evidence, findings: Findings) -> None:
        self._findings = findings
        self._tokenizer = evidence.tokenizer
        self._eos_ids = evidence.eos_ids
        self._knows_eos = evidence.checkpoint is not None  # a tokenizer alone may know one of several
        self._prompt_ids = lru_cache(maxsize=8)(self._encode_prompt)
        self._no_tokenizer = evidence.no_tokenizer
        self._num_rows = self._num_as_drawn = 0

    def check(self, row: Row, what: str = "") -> bool:
        """Whether its token columns fit together. `what` stands before the row's id where a problem is told."""
        self._num_rows += 1
        self._num_as_drawn += row["tokens_as_drawn"]
        row_id = f"{what}{row['id']}"
        if row["id"] != f"{row['prompt_id']}_gen_{row['generation_idx']}":
            expected = f"{row['prompt_id']}_gen_{row['generation_idx']}"
            self._findings.fail(Check.IDS, f"expected {expected!r:.100}", row_id)
        num_draws = row["num_samples"]
        if row["generation_idx"] < 0 or (num_draws is not None and row["generation_idx"] >= num_draws):
            self._findings.fail(Check.IDS, f"generation_idx is {row['generation_idx']} of {num_draws} draws", row_id)
        self._check_draw(row, row_id)
        if row["input_ids"] is None:
            if row["tokens_as_drawn"]:
                self._findings.fail(Check.LABELS, "tokens as drawn, but none are stored", row_id)
            return False
        if not self._check_labels(row, row_id):
            return False
        self._check_tokens_of_draw(row, row_id)
        if self._tokenizer is not None:
            self._check_text(row, row_id)
        return True

    def done(self) -> None:
        """No row is left."""
        rows = f"{self._num_rows:,} rows, rejects among them"
        self._findings.held(Check.IDS, "unique, and {prompt_id}_gen_{generation_idx}, of a draw that there was")
        self._findings.held(Check.MASK, rows)
        self._findings.held(Check.LABELS, f"{rows}; {self._num_as_drawn:,} have the ids that were drawn")
        self._findings.held(Check.LOGPROBS, "those of the drawn ids add up to those of the rows")
        self._findings.held(Check.EOS, f"ids that end a draw: {sorted(self._eos_ids)}")
        if not self._eos_ids:
            self._findings.skip(Check.EOS, f"it is not known which ids end a draw; {self._no_tokenizer}")
        texts = {
            Check.PROMPT_TOKENS: "input_ids begin with BOS, if there is one, and the prompt",
            Check.COMPLETION: "what the labelled ids decode to",
            Check.TRIMMING: "completions are starts of what was drawn",
        }
        for check, note in texts.items():
            self._findings.held(check, note)
            if self._tokenizer is None:
                self._findings.skip(check, self._no_tokenizer)

    def _check_labels(self, row: Row, row_id: str) -> bool:
        """Whether it can be said which ids are the prompt's."""
        ids, labels, mask = row["input_ids"], row["labels"], row["attention_mask"]
        if mask != [1] * len(ids):
            self._findings.fail(Check.MASK, f"not all ones, or not {len(ids)} of them", row_id)
        num_labelled = len(completion_ids(row))
        num_hidden = len(ids) - num_labelled
        if labels != [IGNORED_LABEL] * num_hidden + ids[num_hidden:]:
            self._findings.fail(Check.LABELS, "not -100 before the completion and its ids from there on", row_id)
            return False
        if row["num_completion_tokens"] != num_labelled:
            problem = f"num_completion_tokens is {row['num_completion_tokens']}, and {num_labelled} are labelled"
            self._findings.fail(Check.LABELS, problem, row_id)
            return False
        if row["tokens_as_drawn"] and row["token_ids"][:num_labelled] != ids[num_hidden:]:
            self._findings.fail(Check.LABELS, "not the ids that were drawn, though it says so", row_id)
        return True

    def _check_tokens_of_draw(self, row: Row, row_id: str) -> None:
        labelled = completion_ids(row)
        if ending := self._eos_ids.intersection(labelled):
            self._findings.fail(Check.EOS, f"labelled ids have {sorted(ending)}, which end a draw", row_id)
        logprob = row["logprob"]
        if row["tokens_as_drawn"] != (logprob is not None) or row["tokens_as_drawn"] != (
            row["logprob_sampling"] is not None
        ):
            self._findings.fail(Check.LOGPROBS, "known and not as drawn, or the other way round", row_id)
        elif logprob is not None:
            total = sum(row["token_logprobs"][: len(labelled)])
            if not abs(total - logprob) <= ROUNDING * max(1, len(labelled)):
                self._findings.fail(Check.LOGPROBS, f"logprob is {logprob}, its tokens' sum {total}", row_id)

    def _check_draw(self, row: Row, row_id: str) -> None:
        token_ids, logprobs = row["token_ids"], row["token_logprobs"]
        if len(token_ids) != len(logprobs):
            self._findings.fail(Check.LOGPROBS, f"{len(logprobs)} for {len(token_ids)} ids", row_id)
        numbers = [*logprobs, *(row[name] for name in ("logprob", "logprob_sampling") if row[name] is not None)]
        if not all(math.isfinite(number) and number <= POSITIVE for number in numbers):
            self._findings.fail(Check.LOGPROBS, "one is no logarithm of a probability", row_id)
        if not row["raw_completion"].startswith(row["completion"]):
            problem = f"{row['completion']!r:.60} is no start of {row['raw_completion']!r:.60}"
            self._findings.fail(Check.TRIMMING, problem, row_id)
        if row["finish_reason"] not in get_args(FinishReason):
            self._findings.fail(Check.EOS, f"finish_reason is {row['finish_reason']!r:.40}", row_id)
        elif self._knows_eos and self._eos_ids:
            ends = bool(token_ids) and token_ids[-1] in self._eos_ids
            if ends != (row["finish_reason"] == "eos"):
                problem = f"finish_reason is {row['finish_reason']}, and the last id drawn is {token_ids[-1:]}"
                self._findings.fail(Check.EOS, problem, row_id)
        if self._tokenizer is not None:
            self._check_raw_text(row, row_id)

    def _check_raw_text(self, row: Row, row_id: str) -> None:
        text = self._decoded(text_ids(tuple(row["token_ids"]), row["finish_reason"]))
        raw = row["raw_completion"]
        is_whole = text == raw if row["finish_reason"] != "stop" else len(text) > len(raw) and text.startswith(raw)
        if not is_whole:
            self._findings.fail(Check.TRIMMING, f"raw_completion is not what was drawn, {text!r:.60}", row_id)

    def _check_text(self, row: Row, row_id: str) -> None:
        """By the tokenizer, which there is."""
        labelled = completion_ids(row)
        prompt_ids = row["input_ids"][: len(row["input_ids"]) - len(labelled)]
        has_prompt = prompt_ids == self._prompt_ids(row["prompt"])
        if not has_prompt:
            self._findings.fail(Check.PROMPT_TOKENS, "input_ids do not begin with those of the prompt", row_id)
        if (text := self._decoded(labelled)) != row["completion"]:
            problem = f"labelled ids say {text!r:.60}, and completion {row['completion']!r:.60}"
            self._findings.fail(Check.COMPLETION, problem, row_id)
        elif has_prompt and not row["tokens_as_drawn"]:
            self._check_encoded_again(row, prompt_ids, row_id)

    def _check_encoded_again(self, row: Row, prompt_ids: list[int], row_id: str) -> None:
        assert self._tokenizer is not None
        drawn = text_ids(tuple(row["token_ids"]), row["finish_reason"])
        if cut_drawn_ids(self._tokenizer, drawn, row["completion"]) is not None:
            self._findings.fail(Check.COMPLETION, "encoded again, though the drawn ids have this text", row_id)
        encoded = encode_completion(self._tokenizer, prompt_ids, row["prompt"], row["completion"])
        if encoded != tuple(completion_ids(row)):
            self._findings.fail(Check.COMPLETION, "neither drawn nor what the text is encoded as", row_id)

    def _encode_prompt(self, prompt: str) -> list[int]:
        assert self._tokenizer is not None
        return encode_prompt(self._tokenizer, prompt)

    def _decoded(self, ids: Sequence[int]) -> str:
        """ "\\0 no text" for ids that the tokenizer cannot have."""
        assert self._tokenizer is not None
        try:
            return decode(self._tokenizer, ids)
        except (OverflowError, TypeError, IndexError, ValueError):
            return "\0 no text"
