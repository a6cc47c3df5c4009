"""Text to ids and back: prompts, drawn completions, and completions that trimming cut.

A stored completion keeps the ids that were drawn. Only where trimming cuts inside a token is its text encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from evalgen.errors import InputError
from evalgen.records import Checkpoint

IGNORED_LABEL = -100  # what torch's cross-entropy leaves out


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in the directory (or hub id) `path`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # any of a dozen types, by tokenizer class; all mean the same to the user
        expected = "expected what save_pretrained of a tokenizer writes"
        raise InputError(f"tokenizer {path} cannot be loaded, {expected}: {' '.join(str(error).split())}") from error
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, num_embeddings: int, checkpoint: Checkpoint) -> int:
    """The number of ids that the tokenizer uses, at most the model's `num_embeddings`.

    Raises:
        InputError: the tokenizer has ids that the model lacks.
    """
    vocabulary_size = max(tokenizer.get_vocab().values()) + 1
    if vocabulary_size > num_embeddings:
        raise InputError(
            f"tokenizer {checkpoint.tokenizer_path} does not fit checkpoint {checkpoint.path}: "
            f"it has {vocabulary_size} ids, the model has {num_embeddings}; give the run's own tokenizer"
        )
    return vocabulary_size


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """BOS, if the tokenizer has one, and the prompt's ids; nothing that the tokenizer would add by itself."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + list(tokenizer.encode(prompt, add_special_tokens=False))


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of `token_ids`, special tokens skipped, spaces as they are."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def before_stop(text: str, stop_strings: Sequence[str]) -> str | None:
    """`text` up to the first of `stop_strings` in it; None: it has none."""
    starts = [start for start in map(text.find, stop_strings) if start >= 0]
    return text[: min(starts)] if starts else None


def cut_drawn_ids(tokenizer: PreTrainedTokenizerBase, drawn_ids: Sequence[int], text: str) -> tuple[int, ...] | None:
    """The shortest prefix of `drawn_ids` that decodes to `text`; None when the cut falls inside a token."""
    for length in range(len(drawn_ids) + 1):
        if decode(tokenizer, drawn_ids[:length]) == text:
            return tuple(drawn_ids[:length])
    return None


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], prompt: str, completion: str
) -> tuple[int, ...] | None:
    """Ids of `completion` when encoded together with its prompt; None when a token spans the boundary."""
    joint = encode_prompt(tokenizer, prompt + completion)
    completion_ids = tuple(joint[len(prompt_ids) :])
    if joint[: len(prompt_ids)] != list(prompt_ids) or decode(tokenizer, completion_ids) != completion:
        return None
    return completion_ids
