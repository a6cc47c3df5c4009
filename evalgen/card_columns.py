"""What each column of a dataset is, in words for its card; names, order and types are those of `FEATURES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import List

from evalgen.eval_dataset import FEATURES

MEANINGS = {
    "id": "`{prompt_id}_gen_{generation_idx}`; unique",
    "prompt_id": "id of the prompt, as its source has it",
    "prompt": "what the model was given",
    "completion": "what it went on with, cut where the judge cut it; begins with its space, if it has one",
    "generation_idx": "the (first) draw that gave it; if enumerated, its place by falling probability",
    "metadata": "where the prompt is from",
    "input_ids": "BOS (if the tokenizer has one), prompt, completion; no EOS, no padding",
    "labels": "the same, with -100 before the completion",
    "attention_mask": "1 everywhere",
    "reference_completion": "what the judge compared the completion with",
    "raw_completion": "the completion as decoded, before it was cut",
    "sample_count": "draws that gave it, of all that were merged into the row; null if enumerated",
    "num_samples": "draws of the prompt; null if enumerated",
    "logprob": "log-probability in nats of the labelled ids at T=1; null where they were not drawn",
    "logprob_sampling": "the same under the sampling law",
    "num_completion_tokens": "labelled ids",
    "weight": (
        "exp(`logprob`) over the sum of that over the prompt's distinct completions, whose rows share it evenly; sums "
        "to 1 over its rows. Where `logprob` is null, the probability of the drawn tokens that cover the text counts"
    ),
    "is_prefix_of": "id of a row of the prompt that begins with this one, and whose probability is part of its own",
    "token_ids": "ids as they were drawn, with EOS or stop string, not cut",
    "token_logprobs": "log-probability of each of `token_ids` in nats, at T=1",
    "tokens_as_drawn": "whether `input_ids` has the drawn ids; if not, the text was encoded again",
    "finish_reason": "how the draw ended: `eos`, `length` or `stop`",
    "grader_model": "the judge",
    "grader_reasoning": "why it called the completion equivalent",
    "run": "fine-tuning run",
    "checkpoint": "checkpoint of that run",
    "weights_digest": "SHA-256 over the checkpoint's weight files; empty if unknown",
    "tokenizer_digest": "SHA-256 of the tokenizer",
    "grader_digest": "SHA-256 of all that the judge is told but the question",
    "metadata_json": "whatever else the source says of the prompt, as JSON",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a dataset."""

    name: str
    type: str
    meaning: str


def columns() -> list[Column]:
    return [Column(name=name, type=_type(feature), meaning=MEANINGS[name]) for name, feature in FEATURES.items()]


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        fields = ", ".join(f"{name}: {_type(each)}" for name, each in feature.items())
        return f"struct({fields})"
    return f"list({_type(feature.feature)})" if isinstance(feature, List) else str(feature.dtype)
