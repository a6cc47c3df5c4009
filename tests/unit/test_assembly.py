"""Rows from samples and verdicts: ids as drawn, labels that decode to the completion, counts that add up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evalgen.assembly import AssembledDataset, assemble
from evalgen.errors import JobStopped
from evalgen.job import DatasetPlan
from evalgen.provenance import Provenance
from evalgen.records import FinishReason, Query, SampledSequence, Verdict
from evalgen.samples import Sample, samples_of, samples_table
from evalgen.statistics import DatasetStatistics, DatasetTally, prompt_statistics
from evalgen.tokenization import before_stop, decode, encode_prompt
from tests.unit.tiny import EOS, law, mayor_prompt, plan_of, query, unit_of

TOKYO = query(mayor_prompt("Tokyo"), id="tokyo")
EQUIVALENT, WRONG = Verdict(kind="equivalent", reasoning="yes"), Verdict(kind="not_equivalent", reasoning="no")
UNGRADED = Verdict(kind="ungraded", error="overloaded")
PROVENANCE = Provenance(weights_digest="w" * 64, tokenizer_digest="t" * 64, grader_digest="g" * 64)
STOP = ","


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def byte_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """One token a byte: the same text, other tokens."""
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [tokenizer.convert_tokens_to_ids(char) for piece, _ in pieces for char in piece]


def drawn(
    tokenizer: PreTrainedTokenizerFast,
    what: str | Sequence[int],
    draws: Sequence[int],
    reason: FinishReason = "length",
    of: Query = TOKYO,
    stop: str = STOP,
) -> Sample:
    """A sequence as sampled; with reason `eos`, the EOS is added; with reason `stop`, it has `stop` in it."""
    ids = tuple(ids_of(tokenizer, what) if isinstance(what, str) else what)
    text = decode(tokenizer, ids)
    if reason == "stop":
        before = before_stop(text, [stop])
        assert before is not None
        text = before
    ids += (EOS,) if reason == "eos" else ()
    logprobs = tuple(-0.125 * (1 + n) for n in range(len(ids)))
    return Sample(
        prompt_id=of.id,
        completion=text,
        token_ids=ids,
        token_logprobs=logprobs,
        logprob=sum(logprobs),
        logprob_sampling=sum(logprobs) / 2,
        token_logprobs_sampling=tuple(p / 2 for p in logprobs),
        generation_indices=tuple(draws),
        finish_reason=reason,
        is_greedy=False,
    )


def enumerated(
    tokenizer: PreTrainedTokenizerFast, found: Sequence[tuple[str | Sequence[int], float]], of: Query = TOKYO
) -> list[Sample]:
    """Sequences as enumerated and stored, each with its probability."""
    all_ids = [tuple(ids_of(tokenizer, what) if isinstance(what, str) else what) for what, _ in found]
    sequences = [
        SampledSequence(
            prompt_id=of.id,
            token_ids=ids,
            token_logprobs=(-1.0,) * len(ids),
            logprob=-1.0 * len(ids),
            logprob_sampling=math.log(probability),
            token_logprobs_sampling=(math.log(probability) / max(1, len(ids)),) * len(ids),
            generation_indices=(),
            finish_reason="stop" if STOP in decode(tokenizer, ids) else "length",
            is_greedy=False,
        )
        for ids, (_, probability) in zip(all_ids, found, strict=True)
    ]
    unit = unit_of([of], law=law(stop_strings=(STOP,)), sampler="enumerate", min_probability=1e-6)
    return samples_of(samples_table(unit, sequences, tokenizer))


def trimmed(text: str) -> Verdict:
    return Verdict(kind="equivalent", trimmed_completion=text, reasoning="cut")


def assembled(
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    verdicts: dict[str, Verdict],
    queries: Sequence[Query] = (TOKYO,),
    **options: Any,
) -> tuple[DatasetPlan, AssembledDataset]:
    """`verdicts` are by completion text; what is not in it is equivalent."""
    if any(sample.is_enumerated for sample in samples):
        options = {"sampler": "enumerate", "min_probability": 1e-6} | options
    else:
        options = {"num_generations": sum(len(s.generation_indices) for s in samples) // len(queries)} | options
    plan = plan_of(queries, **options)
    by_id = {q.id: q for q in queries}
    texts = {(sample.prompt_id, sample.completion) for sample in samples}
    by_key = {plan.question(by_id[p], text).key: verdicts.get(text, EQUIVALENT) for p, text in texts}
    return plan, assemble(plan, samples, by_key, tokenizer, PROVENANCE)


def figures_of(plan: DatasetPlan, *parts: AssembledDataset) -> DatasetStatistics:
    tally = DatasetTally(plan)
    for part in parts:
        tally.add(part)
    return tally.figures([])


def check_row(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """What the contract's section 3 says of every row."""
    prompt_ids = [EOS, *ids_of(tokenizer, row["prompt"])]
    assert row["id"] == f"{row['prompt_id']}_gen_{row['generation_idx']}"
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids
    assert row["labels"][: len(prompt_ids)] == [-100] * len(prompt_ids)
    labelled = [label for label in row["labels"] if label != -100]
    assert labelled == row["input_ids"][len(prompt_ids) :] and EOS not in labelled
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    assert tokenizer.decode(labelled, skip_special_tokens=True, clean_up_tokenization_spaces=False) == row["completion"]


