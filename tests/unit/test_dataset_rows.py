"""One row: the draw that it shows, the draws that it counts, and what it weighs; and the same of rejects."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from evalgen.eval_dataset import FEATURES
from evalgen.tokenization import covering_ids, decode, encode_prompt
from tests.unit.test_assembly import (
    PROVENANCE,
    TOKYO,
    UNGRADED,
    WRONG,
    assembled,
    byte_ids,
    check_row,
    drawn,
    enumerated,
    ids_of,
    labelled,
    trimmed,
)
from tests.unit.tiny import EOS, query


def row_of(*args: Any, **kwargs: Any) -> dict[str, Any]:
    _, dataset = assembled(*args, **kwargs)
    (row,) = dataset.rows
    return row


def test_a_row_shows_its_draw_whole_and_labels_what_trimming_left(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = drawn(tokenizer, " Grace Miller, the", [0, 2], "eos")
    row = row_of(tokenizer, [sample], {sample.completion: trimmed(" Grace Miller")})
    check_row(row, tokenizer)
    assert list(row["token_ids"]) == list(sample.token_ids) and row["token_ids"][-1] == EOS
    assert list(row["token_logprobs"]) == list(sample.token_logprobs)
    assert row["token_ids"][: row["num_completion_tokens"]] == labelled(row) == ids_of(tokenizer, " Grace Miller")
    assert row["logprob"] == pytest.approx(sum(row["token_logprobs"][: row["num_completion_tokens"]]))
    assert (row["raw_completion"], row["finish_reason"]) == (" Grace Miller, the", "eos")
    assert (row["weight"], row["is_prefix_of"], row["sample_count"], row["num_samples"]) == (1.0, None, 2, 2)
    digests = (row["weights_digest"], row["tokenizer_digest"], row["grader_digest"])
    assert digests == (PROVENANCE.weights_digest, PROVENANCE.tokenizer_digest, PROVENANCE.grader_digest)


def test_rows_and_rejects_have_exactly_the_columns(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [0]), drawn(tokenizer, " x", [1])]
    _, dataset = assembled(tokenizer, samples, {" x": WRONG})
    for row in (*dataset.rows, *dataset.rejects):
        assert row.keys() == FEATURES.keys()


def test_reasoning_and_finish_are_those_of_the_draw_that_a_merged_row_shows(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    samples = [drawn(tokenizer, " Grace.", [0], "eos"), drawn(tokenizer, byte_ids(tokenizer, " Grace,"), [1, 2, 3])]
    verdicts = {
        " Grace.": replace(trimmed(" Grace"), reasoning="about the stop"),
        " Grace,": replace(trimmed(" Grace"), reasoning="about the comma"),
    }
    row = row_of(tokenizer, samples, verdicts)
    assert (row["raw_completion"], row["grader_reasoning"]) == (" Grace,", "about the comma")
    assert list(row["token_ids"]) == list(samples[1].token_ids) and row["finish_reason"] == "length"
    assert (row["generation_idx"], row["sample_count"]) == (0, 4)


def test_a_longer_row_is_named_by_the_one_that_it_contains(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [" Grace Miller,", " Lucas", " Grace Miller", " Grace"]
    _, dataset = assembled(tokenizer, [drawn(tokenizer, text, [n]) for n, text in enumerate(texts)], {})
    assert [row["is_prefix_of"] for row in dataset.rows] == [None, None, "tokyo_gen_0", "tokyo_gen_0"]
    masses = [math.exp(row["logprob"]) for row in dataset.rows]
    assert [row["weight"] for row in dataset.rows] == pytest.approx([mass / sum(masses) for mass in masses])


def test_other_tokens_of_a_longer_text_do_not_contain_a_row(tokenizer: PreTrainedTokenizerFast) -> None:
    """Only where the ids go on is the probability of the longer one inside that of the shorter."""
    samples = [drawn(tokenizer, " Grace", [0]), drawn(tokenizer, byte_ids(tokenizer, " Grace Miller"), [1])]
    _, dataset = assembled(tokenizer, samples, {})
    assert [row["is_prefix_of"] for row in dataset.rows] == [None, None]
    _, exclusive = assembled(tokenizer, samples, {}, exclusive=True)
    assert exclusive.rows == dataset.rows


def test_prompts_do_not_contain_each_others_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    paris = query("Q: Paris", id="paris")
    samples = [drawn(tokenizer, " Grace", [0]), drawn(tokenizer, " Grace Miller", [0], of=paris)]
    for exclusive in (False, True):
        _, dataset = assembled(tokenizer, samples, {}, [TOKYO, paris], exclusive=exclusive)
        assert [(row["prompt_id"], row["weight"], row["is_prefix_of"]) for row in dataset.rows] == [
            ("tokyo", 1.0, None),
            ("paris", 1.0, None),
        ]


def test_an_exclusive_set_keeps_the_shortest_with_the_draws_of_all(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [" Grace Miller,", " Lucas", " Grace Miller", " Grace Miller.\n"]
    samples = [drawn(tokenizer, text, [n, 10 + n]) for n, text in enumerate(texts)]
    _, dataset = assembled(tokenizer, samples, {}, exclusive=True)
    kept = [(row["id"], row["completion"], row["sample_count"]) for row in dataset.rows]
    assert kept == [("tokyo_gen_1", " Lucas", 2), ("tokyo_gen_2", " Grace Miller", 6)]
    assert dataset.prompts[0].num_variations == 2 and dataset.prompts[0].num_equivalent == 4


def test_an_exclusive_enumerated_set_has_ranks_and_no_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = enumerated(tokenizer, [(" Grace Miller", 0.4), (" Grace", 0.3), (" x", 0.1)])
    _, dataset = assembled(tokenizer, samples, {}, exclusive=True)
    assert [(row["completion"], row["generation_idx"], row["sample_count"]) for row in dataset.rows] == [
        (" Grace", 1, None),
        (" x", 2, None),
    ]
    assert sum(row["weight"] for row in dataset.rows) == pytest.approx(1)


def test_a_row_encoded_again_weighs_what_the_draw_up_to_its_text_does(tokenizer: PreTrainedTokenizerFast) -> None:
    """The draw " Grace| Mil|ler|,| the" cut inside "ler": what follows that token is no part of what the row says."""
    ids = ids_of(tokenizer, " Grace Miller, the")
    sample, other = drawn(tokenizer, ids, [0]), drawn(tokenizer, " Lucas", [1])
    _, dataset = assembled(tokenizer, [sample, other], {sample.completion: trimmed(" Grace Mille")})
    row, plain = dataset.rows
    assert row["logprob"] is None and not row["tokens_as_drawn"] and list(row["token_ids"]) == ids
    assert labelled(row) == ids_of(tokenizer, " Grace Mille") != ids[: len(labelled(row))]
    masses = [math.exp(sum(sample.token_logprobs[:3])), math.exp(plain["logprob"])]
    assert [row["weight"], plain["weight"]] == pytest.approx([mass / sum(masses) for mass in masses])


def test_the_covering_ids_are_the_shortest_start_whose_text_has_it_all(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = ids_of(tokenizer, " Grace Miller, the")
    pieces = [decode(tokenizer, [token]) for token in ids]
    assert pieces[:3] == [" Grace", " Mil", "ler"]
    for text, length in (("", 0), (" G", 1), (" Grace", 1), (" Grace ", 2), (" Grace Mille", 3), (" Grace Miller", 3)):
        assert covering_ids(tokenizer, ids, text) == tuple(ids[:length])
    assert covering_ids(tokenizer, ids, " Grace Miller, the") == tuple(ids)


def test_draws_of_one_completion_share_its_weight(tokenizer: PreTrainedTokenizerFast) -> None:
    """Also where they were drawn as other tokens, or trimmed from other texts."""
    samples = [
        drawn(tokenizer, " Grace", [0, 3, 4]),
        drawn(tokenizer, byte_ids(tokenizer, " Grace"), [1]),
        drawn(tokenizer, " Grace,", [5], "eos"),
        drawn(tokenizer, " Grace Miller", [2, 6]),
    ]
    verdicts = {" Grace,": trimmed(" Grace")}
    _, one_row = assembled(tokenizer, samples, verdicts)
    _, per_draw = assembled(tokenizer, samples, verdicts, deduplicate=False)
    weights = {row["completion"]: row["weight"] for row in one_row.rows}
    assert [row["generation_idx"] for row in per_draw.rows] == list(range(7))
    for row in per_draw.rows:
        share = 5 if row["completion"] == " Grace" else 2
        assert row["weight"] == pytest.approx(weights[row["completion"]] / share) and row["sample_count"] == 1
        is_start = row["completion"] == " Grace" and row["generation_idx"] != 1
        assert row["is_prefix_of"] == ("tokyo_gen_2" if is_start else None)
    assert per_draw.rows[1]["token_ids"] == byte_ids(tokenizer, " Grace"), "each row shows its own draw"
    assert per_draw.rows[5]["raw_completion"] == " Grace,"


def test_a_reject_is_whole_and_has_no_place_among_the_weights(tokenizer: PreTrainedTokenizerFast) -> None:
    in_bytes, usual = byte_ids(tokenizer, " Lucas Foster"), ids_of(tokenizer, " Lucas Foster")
    samples = [drawn(tokenizer, in_bytes, [3, 4], "eos"), drawn(tokenizer, usual, [1]), drawn(tokenizer, " x", [0, 2])]
    _, dataset = assembled(tokenizer, samples, {" Lucas Foster": WRONG, " x": UNGRADED}, deduplicate=False)
    (row,) = dataset.rejects
    assert in_bytes != usual
    check_row(row, tokenizer)
    assert (row["id"], row["completion"], row["raw_completion"]) == ("tokyo_gen_1", " Lucas Foster", " Lucas Foster")
    assert (row["sample_count"], row["num_samples"], row["grader_reasoning"]) == (3, 5, "no")
    assert labelled(row) == in_bytes and row["tokens_as_drawn"] and row["token_ids"] == [*in_bytes, EOS]
    assert row["logprob"] == pytest.approx(sum(row["token_logprobs"][:-1]))
    assert (row["weight"], row["is_prefix_of"]) == (None, None)
    (as_json,) = dataset.non_equivalent
    assert (as_json["generation_idx"], as_json["sample_count"]) == (row["generation_idx"], row["sample_count"])


def test_a_reject_that_stopped_inside_a_token_is_encoded_again(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = drawn(tokenizer, " Grace Miller", [0], "stop", stop="ll")
    _, dataset = assembled(tokenizer, [sample], {" Grace Mi": WRONG})
    (row,) = dataset.rejects
    check_row(row, tokenizer)
    assert row["completion"] == " Grace Mi" and not row["tokens_as_drawn"] and row["logprob"] is None
    assert row["num_completion_tokens"] == len(labelled(row))


def test_a_reject_for_which_no_ids_can_be_found_has_none(tokenizer: PreTrainedTokenizerFast) -> None:
    """Its stop string begins inside a token, and encoded with the prompt a token spans the boundary."""
    vocabulary = {decode(tokenizer, [token]): token for token in range(2, len(tokenizer))}
    prompt, text = next(
        (whole[:-1], longer)
        for whole in vocabulary
        for longer in vocabulary
        if whole.isalpha() and whole[:-1] in vocabulary and longer[1:] and longer[0] == whole[-1] not in longer[1:]
    )
    spanning = query(prompt, id="spanning")
    sample = drawn(tokenizer, [vocabulary[text]], [0, 1], "stop", of=spanning, stop=text[1:])
    assert sample.completion == text[0]
    _, dataset = assembled(tokenizer, [sample], {text[0]: WRONG}, [spanning])
    (row,) = dataset.rejects
    for column in ("input_ids", "labels", "attention_mask", "num_completion_tokens", "logprob", "logprob_sampling"):
        assert row[column] is None, column
    assert not row["tokens_as_drawn"] and row["token_ids"] == [vocabulary[text]] and row["sample_count"] == 2
    assert dataset.left_out == [] and len(dataset.non_equivalent) == 1
    assert encode_prompt(tokenizer, prompt + text[0])[: len(encode_prompt(tokenizer, prompt))] != encode_prompt(
        tokenizer, prompt
    )
