"""The figures of a prompt, against what a hand works out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import exp, log

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen.prompt_figures import (
    PROMPTS_SCHEMA,
    PromptFigures,
    good_turing_unseen,
    semantic_entropies,
)
from tests.unit.test_assembly import TOKYO, UNGRADED, WRONG, assembled, byte_ids, drawn, enumerated, ids_of, trimmed
from tests.unit.tiny import query


def figures(*args: object, **kwargs: object) -> PromptFigures:
    _, dataset = assembled(*args, **kwargs)  # type: ignore[arg-type]
    (found,) = dataset.prompts
    return found


def test_a_prompt_counts_its_draws_and_its_completions_by_verdict(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [
        drawn(tokenizer, " Grace", [0, 1, 2, 3, 4]),
        drawn(tokenizer, " Grace.", [5]),
        drawn(tokenizer, " x", [6, 7]),
        drawn(tokenizer, " y", [8]),
        drawn(tokenizer, " z", [9]),
    ]
    verdicts = {" Grace.": trimmed(" Grace"), " x": WRONG, " y": WRONG, " z": UNGRADED}
    found = figures(tokenizer, samples, verdicts)
    assert (found.prompt_id, found.prompt, found.reference_completion) == ("tokyo", TOKYO.prompt, " Grace Miller")
    assert (found.num_draws, found.num_unique, found.num_variations) == (10, 5, 1)
    assert (found.num_equivalent, found.num_not_equivalent, found.num_ungraded) == (2, 2, 1)
    assert found.equivalent_draw_share == pytest.approx(6 / 9), "of the graded draws"
    assert found.semantic_entropy == pytest.approx(-(6 / 9 * log(6 / 9) + 2 / 9 * log(2 / 9) + 1 / 9 * log(1 / 9)))
    assert found.semantic_entropy_lower == pytest.approx(-(6 / 9 * log(6 / 9) + 3 / 9 * log(3 / 9)))
    assert found.unseen_mass == pytest.approx(3 / 10), "three completions were drawn once"
    assert found.covered_mass is None


def test_masses_are_sums_over_distinct_sequences_as_far_as_they_were_drawn(tokenizer: PreTrainedTokenizerFast) -> None:
    in_bytes = byte_ids(tokenizer, " Grace")
    samples = [
        drawn(tokenizer, in_bytes, [0, 1], "eos"),  # the EOS is part of what was drawn
        drawn(tokenizer, in_bytes, [2]),
        drawn(tokenizer, byte_ids(tokenizer, " wxyz"), [3]),
    ]
    found = figures(tokenizer, samples, {" wxyz": WRONG})
    with_eos, without, wrong = (sample.logprob for sample in samples)
    assert with_eos < without
    assert found.seen_mass == pytest.approx(exp(with_eos) + exp(without) + exp(wrong))
    assert found.equivalent_mass == pytest.approx(exp(with_eos) + exp(without))
    assert found.seen_mass_sampling == pytest.approx(exp(with_eos / 2) + exp(without / 2) + exp(wrong / 2))
    assert found.equivalent_mass_sampling == pytest.approx(exp(with_eos / 2) + exp(without / 2))


def test_a_mass_is_no_more_than_one_where_units_round_otherwise(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [replace(drawn(tokenizer, text, [n]), logprob=log(0.50001)) for n, text in enumerate((" a", " b"))]
    assert figures(tokenizer, samples, {}).seen_mass == 1.0


def test_an_enumerated_prompt_counts_probability_in_place_of_draws(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = enumerated(tokenizer, [(" Grace", 0.5), (" x", 0.2), (" y", 0.1), (" z", 0.1)])
    found = figures(tokenizer, samples, {" x": WRONG, " y": WRONG, " z": UNGRADED})
    assert found.num_draws is None and found.num_unique == 4
    assert found.equivalent_draw_share == pytest.approx(0.5 / 0.8)
    assert found.semantic_entropy == pytest.approx(-(5 / 8 * log(5 / 8) + 2 / 8 * log(2 / 8) + 1 / 8 * log(1 / 8)))
    assert found.semantic_entropy_lower == pytest.approx(-(5 / 8 * log(5 / 8) + 3 / 8 * log(3 / 8)))
    assert found.covered_mass == found.seen_mass_sampling == pytest.approx(0.9)
    assert found.unseen_mass == pytest.approx(0.1)
    assert found.equivalent_mass_sampling == pytest.approx(0.5)
    assert found.seen_mass == pytest.approx(min(1.0, sum(exp(sample.logprob) for sample in samples)))


def test_an_enumerated_prompt_may_have_no_completion_at_all(tokenizer: PreTrainedTokenizerFast) -> None:
    paris = query("Q: Paris", id="paris")
    _, dataset = assembled(tokenizer, enumerated(tokenizer, [(" x", 0.5)]), {}, [TOKYO, paris])
    assert asdict(dataset.prompts[1]) == dict.fromkeys(PROMPTS_SCHEMA.names) | {
        "prompt_id": "paris",
        "prompt": "Q: Paris",
        "reference_completion": " Grace Miller",
        "num_unique": 0,
        "num_equivalent": 0,
        "num_not_equivalent": 0,
        "num_ungraded": 0,
        "num_variations": 0,
        "seen_mass": 0.0,
        "equivalent_mass": 0.0,
        "seen_mass_sampling": 0.0,
        "equivalent_mass_sampling": 0.0,
        "unseen_mass": 1.0,
        "covered_mass": 0.0,
    }


@pytest.mark.parametrize(("verdict", "kind"), [(WRONG, "not_equivalent"), (UNGRADED, "ungraded"), (None, "equivalent")])
def test_the_greedy_completion_is_the_one_whose_every_token_was_the_most_probable(
    verdict: object, kind: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = [
        replace(drawn(tokenizer, " x", [0, 1]), is_greedy=False),
        replace(drawn(tokenizer, ids_of(tokenizer, " Grace."), [3]), is_greedy=True),
        replace(drawn(tokenizer, byte_ids(tokenizer, " Grace."), [2]), is_greedy=False),
    ]
    found = figures(tokenizer, samples, {" Grace.": verdict} if verdict else {" Grace.": trimmed(" Grace")})
    assert (found.greedy_completion, found.greedy_verdict) == (" Grace.", kind), "untrimmed"
    assert found.greedy_draws == 2, "with other tokens, too"


@pytest.mark.parametrize(("verdict", "kind"), [(WRONG, "not_equivalent"), (None, "equivalent")])
@pytest.mark.parametrize("text", [" Grace", " never drawn"])
def test_a_greedy_completion_that_no_draw_gave_is_told_and_counts_nowhere(
    text: str, verdict: object, kind: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Whether or not other tokens with its text were drawn; and in the dataset nothing is of it."""
    samples = [
        replace(drawn(tokenizer, byte_ids(tokenizer, " Grace"), [0, 1]), is_greedy=False),
        replace(drawn(tokenizer, " x", [2]), is_greedy=False),
    ]
    undrawn = replace(drawn(tokenizer, ids_of(tokenizer, text), []), is_greedy=True)
    verdicts = {text: verdict} if verdict else {}
    _, without = assembled(tokenizer, samples, verdicts)
    _, found = assembled(tokenizer, [undrawn, *samples], verdicts)
    num_draws = 2 if text == " Grace" else 0
    told = replace(without.prompts[0], greedy_completion=text, greedy_verdict=kind, greedy_draws=num_draws)
    assert found == replace(without, prompts=[told], undrawn=found.undrawn) and told.num_draws == 3
    assert [(it.completion.text, it.verdict.kind) for it in found.undrawn] == [(text, kind)]