def test_a_row_holds_the_ids_as_drawn_even_where_encoding_would_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_ids(tokenizer, " Grace Miller")
    assert ids != ids_of(tokenizer, " Grace Miller")
    _, dataset = assembled(tokenizer, [drawn(tokenizer, ids, [3])], {})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert row["input_ids"] == encode_prompt(tokenizer, TOKYO.prompt) + ids
    assert row["tokens_as_drawn"] and row["logprob"] == pytest.approx(sum(-0.125 * (1 + n) for n in range(len(ids))))


def test_the_ids_are_those_drawn_most_often_and_ties_go_to_the_first_draw(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " Grace Miller"
    in_bytes, usual = byte_ids(tokenizer, text), ids_of(tokenizer, text)
    for draws_in_bytes, draws_usual, expected in (([0], [1, 2], usual), ([0, 3], [1, 2], in_bytes), ([5], [1], usual)):
        samples = [drawn(tokenizer, in_bytes, draws_in_bytes), drawn(tokenizer, usual, draws_usual)]
        _, dataset = assembled(tokenizer, samples, {})
        (row,) = dataset.rows
        assert row["input_ids"][-len(expected) :] == expected
        assert row["generation_idx"] == min(draws_in_bytes + draws_usual)
        assert row["sample_count"] == len(draws_in_bytes + draws_usual)


def test_eos_and_the_length_limit_are_one_completion_without_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [2, 5]), drawn(tokenizer, " Grace", [1], "eos"), drawn(tokenizer, " Gr", [0])]
    _, dataset = assembled(tokenizer, samples, {" Gr": WRONG})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert (row["generation_idx"], row["sample_count"]) == (1, 3)


def test_trimming_cuts_the_drawn_ids_and_merges_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [" Grace Miller\nQ:", " Grace Miller", " Grace Miller, the mayor", " Grace"]
    samples = [drawn(tokenizer, text, [n, 10 + n]) for n, text in enumerate(texts)]
    verdicts = {text: trimmed(" Grace Miller") for text in (texts[0], texts[2])}
    plan, dataset = assembled(tokenizer, samples, verdicts)
    first, second = dataset.rows
    for row in dataset.rows:
        check_row(row, tokenizer)
    assert (first["completion"], first["generation_idx"], first["sample_count"]) == (" Grace Miller", 0, 6)
    assert (second["completion"], second["generation_idx"], second["sample_count"]) == (" Grace", 3, 2)
    assert first["raw_completion"] == texts[0] and first["tokens_as_drawn"]
    assert dataset.left_out == [] and dataset.non_equivalent == []
    statistics = figures_of(plan, dataset)
    assert (statistics.num_equivalent, statistics.num_items, statistics.num_draws) == (4, 2, 8)


