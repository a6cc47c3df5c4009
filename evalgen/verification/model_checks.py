"""Log-probabilities computed again, by the checkpoint and nothing of the samplers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from evalgen.errors import InputError
from evalgen.eval_functions import score_rows
from evalgen.records import Checkpoint
from evalgen.verification.evidence import Evidence
from evalgen.verification.files import Row
from evalgen.verification.findings import Check, Findings
from evalgen.verification.row_checks import completion_ids

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
EXACT_NATS = 1e-4  # of a row, where both sides are fp32
# bf16 has 8 significant bits: a logit between 16 and 32 is rounded to a multiple of 1/8, by up to 1/16, and the layers
# below have rounded before. A log-probability is the difference of two such numbers.
ROUNDED_NATS = 0.125  # of a token, where one side is bf16
ROUNDED_NATS_OF_ROW = 0.25  # beside those of its tokens: of one token alone the layers may be off by more
BATCH_ROWS = 32
SORTED_ROWS = 512  # put in order of length before they are batched


class ModelCheck:
    """Compares `logprob` of rows with what the model says of their labelled ids."""

    def __init__(self, evidence: Evidence, dtype: str, findings: Findings, tolerance: float | None = None) -> None:
        """`tolerance` is in nats of a row; None: what rounding explains. What is allowed for bf16 is reasoned, and held
        of small models; of one with billions of weights it was not measured.

        Raises:
            InputError: the checkpoint cannot be loaded.
        """
        assert evidence.checkpoint is not None
        self._model = _load(evidence.checkpoint, dtype)
        self._num_embeddings = cast(Tensor, self._model.get_input_embeddings().weight).shape[0]
        sampled_in = evidence.origin.settings.dtype if evidence.origin else None
        self._is_exact = (sampled_in, dtype) == ("fp32", "fp32")
        self._tolerance = tolerance
        self._findings = findings
        self._how = f"{dtype} against samples in {sampled_in or 'a dtype that is not known, taken for bf16'}"
        self._num_rows = 0
        self._largest = 0.0
        self._largest_of_token = 0.0
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        if row["logprob"] is None:
            return
        if not all(0 <= token < self._num_embeddings for token in row["input_ids"]):
            self._findings.fail(Check.MODEL, "it has ids that the model lacks", row["id"])
            return
        self._waiting.append({name: row[name] for name in ("id", "input_ids", "labels", "logprob")})
        if len(self._waiting) >= SORTED_ROWS:
            self._score_waiting()

    def done(self) -> None:
        self._score_waiting()
        self._findings.held(
            Check.MODEL,
            f"{self._num_rows:,} rows, {self._how}: the largest difference is {self._largest:.1e} nats of a row and "
            f"{self._largest_of_token:.1e} for each of its tokens, allowed are {self._allowed_in_words()}",
        )

    def _score_waiting(self) -> None:
        rows = sorted(self._waiting, key=lambda row: len(row["input_ids"]))
        self._waiting = []
        for batch in _batches(rows):
            for row, scores in zip(batch, score_rows(self._model, batch), strict=True):
                self._compare(row, 0.0 if scores is None else scores.logprob)

    def _compare(self, row: Row, logprob: float) -> None:
        num_tokens = max(1, len(completion_ids(row)))
        difference = abs(row["logprob"] - logprob)
        self._num_rows += 1
        self._largest = max(self._largest, difference)
        self._largest_of_token = max(self._largest_of_token, difference / num_tokens)
        if not difference <= self._allowed(num_tokens):
            problem = f"logprob is {row['logprob']:.6f}, and the model says {logprob:.6f}"
            self._findings.fail(Check.MODEL, problem, row["id"])

    def _allowed(self, num_tokens: int) -> float:
        if self._tolerance is not None:
            return self._tolerance
        return EXACT_NATS if self._is_exact else ROUNDED_NATS_OF_ROW + ROUNDED_NATS * num_tokens

    def _allowed_in_words(self) -> str:
        if self._tolerance is None and not self._is_exact:
            return f"{ROUNDED_NATS_OF_ROW} a row and {ROUNDED_NATS} a token"
        return f"{self._allowed(1):.1e} a row"


def _load(checkpoint: Checkpoint, dtype: str) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.source.name,
            revision=checkpoint.source.revision,
            dtype=TORCH_DTYPES[dtype],
            device_map=device,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"checkpoint {checkpoint.path} cannot be loaded: {' '.join(str(error).split())}") from error
    model, report = loaded
    if wanting := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise InputError(f"checkpoint {checkpoint.path} lacks {len(wanting)} of the model's tensors: {wanting[0]}, ...")
    return model.eval()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch
