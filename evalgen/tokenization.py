"""Text to ids and back: prompts, drawn completions, and completions that trimming cut.

A stored completion keeps the ids that were drawn. Only where trimming cuts inside a token is its text encoded again.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evalgen.errors import InputError
from evalgen.model_source import ModelSource
from evalgen.records import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100  # what torch's cross-entropy leaves out
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")  # sentencepiece's, for the bytes of a character that has no token


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in the directory `path`, or of a hub id and commit as a checkpoint has it.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer  # here: it takes seconds, and most that use this module load none

    source = ModelSource.of(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.name, revision=source.revision, trust_remote_code=False
        )
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


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that decides how text becomes ids and ids text, wherever the tokenizer was loaded from."""
    content: list[object] = [sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())]
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # How the last call padded and cut, and nothing of ours.
        content.append({name: part for name, part in backend.items() if name not in ("padding", "truncation")})
    else:
        content += [type(tokenizer).__name__, tokenizer.get_vocab(), _vocabulary_files(tokenizer)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """BOS, if the tokenizer has one, and the prompt's ids; nothing that the tokenizer would add by itself."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return bos + list(tokenizer.encode(prompt, add_special_tokens=False))


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of `token_ids` where they follow other text: special tokens skipped, spaces as they are.

    Sentencepiece-style tokenizers drop the space that a text begins with when they decode it alone. A completion is no
    text of its own: its first space was drawn, and prompt + completion lacks it without.
    """
    lead_in, start = _lead_in(tokenizer)
    return _decode_alone(tokenizer, [*lead_in, *token_ids])[start:]


def before_stop(text: str, stop_strings: Sequence[str]) -> str | None:
    """`text` up to the first of `stop_strings` in it; None: it has none."""
    starts = [start for start in map(text.find, stop_strings) if start >= 0]
    return text[: min(starts)] if starts else None


def cut_drawn_ids(tokenizer: PreTrainedTokenizerBase, drawn_ids: Sequence[int], text: str) -> tuple[int, ...] | None:
    """The shortest prefix of `drawn_ids` that decodes to `text`; None when the cut falls inside a token."""
    for length in _lengths_about(tokenizer, drawn_ids, len(text)):
        if decode(tokenizer, drawn_ids[:length]) == text:
            return tuple(drawn_ids[:length])
    return None


def covering_ids(tokenizer: PreTrainedTokenizerBase, drawn_ids: Sequence[int], text: str) -> tuple[int, ...]:
    """The shortest prefix of `drawn_ids` whose text begins with `text`, as that of all of them does."""
    for length in _lengths_about(tokenizer, drawn_ids, len(text)):
        if decode(tokenizer, drawn_ids[:length]).startswith(text):
            return tuple(drawn_ids[:length])
    return tuple(drawn_ids)


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], prompt: str, completion: str
) -> tuple[int, ...] | None:
    """Ids of `completion` when encoded together with its prompt; None when a token spans the boundary."""
    joint = encode_prompt(tokenizer, prompt + completion)
    completion_ids = tuple(joint[len(prompt_ids) :])
    if joint[: len(prompt_ids)] != list(prompt_ids) or decode(tokenizer, completion_ids) != completion:
        return None
    return completion_ids


def _lengths_about(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], num_characters: int) -> range:
    """Lengths of the prefixes of `token_ids` that can have so many characters, and of some before and after them.

    A text grows with its ids, but for bytes that have tokens of their own: a run of them, which special tokens do not
    end, is one replacement character for each byte until its last character is whole. So bisection is among the ends
    of such runs.
    """
    tokens = zip(token_ids, tokenizer.convert_ids_to_tokens(list(token_ids)), strict=True)
    added = tokenizer.added_tokens_decoder
    in_run = [token_id in added or BYTE_TOKEN.fullmatch(token) is not None for token_id, token in tokens]
    inside = {n for n, (before, after) in enumerate(pairwise(in_run), start=1) if before and after}
    ends = [n for n in range(len(token_ids) + 1) if n not in inside]

    def num_characters_of(length: int) -> int:
        return len(decode(tokenizer, token_ids[:length]))

    first = bisect_left(ends, num_characters, key=num_characters_of)
    last = bisect_right(ends, num_characters, key=num_characters_of)
    return range(ends[max(first - 1, 0)], ends[min(last, len(ends) - 1)] + 1)


@lru_cache(maxsize=8)
def _lead_in(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], int]:
    """Ids of a letter that the tokenizer has, if any, and how many characters they decode to."""
    for letter in ascii_lowercase:
        ids = tokenizer.encode(letter, add_special_tokens=False)
        text = _decode_alone(tokenizer, ids)
        if text.endswith(letter):
            return tuple(ids), len(text)
    return (), 0


def _decode_alone(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _vocabulary_files(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Digests of the files that hold the vocabulary of a tokenizer without the `tokenizers` library."""
    with TemporaryDirectory() as directory:
        files = [Path(file) for file in tokenizer.save_vocabulary(directory) if file is not None]
        return [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in sorted(files)]