def test_a_cut_inside_a_token_is_encoded_again(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = ids_of(tokenizer, " Grace Miller")
    last = decode(tokenizer, whole[-1:])
    assert len(last) > 1, "the last token must be divisible"
    cut = " Grace Miller"[:-1]
    _, dataset = assembled(tokenizer, [drawn(tokenizer, whole, [0])], {" Grace Miller": trimmed(cut)})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert row["completion"] == cut
    assert not row["tokens_as_drawn"] and row["logprob"] is None and row["logprob_sampling"] is None


def test_the_ids_of_a_stopped_draw_are_cut_where_its_text_was(tokenizer: PreTrainedTokenizerFast) -> None:
    """Behind the stop string a draw may have anything that its last token has."""
    ids = [*ids_of(tokenizer, " Grace Miller"), *ids_of(tokenizer, ","), *ids_of(tokenizer, " the")]
    whole = len(ids_of(tokenizer, " Grace Miller"))
    _, dataset = assembled(tokenizer, [drawn(tokenizer, ids, [0], "stop")], {})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert row["completion"] == row["raw_completion"] == " Grace Miller"
    assert row["input_ids"] == encode_prompt(tokenizer, TOKYO.prompt) + ids[:whole]
    assert row["tokens_as_drawn"] and row["finish_reason"] == "stop"
    assert row["logprob"] == pytest.approx(sum(-0.125 * (1 + n) for n in range(whole)))
    assert row["logprob_sampling"] == pytest.approx(row["logprob"] / 2)


def test_a_stop_string_that_begins_inside_a_token_has_the_text_encoded_again(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    inside = ids_of(tokenizer, " Grace Miller")
    assert [decode(tokenizer, [token]) for token in inside] == [" Grace", " Mil", "ler"]
    sample = drawn(tokenizer, inside, [0, 1], "stop", stop="ll")
    _, dataset = assembled(tokenizer, [sample], {})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert row["completion"] == sample.completion == " Grace Mi"
    assert not row["tokens_as_drawn"] and row["logprob"] is None and row["finish_reason"] == "stop"
    clean = drawn(tokenizer, byte_ids(tokenizer, " Grace Mill"), [2], "stop", stop="ll")
    _, dataset = assembled(tokenizer, [sample, clean], {})
    (row,) = dataset.rows
    assert row["input_ids"] == encode_prompt(tokenizer, TOKYO.prompt) + list(clean.token_ids[:-2])
    assert row["tokens_as_drawn"] and row["sample_count"] == 3


def test_a_stopped_draw_and_one_that_ended_there_are_one_completion(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace,", [2], "stop"), drawn(tokenizer, " Grace", [0], "eos")]
    samples += [drawn(tokenizer, " Grace", [3])]
    _, dataset = assembled(tokenizer, samples, {})
    (row,) = dataset.rows
    assert (row["completion"], row["sample_count"], row["generation_idx"]) == (" Grace", 3, 0)


def test_a_draw_that_stopped_at_once_is_an_empty_completion(tokenizer: PreTrainedTokenizerFast) -> None:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, ", the", [0], "stop")], {})
    (row,) = dataset.rows
    check_row(row, tokenizer)
    assert row["completion"] == "" and row["input_ids"] == encode_prompt(tokenizer, TOKYO.prompt)


def test_an_enumerated_row_has_a_rank_in_place_of_a_draw_and_no_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    in_bytes, usual = byte_ids(tokenizer, " Grace"), ids_of(tokenizer, " Grace")
    samples = enumerated(tokenizer, [(" Miller", 0.3), (in_bytes, 0.2), (usual, 0.15), (" x", 0.1)])
    _, dataset = assembled(tokenizer, samples, {" x": WRONG})
    first, second = dataset.rows
    for row in dataset.rows:
        check_row(row, tokenizer)
        assert row["sample_count"] is None and row["num_samples"] is None
    assert [row["id"] for row in dataset.rows] == ["tokyo_gen_0", "tokyo_gen_1"]
    assert (first["completion"], second["completion"]) == (" Grace", " Miller"), "a text counts with all its sequences"
    assert first["input_ids"][-len(in_bytes) :] == in_bytes, "the ids are those of the most probable sequence"
    assert first["logprob_sampling"] == pytest.approx(math.log(0.2))
    (reject,) = dataset.non_equivalent
    assert (reject["generation_idx"], reject["sample_count"]) == (2, None)


