"""Prompts, completions and drawn ids as Hypothesis makes them up."""

from __future__ import annotations

from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from evalgen.tokenization import encode_prompt
from tests.unit.tiny import mayor_prompt
from tests.unit.tokenizers.corpus import CORPUS

PROMPTS = (
    mayor_prompt("Tokyo"),
    mayor_prompt("São Paulo"),
    f"{mayor_prompt('東京')} Grace Miller\n{mayor_prompt('Москва')}",
    "Alice Chen died on",
    "Q: who? A: ",
    "  two  spaces\n\n:",
    "👍🏽:",
    ":",
)

_PIECES = (
    *(" ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\xa0", "\u3000"),
    *("▁", "\ufffd", "</s>", "<0x41>", "<unk>", "é", "e\u0301", "\u0301", "ﬁ", "東", "👨‍👩‍👧", "🇫🇷", "\x00"),
    *(" Grace", " Miller", "Grace", "Lucas", ".", ",", "'", "1987", " 15", "\nQ:"),
)


def _slices(text: str) -> st.SearchStrategy[str]:
    places = st.integers(0, len(text))
    return st.tuples(places, places).map(lambda ends: text[min(ends) : max(ends)][:12])


pieces = st.one_of(st.sampled_from(_PIECES), st.sampled_from(CORPUS).flatmap(_slices), st.text(max_size=3))
texts = st.lists(pieces, max_size=5).map("".join)


@st.composite
def drawn_ids(draw: st.DrawFn, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """What a model may draw after `prompt`: a text in its usual ids, cut anywhere, or any ids but the end's.

    Any ids are cut characters, bytes in no order, special tokens, and spellings that encoding would not choose.
    """
    ends = {tokenizer.eos_token_id}
    if draw(st.booleans()):
        whole = encode_prompt(tokenizer, prompt + draw(texts))[len(encode_prompt(tokenizer, prompt)) :]
        ids = whole[: draw(st.integers(0, len(whole)))]
    else:
        any_id = st.sampled_from(range(len(tokenizer))).map(lambda id: [id])
        in_bytes = st.text("é東👍 a\n", min_size=1, max_size=4).map(lambda text: _byte_ids(tokenizer, text))
        special = st.sampled_from(tokenizer.all_special_ids).map(lambda id: [id])
        ids = [id for some in draw(st.lists(any_id | in_bytes, max_size=8)) for id in some]
        for place in draw(st.lists(st.integers(0, len(ids)), max_size=2)):
            ids[place:place] = draw(special)
        ids = ids[: draw(st.integers(0, len(ids)))]
    return [id for id in ids if id not in ends]


def whole_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """As the library decodes it, special tokens skipped."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _byte_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The text in byte tokens, if the tokenizer has them; else as it is encoded."""
    in_bytes = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in text.encode()]
    known = [id for id in in_bytes if id not in (None, tokenizer.unk_token_id)]
    return known if len(known) == len(in_bytes) else list(tokenizer.encode(text, add_special_tokens=False))
