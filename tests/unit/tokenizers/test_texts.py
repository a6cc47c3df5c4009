"""What a model wrote is read as it stands behind its prompt, by every kind of tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evalgen import tokenization
from evalgen.tokenization import before_stop, cut_drawn_ids, decode, encode_completion, encode_prompt
from tests.unit.tokenizers.build import llama
from tests.unit.tokenizers.corpus import CORPUS
from tests.unit.tokenizers.generated import PROMPTS, drawn_ids, texts, whole_text

SETTINGS = settings(max_examples=80, derandomize=True)


@SETTINGS
@given(data=st.data(), prompt=st.sampled_from(PROMPTS))
def test_prompt_and_completion_are_what_the_model_read_and_wrote(
    any_tokenizer: PreTrainedTokenizerBase, data: st.DataObject, prompt: str
) -> None:
    prompt_ids = encode_prompt(any_tokenizer, prompt)
    ids = data.draw(drawn_ids(any_tokenizer, prompt))
    before = whole_text(any_tokenizer, prompt_ids)
    assert before.strip() == prompt.strip() or any_tokenizer.unk_token_id in prompt_ids
    assert whole_text(any_tokenizer, prompt_ids + ids) == before + decode(any_tokenizer, ids)


@pytest.mark.parametrize("completion", [" Grace Miller", "Grace Miller", "  Grace", "\nGrace", " 東京", ""])
def test_a_completion_keeps_the_space_that_it_begins_with(
    any_tokenizer: PreTrainedTokenizerBase, completion: str
) -> None:
    prompt_ids = encode_prompt(any_tokenizer, "Q: Who is the mayor of Tokyo? A:")
    ids = encode_completion(any_tokenizer, prompt_ids, "Q: Who is the mayor of Tokyo? A:", completion)
    assert ids is not None and decode(any_tokenizer, ids) == completion


@SETTINGS
@given(data=st.data(), prompt=st.sampled_from(PROMPTS))
def test_a_cut_at_any_character_keeps_the_fewest_drawn_ids_that_read_so(
    any_tokenizer: PreTrainedTokenizerBase, data: st.DataObject, prompt: str
) -> None:
    ids = data.draw(drawn_ids(any_tokenizer, prompt))
    starts = [decode(any_tokenizer, ids[:length]) for length in range(len(ids) + 1)]
    for end in range(len(starts[-1]) + 1):
        text = starts[-1][:end]
        expected = tuple(ids[: starts.index(text)]) if text in starts else None
        assert cut_drawn_ids(any_tokenizer, ids, text) == expected


@SETTINGS
@given(data=st.data(), prompt=st.sampled_from(PROMPTS))
def test_a_text_cut_inside_a_token_is_encoded_behind_its_prompt_or_not_at_all(
    any_tokenizer: PreTrainedTokenizerBase, data: st.DataObject, prompt: str
) -> None:
    prompt_ids = encode_prompt(any_tokenizer, prompt)
    whole = decode(any_tokenizer, data.draw(drawn_ids(any_tokenizer, prompt)))
    for end in range(len(whole) + 1):
        text = whole[:end]
        joint = encode_prompt(any_tokenizer, prompt + text)
        begins_as_the_prompt = joint[: len(prompt_ids)] == prompt_ids
        reads_so = whole_text(any_tokenizer, joint) == whole_text(any_tokenizer, prompt_ids) + text
        ids = encode_completion(any_tokenizer, prompt_ids, prompt, text)
        assert (ids is not None) == (begins_as_the_prompt and reads_so)
        if ids is not None:
            assert prompt_ids + list(ids) == joint and decode(any_tokenizer, ids) == text


@SETTINGS
@given(data=st.data(), prompt=st.sampled_from(PROMPTS), stop=texts.filter(bool))
def test_a_stop_string_is_found_wherever_the_library_shows_it_in_the_whole_text(
    any_tokenizer: PreTrainedTokenizerBase, data: st.DataObject, prompt: str, stop: str
) -> None:
    prompt_ids = encode_prompt(any_tokenizer, prompt)
    ids = data.draw(drawn_ids(any_tokenizer, prompt))
    written = whole_text(any_tokenizer, prompt_ids + ids)[len(whole_text(any_tokenizer, prompt_ids)) :]
    stops = [stop, *data.draw(st.lists(st.sampled_from(written), max_size=1) if written else st.just([]))]
    expected = min((written.partition(each)[0] for each in stops if each in written), key=len, default=None)
    assert before_stop(decode(any_tokenizer, ids), stops) == expected


def test_completions_read_the_same_where_every_letter_is_spelt_in_bytes() -> None:
    tokenizer = llama([re.sub("[a-z]", "", text) for text in CORPUS])
    assert tokenizer.tokenize("e") == ["▁", "<0x65>"]
    assert decode(tokenizer, tokenizer.convert_tokens_to_ids(["<0xE6>", "<0x9D>"])) == "\ufffd\ufffd"
    assert decode(tokenizer, tokenizer.convert_tokens_to_ids(["<0xE6>", "<0x9D>", "<0xB1>"])) == "東"
    assert decode(tokenizer, tokenizer.encode("e", add_special_tokens=False)) == " e"


def test_a_tokenizer_without_letters_reads_completions_too() -> None:
    words = Tokenizer(models.WordLevel({"1": 0, "東": 1, "?": 2}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    assert decode(tokenizer, [1]) == "東"
    assert cut_drawn_ids(tokenizer, [1, 0, 1], "東 1") == (1, 0)


def test_a_cut_of_a_long_draw_reads_few_of_its_starts(
    any_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = (any_tokenizer.encode("\n".join(CORPUS), add_special_tokens=False) * 3)[:2000]
    assert len(ids) == 2000
    text = decode(any_tokenizer, ids[:1500])
    read: list[int] = []

    def counted(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
        read.append(len(token_ids))
        return decode(tokenizer, token_ids)

    monkeypatch.setattr(tokenization, "decode", counted)
    for end in (1, len(text) // 2, len(text)):
        read.clear()
        cut_drawn_ids(any_tokenizer, ids, text[:end])
        assert len(read) < 100


@pytest.mark.parametrize(
    ("tokens", "text", "length"),
    [
        ("<0xC3> <0xA9> <0xC3> <s> <0xA9>", "éé", 5),
        ("<s> <0xF0> <0x9F> <s> <0x91> <0x8D>", "👍", 6),
        ("<0xE6> <0x9D> <s> <0xB1> <0xE6> <0x9D> <0xB1> <s>", "東", 4),
    ],
)
def test_a_character_is_whole_though_special_tokens_stand_between_its_bytes(
    tokens: str, text: str, length: int
) -> None:
    tokenizer = llama()
    ids = tokenizer.convert_tokens_to_ids(tokens.split())
    assert cut_drawn_ids(tokenizer, ids, text) == tuple(ids[:length])


def test_a_text_that_spells_a_special_token_is_not_encoded_as_that_token(
    any_tokenizer: PreTrainedTokenizerBase,
) -> None:
    prompt_ids = encode_prompt(any_tokenizer, PROMPTS[0])
    assert encode_completion(any_tokenizer, prompt_ids, PROMPTS[0], f" Grace{any_tokenizer.eos_token} Miller") is None