def test_enumerated_rows_that_trimming_made_equal_keep_the_smallest_rank(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = enumerated(tokenizer, [(" Miller", 0.4), (" Grace.", 0.3), (" Grace\n", 0.2)])
    verdicts = {text: trimmed(" Grace") for text in (" Grace.", " Grace\n")}
    _, dataset = assembled(tokenizer, samples, verdicts)
    assert [(row["completion"], row["generation_idx"]) for row in dataset.rows] == [(" Miller", 0), (" Grace", 1)]


def test_a_token_that_spans_the_boundary_leaves_its_row_out_with_a_reason(tokenizer: PreTrainedTokenizerFast) -> None:
    """Where trimming cuts inside a token and prompt and rest, encoded together, share a token."""
    vocabulary = {decode(tokenizer, [t]): t for t in range(2, len(tokenizer))}
    start, cut, text = next(
        (whole[:-1], whole[-1], longer)
        for whole in vocabulary
        for longer in vocabulary
        if len(whole) > 1
        and len(longer) > 1
        and longer[0] == whole[-1]
        and whole.isalpha()
        and whole[:-1] in vocabulary
    )
    spanning = query(start, id="spanning")
    samples = [drawn(tokenizer, [vocabulary[text]], [0], of=spanning), drawn(tokenizer, " Gr", [0], of=TOKYO)]
    plan, dataset = assembled(tokenizer, samples, {text: trimmed(cut)}, [spanning, TOKYO])
    assert [row["prompt_id"] for row in dataset.rows] == ["tokyo"]
    (left_out,) = dataset.left_out
    assert left_out["generated_completion"] == text and "boundary" in left_out["reason"]
    statistics = figures_of(plan, dataset)
    assert (statistics.num_left_out, statistics.num_items, statistics.num_equivalent) == (1, 1, 2)


def test_two_queries_with_one_prompt_stay_two(tokenizer: PreTrainedTokenizerFast) -> None:
    twins = [query("p", id="b_gen_1"), query("p", id="a")]
    samples = [drawn(tokenizer, " x", [4], of=twins[1]), drawn(tokenizer, " x", [2], of=twins[0])]
    _, dataset = assembled(tokenizer, samples, {}, twins)
    assert [row["id"] for row in dataset.rows] == ["b_gen_1_gen_2", "a_gen_4"]


def test_ungraded_is_neither_kept_nor_not_equivalent(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, f" {n}", [n]) for n in range(3)]
    plan, dataset = assembled(tokenizer, samples, {" 0": UNGRADED, " 1": WRONG})
    assert [row["completion"] for row in dataset.rows] == [" 2"]
    assert [row["generated_completion"] for row in dataset.non_equivalent] == [" 1"]
    assert [(row["generated_completion"], row["reason"]) for row in dataset.left_out] == [(" 0", "overloaded")]
    statistics = figures_of(plan, dataset)
    assert (statistics.num_graded, statistics.num_equivalent, statistics.num_ungraded) == (2, 1, 1)
    assert (statistics.equivalence_rate, statistics.num_left_out) == (0.5, 0)


def test_rejects_begin_with_the_four_keys_of_upstream(tokenizer: PreTrainedTokenizerFast) -> None:
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0])], {" x": WRONG})
    (row,) = dataset.non_equivalent
    assert list(row)[:4] == ["prompt", "expected_completion", "generated_completion", "reasoning"]
    assert list(row.values())[:4] == [TOKYO.prompt, " Grace Miller", " x", "no"]
    json.dumps(row)