@pytest.mark.parametrize("is_greedy", [None, False])
def test_without_a_greedy_draw_or_in_older_samples_there_is_no_greedy_completion(
    is_greedy: bool | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = figures(tokenizer, [replace(drawn(tokenizer, " Grace", [0]), is_greedy=is_greedy)], {})
    assert (found.greedy_completion, found.greedy_verdict) == (None, None)


def test_a_greedy_set_has_nothing_unseen_to_estimate(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = replace(drawn(tokenizer, " Grace", [0]), is_greedy=True)
    found = figures(tokenizer, [sample], {}, do_sample=False)
    assert found.unseen_mass is None and (found.num_draws, found.greedy_completion) == (1, " Grace")
    assert found.semantic_entropy == found.semantic_entropy_lower == 0.0


def test_where_nothing_is_graded_there_is_no_share_and_no_entropy(tokenizer: PreTrainedTokenizerFast) -> None:
    found = figures(tokenizer, [drawn(tokenizer, " Grace", [0, 1])], {" Grace": UNGRADED})
    assert (found.equivalent_draw_share, found.semantic_entropy, found.semantic_entropy_lower) == (None, None, None)
    assert (found.num_ungraded, found.unseen_mass, found.equivalent_mass) == (1, 0.0, 0.0)


@settings(max_examples=200, derandomize=True)
@given(equivalent=st.integers(0, 50), others=st.lists(st.integers(1, 50), max_size=8))
def test_entropies_bound_that_of_every_way_to_group_the_other_meanings(equivalent: int, others: list[int]) -> None:
    upper, lower = semantic_entropies(equivalent, others)
    if equivalent + sum(others) == 0:
        assert upper is lower is None
        return
    assert upper is not None and lower is not None
    assert 0 <= lower <= upper + 1e-12 and upper <= log(1 + len(others)) + 1e-12
    paired = [sum(others[n : n + 2]) for n in range(0, len(others), 2)]
    between, _ = semantic_entropies(equivalent, paired)
    assert between is not None and lower - 1e-12 <= between <= upper + 1e-12
    scaled, _ = semantic_entropies(equivalent * 0.001, [count * 0.001 for count in others])
    assert scaled == pytest.approx(upper), "shares count, whatever they are shares of"


def test_entropy_is_zero_for_one_meaning_and_log_n_for_n_equal_ones() -> None:
    assert semantic_entropies(7, []) == (0.0, 0.0)
    assert semantic_entropies(0, [3]) == (0.0, 0.0)
    assert math.copysign(1, semantic_entropies(7, [])[0] or 0.0) == 1, "no negative zero"
    assert semantic_entropies(2, [2, 2, 2]) == (
        pytest.approx(log(4)),
        pytest.approx(-(0.25 * log(0.25) + 0.75 * log(0.75))),
    )


@pytest.mark.parametrize(
    ("counts", "unseen"), [([1, 1, 1], 1.0), ([5], 0.0), ([1], 1.0), ([997, 1, 2], 0.001), ([2, 2, 1, 1, 4], 0.2)]
)
def test_the_unseen_mass_is_the_share_of_draws_that_came_once(counts: Sequence[int], unseen: float) -> None:
    assert good_turing_unseen(counts) == pytest.approx(unseen)


@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_shares_and_masses_lie_in_order_whatever_is_drawn(
    data: st.DataObject, tokenizer: PreTrainedTokenizerFast
) -> None:
    letters = data.draw(st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True))
    draws = iter(range(1000))
    samples = [
        drawn(tokenizer, f" {letter}", [next(draws) for _ in range(data.draw(st.integers(1, 9)))]) for letter in letters
    ]
    verdicts = {f" {letter}": data.draw(st.sampled_from([WRONG, UNGRADED, trimmed(" ")])) for letter in letters}
    found = figures(tokenizer, samples, verdicts)
    assert 0 <= found.equivalent_mass <= found.seen_mass <= 1
    assert 0 <= found.equivalent_mass_sampling <= found.seen_mass_sampling <= 1
    assert found.unseen_mass is not None and 0 <= found.unseen_mass <= 1
    assert found.num_unique == found.num_equivalent + found.num_not_equivalent + found.num_ungraded
    assert (found.equivalent_draw_share is None) == (found.num_unique == found.num_ungraded)
