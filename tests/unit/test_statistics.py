"""The figures of a dataset, and how they are printed: for drawn sets by draws, for enumerated ones by probability."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen.errors import JobStopped
from evalgen.records import GraderSpec, Verdict
from evalgen.statistics import DatasetStatistics, DatasetTally, PromptStatistics, check_any_graded, summary
from evalgen.tables import statistics_lines
from tests.unit.test_assembly import TOKYO, UNGRADED, WRONG, assembled, drawn, enumerated, trimmed
from tests.unit.tiny import query

TERMINAL_WIDTH = 80
VOTES = ("equivalent", "equivalent", "not_equivalent")
PARIS = query("Q: Paris", id="paris")


def figures_of(
    tokenizer: PreTrainedTokenizerFast, *args: object, **kwargs: object
) -> tuple[DatasetStatistics, list[PromptStatistics]]:
    plan, dataset = assembled(tokenizer, *args, **kwargs)  # type: ignore[arg-type]
    tally = DatasetTally(plan)
    tally.add(dataset)
    return tally.figures([]), tally.prompts


def test_an_enumerated_set_counts_probability_in_place_of_draws(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = enumerated(tokenizer, [(" Grace", 0.5), (" x", 0.2), (" Grace.", 0.1), (" y", 0.15)])
    verdicts = {" x": WRONG, " Grace.": trimmed(" Grace"), " y": UNGRADED}
    figures, (tokyo,) = figures_of(tokenizer, samples, verdicts)
    assert figures.num_draws is None
    assert (figures.num_unique, figures.num_graded, figures.num_equivalent, figures.num_ungraded) == (4, 3, 2, 1)
    assert (figures.equivalence_rate, figures.num_items) == (pytest.approx(2 / 3), 1)
    assert figures.draw_equivalence_rate == pytest.approx(0.6 / 0.8)
    assert figures.covered_mass == tokyo.covered_mass == pytest.approx(0.95)


def test_a_prompt_without_a_probable_completion_covers_nothing_and_counts_in_the_mean(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    samples = enumerated(tokenizer, [(" Grace", 0.5), (" x", 0.2)])
    figures, (tokyo, paris) = figures_of(tokenizer, samples, {}, [TOKYO, PARIS])
    assert (tokyo.covered_mass, paris.covered_mass) == (pytest.approx(0.7), 0.0)
    assert figures.covered_mass == pytest.approx(0.35)
    assert (figures.num_prompts, figures.num_unique_prompts, paris.num_unique) == (2, 1, 0)


def test_a_drawn_set_has_draws_and_no_covered_mass(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [0, 2]), drawn(tokenizer, " x", [1])]
    figures, (tokyo,) = figures_of(tokenizer, samples, {" x": WRONG})
    assert (figures.num_draws, figures.draw_equivalence_rate) == (3, pytest.approx(2 / 3))
    assert figures.covered_mass is None and tokyo.covered_mass is None


def test_rows_that_had_to_be_encoded_again_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace Miller", [0, 1]), drawn(tokenizer, " x", [2])]
    figures, _ = figures_of(tokenizer, samples, {" Grace Miller": trimmed(" Grace Mille")})
    assert (figures.num_items, figures.num_reencoded) == (2, 1)
    figures, _ = figures_of(tokenizer, samples, {})
    assert (figures.num_items, figures.num_reencoded) == (2, 0)


def test_a_job_in_which_no_question_got_a_verdict_has_failed(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [0, 1]), drawn(tokenizer, " x", [2])]
    none, _ = figures_of(tokenizer, samples, {" Grace": UNGRADED, " x": UNGRADED})
    one, _ = figures_of(tokenizer, samples, {" x": UNGRADED})
    with pytest.raises(JobStopped, match=r"none of 4 questions got a verdict: left_out.json"):
        check_any_graded([none, none])
    check_any_graded([none, one])
    check_any_graded([])


def test_a_draw_that_is_missing_is_noticed(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(AssertionError, match="1 draws, expected 2"):
        figures_of(tokenizer, [drawn(tokenizer, " Grace", [0])], {}, num_generations=2)


def test_missing_prompts_are_counted_and_the_draws_are_those_of_the_others(tokenizer: PreTrainedTokenizerFast) -> None:
    plan, part = assembled(tokenizer, [drawn(tokenizer, " Grace", [0, 2]), drawn(tokenizer, " x", [1])], {})
    tally = DatasetTally(replace(plan, queries=(TOKYO, PARIS)), num_missing_prompts=1)
    tally.add(part)
    figures = tally.figures([])
    assert (figures.num_prompts, figures.num_missing_prompts, figures.num_draws) == (2, 1, 3)
    assert [prompt.prompt_id for prompt in tally.prompts] == ["tokyo"]


def test_costs_add_up_and_are_unknown_as_soon_as_one_is(tokenizer: PreTrainedTokenizerFast) -> None:
    plan, part = assembled(tokenizer, [drawn(tokenizer, " Grace", [0])], {})
    tally = DatasetTally(plan)
    tally.add(part, [Verdict(kind="equivalent", api_calls=2, cost_usd=0.5), Verdict(kind="ungraded", cost_usd=0.25)])
    assert (tally.figures([]).api_calls, tally.figures([]).cost_usd) == (2, 0.75)
    tally.add(replace(part, judged=[], prompts=[]), [Verdict(kind="equivalent", api_calls=1, cost_usd=None)])
    tally.add(replace(part, judged=[], prompts=[]), [Verdict(kind="equivalent", api_calls=1, cost_usd=1.0)])
    assert (tally.figures([]).api_calls, tally.figures([]).cost_usd) == (4, None)


def test_the_table_says_how_many_calls_packs_saved(tokenizer: PreTrainedTokenizerFast) -> None:
    plan, part = assembled(tokenizer, [drawn(tokenizer, " Grace", [0])], {})
    grader = GraderSpec(model="anthropic/claude", instructions="i" * 3_500, num_votes=3, pack_size=3)
    plan = replace(plan, grader=grader)
    packed = [Verdict(kind="equivalent", api_calls=calls, input_tokens=100, votes=VOTES) for calls in (3, 0, 0)]
    cached = Verdict(kind="equivalent", votes=VOTES)
    tally = DatasetTally(plan)
    tally.add(part, [*packed, cached])
    assert (tally.figures([]).num_asked, tally.figures([]).api_calls) == (9, 3)
    assert "; packs saved 6 calls, about " in "".join(statistics_lines([tally.figures([])]))
    assert 6 * 1_000 < tally.figures([]).input_tokens_saved < 6 * 2_000  # that many have the instructions; and a form
    single = DatasetTally(plan)
    single.add(part, [replace(verdict, api_calls=3) for verdict in packed])
    assert "packs" not in "".join(statistics_lines([single.figures([])]))


@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shares=st.lists(st.floats(1e-6, 1), min_size=2, max_size=6), data=st.data())
def test_masses_are_shares_and_the_mass_of_two_verdicts_adds_up(
    shares: list[float], data: st.DataObject, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [f" {letter}" for letter in "abcdef"]
    all_of_it = sum(shares) * data.draw(st.sampled_from([1, 1.5]))
    found = [(text, share / all_of_it) for text, share in zip(texts, shares, strict=False)]
    wrong = {text: WRONG for text, _ in found if data.draw(st.booleans())}
    figures, (prompt,) = figures_of(tokenizer, enumerated(tokenizer, found), wrong)
    assert figures.draw_equivalence_rate is not None and prompt.covered_mass is not None
    assert 0 < prompt.covered_mass <= 1 and prompt.covered_mass == pytest.approx(sum(share for _, share in found))
    kept = sum(share for text, share in found if text not in wrong)
    assert figures.draw_equivalence_rate * prompt.covered_mass == pytest.approx(kept)
    assert figures.num_unique == figures.num_graded == len(found)


def test_the_summary_has_the_figures_of_both_kinds_as_json(tokenizer: PreTrainedTokenizerFast) -> None:
    drawn_set, drawn_prompts = figures_of(tokenizer, [drawn(tokenizer, " Grace", [0])], {})
    enumerated_set, enumerated_prompts = figures_of(tokenizer, enumerated(tokenizer, [(" Grace", 0.5)]), {})
    content = summary([drawn_set, enumerated_set], [*drawn_prompts, *enumerated_prompts], {"total": 1.0})
    first, second = json.loads(json.dumps(content, allow_nan=False))["datasets"]
    assert (first["num_draws"], first["covered_mass"]) == (1, None)
    assert (second["num_draws"], second["covered_mass"]) == (None, pytest.approx(0.5))
    assert [prompt["covered_mass"] for prompt in content["prompts"]] == [None, pytest.approx(0.5)]


def test_the_table_says_how_much_probability_an_enumerated_set_covers(tokenizer: PreTrainedTokenizerFast) -> None:
    figures, _ = figures_of(tokenizer, enumerated(tokenizer, [(" Grace", 0.75), (" x", 0.25)]), {" x": WRONG})
    plain, _ = figures_of(tokenizer, [drawn(tokenizer, " Grace", [0])], {})
    lines = statistics_lines([figures])
    assert lines[3].split()[:5] == ["-", "2", "1", "50.0%", "75.0%"]
    assert "covers 100.0% of the probability" in lines[4]
    assert all(len(line) <= TERMINAL_WIDTH for line in lines)
    assert len(statistics_lines([plain])) == 4, "a drawn set has no such line"