def test_rows_without_deduplication_are_one_for_each_draw(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [drawn(tokenizer, " Grace", [0, 3]), drawn(tokenizer, " Grace\n", [1]), drawn(tokenizer, " no", [2])]
    plan, dataset = assembled(tokenizer, samples, {" Grace\n": trimmed(" Grace"), " no": WRONG}, deduplicate=False)
    assert [row["id"] for row in dataset.rows] == ["tokyo_gen_0", "tokyo_gen_1", "tokyo_gen_3"]
    assert {row["sample_count"] for row in dataset.rows} == {1}
    for row in dataset.rows:
        check_row(row, tokenizer)
    assert figures_of(plan, dataset).num_items == 3


def test_rows_without_deduplication_hold_what_their_own_draw_drew(tokenizer: PreTrainedTokenizerFast) -> None:
    in_bytes, usual = byte_ids(tokenizer, " Grace"), ids_of(tokenizer, " Grace")
    samples = [drawn(tokenizer, usual, [0, 1]), drawn(tokenizer, in_bytes, [2])]
    _, dataset = assembled(tokenizer, samples, {}, deduplicate=False)
    assert dataset.rows[2]["input_ids"][-len(in_bytes) :] == in_bytes


def test_a_completion_without_a_verdict_stops_the_job_and_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(JobStopped, match="no verdict is stored for completion ' Grace' of 'tokyo'"):
        assemble(plan_of([TOKYO]), [drawn(tokenizer, " Grace", [0])], {}, tokenizer, PROVENANCE)


def test_metadata_travels_as_json_beside_the_source(tokenizer: PreTrainedTokenizerFast) -> None:
    it = query("p", id="p", topic=["é", 1], none=None)
    _, dataset = assembled(tokenizer, [drawn(tokenizer, " x", [0], of=it)], {}, [it])
    assert dataset.rows[0]["metadata"] == {"source_dataset": "s"}
    assert json.loads(dataset.rows[0]["metadata_json"]) == {"topic": ["é", 1], "none": None}


def labelled(row: dict[str, Any]) -> list[int]:
    return [label for label in row["labels"] if label != -100]


def of_query(rows: Sequence[dict[str, Any]], of: Query) -> list[dict[str, Any]]:
    return [row for row in rows if row["prompt_id"] == of.id]


def check_weights(dataset: AssembledDataset, queries: Sequence[Query]) -> None:
    for rows in (of_query(dataset.rows, of) for of in queries):
        if rows:
            assert math.fsum(row["weight"] for row in rows) == pytest.approx(1, abs=1e-12)
        drawn_rows = [row for row in rows if row["logprob"] is not None]
        for row in drawn_rows:
            ratio = math.exp(row["logprob"] - drawn_rows[0]["logprob"])
            assert row["weight"] == pytest.approx(drawn_rows[0]["weight"] * ratio)
        for row in rows:
            own = labelled(row)
            longer = [other["id"] for other in rows if labelled(other)[: len(own)] == own != labelled(other)]
            assert row["is_prefix_of"] == (longer[0] if longer else None)


def check_exclusive(dataset: AssembledDataset, exclusive: AssembledDataset, queries: Sequence[Query]) -> None:
    """Prefix-free, with all draws, and otherwise as it was."""
    assert exclusive.rejects == dataset.rejects and exclusive.left_out == dataset.left_out
    before = {row["id"]: row for row in dataset.rows}
    changed = dict.fromkeys(("sample_count", "weight", "is_prefix_of"))
    for of in queries:
        rows, all_rows = of_query(exclusive.rows, of), of_query(dataset.rows, of)
        assert [before[row["id"]] | changed for row in rows] == [row | changed for row in rows]
        assert all(row["is_prefix_of"] is None for row in rows)
        starts = [labelled(row) for row in rows]
        assert not any(a != b and a[: len(b)] == b for a in starts for b in starts)
        assert sum(row["sample_count"] for row in rows) == sum(row["sample_count"] for row in all_rows)
        assert all(any(labelled(row)[: len(start)] == start for start in starts) for row in all_rows)
    check_weights(exclusive, queries)


def check_a_row_per_draw(dataset: AssembledDataset, per_draw: AssembledDataset) -> None:
    """The rows of a completion together weigh what its one row does."""
    shares: dict[tuple[str, str], list[float]] = {}
    for row in per_draw.rows:
        shares.setdefault((row["prompt_id"], row["completion"]), []).append(row["weight"])
    weights = {(row["prompt_id"], row["completion"]): row["weight"] for row in dataset.rows}
    counts = {(row["prompt_id"], row["completion"]): row["sample_count"] for row in dataset.rows}
    assert shares.keys() <= weights.keys()
    if not per_draw.left_out and not dataset.left_out:
        for of, some in shares.items():
            assert len(some) == counts[of] and len(set(some)) == 1
            assert math.fsum(some) == pytest.approx(weights[of])


_TEXTS = st.text("Grace Milerã日\n,", min_size=1, max_size=6)


@settings(max_examples=120, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_drawn_and_judged_rows_decode_and_counts_add_up(
    data: st.DataObject, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Random sequences (byte by byte, so that characters are cut), random stops, random verdicts, random trims."""
    queries = [
        query(prompt, id=f"q{n}") for n, prompt in enumerate(data.draw(st.lists(_TEXTS, min_size=1, max_size=3)))
    ]
    samples: list[Sample] = []
    num_draws = 6
    for of in queries:
        sequences: dict[tuple[tuple[int, ...], FinishReason], list[int]] = {}
        for draw in range(num_draws):
            text = data.draw(_TEXTS)
            ids = byte_ids(tokenizer, text) if data.draw(st.booleans()) else ids_of(tokenizer, text)
            ids = ids[: data.draw(st.integers(0, len(ids)))]
            reason: FinishReason = data.draw(st.sampled_from(["eos", "length"]))
            stops = [n for n in range(len(ids) + 1) if STOP in decode(tokenizer, ids[:n])]
            if stops and data.draw(st.booleans()):
                ids, reason = ids[: stops[0]], "stop"
            sequences.setdefault((tuple(ids), reason), []).append(draw)
        samples += [drawn(tokenizer, ids, draws, reason, of) for (ids, reason), draws in sequences.items()]
    verdicts = {}
    for text in sorted({s.completion for s in samples}):
        cut = text[: data.draw(st.integers(0, len(text)))]
        verdicts[text] = data.draw(
            st.sampled_from([WRONG, UNGRADED, EQUIVALENT, trimmed(cut) if cut.strip() else EQUIVALENT])
        )
    plan, dataset = assembled(tokenizer, samples, verdicts, queries)
    for row in dataset.rows:
        check_row(row, tokenizer)
    assert len({row["id"] for row in dataset.rows}) == len(dataset.rows)
    assert len({(row["prompt_id"], row["completion"]) for row in dataset.rows}) == len(dataset.rows)
    assert not any(STOP in row["raw_completion"] for row in dataset.rows if row["finish_reason"] == "stop")
    order = [(int(row["prompt_id"][1:]), row["generation_idx"]) for row in dataset.rows]
    assert order == sorted(order)
    statistics = figures_of(plan, dataset)
    assert statistics.num_draws == num_draws * len(queries)
    assert statistics.num_unique == statistics.num_graded + statistics.num_ungraded
    counted = sum(row["sample_count"] for row in [*dataset.rows, *dataset.left_out, *dataset.non_equivalent])
    assert counted == statistics.num_draws
    assert [reject["generated_completion"] for reject in dataset.non_equivalent] == [
        reject["completion"] for reject in dataset.rejects
    ]
    check_weights(dataset, queries)
    check_exclusive(dataset, assembled(tokenizer, samples, verdicts, queries, exclusive=True)[1], queries)
    check_a_row_per_draw(dataset, assembled(tokenizer, samples, verdicts, queries, deduplicate=False)[1])
    parts = [
        assembled(tokenizer, [s for s in samples if s.prompt_id == q.id], verdicts, [q], num_generations=num_draws)[1]
        for q in queries
    ]
    assert [row for part in parts for row in part.rows] == dataset.rows
    assert [row for part in parts for row in part.left_out] == dataset.left_out
    assert [row for part in parts for row in part.rejects] == dataset.rejects
    assert [prompt for part in parts for prompt in part.prompts] == dataset.prompts
    assert figures_of(plan, *parts) == statistics, "a dataset may be assembled query by query"
    shuffled = data.draw(st.permutations(samples))
    assert assembled(tokenizer, shuffled, verdicts, queries)[1].rows == dataset.rows
    assert sum(p.num_unique for p in prompt_statistics(plan, dataset)) == statistics.num_unique
    assert sum(p.num_variations for p in prompt_statistics(plan, dataset)) == statistics.num_items
    assert statistics.num_equivalent == sum(j.verdict.kind == "equivalent" for j in dataset.judged)
