"""Tokenizers of every kind that checkpoints come with, trained on the corpus.

Each is what a model family has: how text is split, what stands for a space, what becomes of a character that is not in
the vocabulary, which special tokens are added on encoding, and what decoding strips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.unit.tokenizers.corpus import CORPUS

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(*, add_prefix_space: bool = False, adds: str = "$A") -> PreTrainedTokenizerFast:
    """As in OLMo-2, GPT-2 and Llama-3: no character is unknown, and a character may be cut into several tokens.

    `adds` is the template of what encoding adds.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        add_prefix_space=add_prefix_space,
    )


def llama(corpus: Iterable[str] = CORPUS) -> PreTrainedTokenizerBase:
    """As in Llama-2 and Mistral: `▁` before the text, which decoding strips, bytes for what is unknown, BOS added."""
    return LlamaTokenizer(**_sentencepiece_bpe(["<unk>", "<s>", "</s>"], "always", corpus), add_bos_token=True)


def llama_legacy() -> PreTrainedTokenizerFast:
    """The same as it was saved by earlier versions: `▁` is put before the text by a normalizer."""
    parts = _sentencepiece_bpe(["<unk>", "<s>", "</s>"], "always")
    tokenizer = Tokenizer(models.BPE(**parts, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def gemma() -> PreTrainedTokenizerBase:
    """As in Gemma: `▁` for a space and nothing before the text, bytes for what is unknown, BOS added."""
    return GemmaTokenizer(
        **_sentencepiece_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], "never"), add_bos_token=True
    )


def unigram() -> PreTrainedTokenizerFast:
    """As in XGLM: a unigram model, text put into NFKC, `▁` before the first word, no bytes, BOS and EOS added."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _sentencepiece_bpe(
    special_tokens: list[str], prepend_scheme: str, corpus: Iterable[str] = CORPUS
) -> dict[str, Any]:
    """Vocabulary and merges of words with `▁` for the space before them; single characters of the corpus' rarer scripts
    are left to the bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    trainer = trainers.BpeTrainer(vocab_size=330, limit_alphabet=110, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = [*special_tokens, *BYTES, *sorted(model["vocab"], key=model["vocab"].get)]
    return {"vocab": {piece: id for id, piece in enumerate(pieces)}, "merges": [tuple(m) for m in model["merges"]]}


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": byte_level,
    "byte-level with prefix space": lambda: byte_level(add_prefix_space=True),
    "byte-level that adds BOS and EOS": lambda: byte_level(adds="<s> $A </s>"),
    "Llama": llama,
    "Llama, legacy": llama_legacy,
    "Gemma": gemma,
    "unigram": unigram,
}
