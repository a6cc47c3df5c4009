"""What the draws of a prompt depend on: the seed, the prompt and its id, the draw's index, the law; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PreTrainedTokenizerFast

from evalgen.errors import SequenceTooLarge, UserError
from evalgen.records import Query, SamplingUnit
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.nodes import distinct_prefixes
from evalgen.sampling.tree import sample_tree
from tests.unit.tiny import (
    CPU_OUT_OF_MEMORY,
    EOS,
    Limited,
    draws_of,
    law,
    loaded,
    mayor_prompt,
    query,
    random_model,
    unit_of,
)

QUERIES = [query(p) for p in (mayor_prompt("Tokyo"), "a", mayor_prompt("São Paulo"), "Alice Chen died on", "Q: Who")]
LONG_LAW = law(temperature=1.5, max_new_tokens=6)
CUBLAS_OUT_OF_MEMORY = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
DRIVER_OUT_OF_MEMORY = torch.AcceleratorError("CUDA error: out of memory\nCompile with ...")


@pytest.fixture(scope="module")
def diverse(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """Random weights, so that trees are bushy and some draws end early."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = random_model(LlamaConfig(vocab_size=len(tokenizer) + 5, **shape), seed=3)
    return loaded(model, tokenizer, eos_ids=(EOS, 40, 41, 42, 43, 44))


def draws(it: LoadedModel, unit: SamplingUnit) -> dict[tuple[str, int], tuple[tuple[int, ...], str]]:
    return draws_of(sample_tree(it, unit))


@settings(max_examples=40, derandomize=True)
@given(
    queries=st.permutations(QUERIES),
    num_queries=st.integers(1, 4),
    budget_bytes=st.sampled_from([None, 0, 20_000, 80_000]),
    temperature=st.sampled_from([0.1, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 400]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    max_new_tokens=st.integers(1, 6),
    batch_size=st.integers(1, 6),
    first_draw=st.sampled_from([0, 1, 6, 1001]),
    num_draws=st.integers(1, 5),
    seed=st.integers(0, 2**70),
)
def test_tree_equals_independent_under_every_law(
    diverse: LoadedModel,
    queries: list[Query],
    num_queries: int,
    budget_bytes: int | None,
    batch_size: int,
    first_draw: int,
    num_draws: int,
    seed: int,
    **changed: Any,
) -> None:
    unit = unit_of(
        queries[:num_queries],
        law=law(**changed),
        generation_batch_size=batch_size,
        first_draw=first_draw,
        num_draws=num_draws,
        seed=seed,
    )
    result, reference = sample_tree(diverse, unit, budget_bytes), sample_independently(diverse, unit)
    assert draws_of(result) == draws_of(reference)
    assert result.model_evaluations == distinct_prefixes(result.sequences)
    for ours, theirs in zip(result.sequences, reference.sequences, strict=True):
        assert ours.logprob_sampling == pytest.approx(theirs.logprob_sampling, abs=1e-3)


def test_more_draws_leave_the_first_ones_as_they_are(diverse: LoadedModel) -> None:
    fewer = draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=100))
    more = draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=1000))
    assert {key: more[key] for key in fewer} == fewer


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 1), (3, 50), (97, 103), (199, 101)])
def test_a_range_of_draws_is_that_part_of_the_whole(diverse: LoadedModel, first: int, count: int) -> None:
    whole = draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=300))
    part = draws(diverse, unit_of(QUERIES, law=LONG_LAW, first_draw=first, num_draws=count))
    assert part == {key: value for key, value in whole.items() if first <= key[1] < first + count}


def test_draws_do_not_depend_on_the_other_prompts_their_order_or_the_batch(diverse: LoadedModel) -> None:
    whole = draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=60))
    for queries in (QUERIES[::-1], QUERIES[2:], QUERIES[1:2], [*QUERIES[3:], *QUERIES[:1]]):
        for batch_size in (1, 2, 32):
            unit = unit_of(queries, law=LONG_LAW, num_draws=60, generation_batch_size=batch_size)
            assert draws(diverse, unit) == {k: v for k, v in whole.items() if k[0] in {q.id for q in queries}}


def test_one_prompt_under_two_ids_is_drawn_twice(diverse: LoadedModel) -> None:
    twins = [query("Q: Who", id="a"), query("Q: Who", id="b")]
    both = draws(diverse, unit_of(twins, law=LONG_LAW, num_draws=40))
    assert len(both) == 80
    assert [both["a", g] for g in range(40)] != [both["b", g] for g in range(40)]


def test_the_seed_changes_the_draws(diverse: LoadedModel) -> None:
    one, other = (draws(diverse, unit_of(QUERIES, law=LONG_LAW, seed=seed)) for seed in (1, 2))
    assert one != other


@pytest.mark.parametrize("budget_bytes", [0, 40_000, 1_000_000])
def test_draws_do_not_depend_on_the_slices(diverse: LoadedModel, budget_bytes: int) -> None:
    unit = unit_of(QUERIES, law=LONG_LAW, num_draws=25)
    whole = sample_tree(diverse, unit)
    limited = Limited(diverse.model)
    sliced = sample_tree(replace(diverse, model=limited), unit, budget_bytes)  # type: ignore[arg-type]
    assert draws_of(sliced) == draws_of(whole)
    assert sliced.model_evaluations == whole.model_evaluations == distinct_prefixes(whole.sequences)
    if budget_bytes == 0:
        assert max(limited.rows) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("simulated"), CPU_OUT_OF_MEMORY, CUBLAS_OUT_OF_MEMORY, DRIVER_OUT_OF_MEMORY],
    ids=["GPU", "CPU", "cuBLAS", "driver"],
)
@pytest.mark.parametrize("max_rows", [1, 3, 10])
def test_out_of_memory_halves_the_slice_and_loses_no_draw(
    diverse: LoadedModel, max_rows: int, error: RuntimeError
) -> None:
    unit = unit_of(QUERIES, law=LONG_LAW, num_draws=25)
    limited = Limited(diverse.model, max_rows, error=error)
    result = sample_tree(replace(diverse, model=limited), unit)
    assert draws_of(result) == draws(diverse, unit)
    assert result.out_of_memory_halvings == limited.failures > 0
    assert result.model_evaluations == sum(limited.rows) == distinct_prefixes(result.sequences)


def test_a_size_that_ran_out_of_memory_is_not_tried_again(diverse: LoadedModel) -> None:
    limited = Limited(diverse.model, 10)
    sample_tree(replace(diverse, model=limited), unit_of(QUERIES, law=LONG_LAW, num_draws=25))
    assert limited.failures <= 7  # 125 nodes at most: 125, 63, 32, 16 are too many, 8 fit


@pytest.mark.parametrize("sampler", [sample_tree, sample_independently])
def test_out_of_memory_with_a_single_sequence_is_an_error_that_says_what_to_do(
    diverse: LoadedModel, sampler: Callable[..., Any]
) -> None:
    said = r"out of memory on cpu with one sequence of .* give fewer --num_replicas"
    with pytest.raises(SequenceTooLarge, match=said) as caught:
        sampler(replace(diverse, model=Limited(diverse.model, 0)), unit_of(QUERIES))
    assert not isinstance(caught.value, UserError), "which would be taken for a checkpoint that nobody can sample"


class FailsOnce(Limited):
    def __call__(self, **options: Any) -> Any:
        self.max_rows = 0 if self.failures == 0 else 10**9
        return super().__call__(**options)


def test_a_single_sequence_is_tried_once_more_with_what_torch_held_given_back(diverse: LoadedModel) -> None:
    unit = unit_of(QUERIES[:1], law=LONG_LAW, num_draws=25)
    once = FailsOnce(diverse.model, error=CUBLAS_OUT_OF_MEMORY)
    result = sample_tree(replace(diverse, model=once), unit)  # type: ignore[arg-type]
    assert draws_of(result) == draws(diverse, unit)
    assert result.out_of_memory_halvings == once.failures == 1
    assert max(once.rows) > 1, "and is no reason to go on one by one"


@pytest.mark.parametrize("sampler", [sample_tree, sample_independently])
@pytest.mark.parametrize("error", [CUBLAS_OUT_OF_MEMORY, DRIVER_OUT_OF_MEMORY], ids=["cuBLAS", "driver"])
def test_a_gpu_whose_memory_others_have_is_told_from_a_sequence_that_is_too_long(
    diverse: LoadedModel, error: RuntimeError, sampler: Callable[..., Any]
) -> None:
    with pytest.raises(RuntimeError, match="CUDA error"):  # by which a sampling actor knows that its device failed
        sampler(replace(diverse, model=Limited(diverse.model, 0, error=error)), unit_of(QUERIES))


def test_out_of_memory_while_reading_prompts_leaves_the_slices_as_large(diverse: LoadedModel) -> None:
    limited = Limited(diverse.model)
    limited.max_prompts = 2
    result = sample_tree(replace(diverse, model=limited), unit_of(QUERIES, law=LONG_LAW, num_draws=40))
    assert draws_of(result) == draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=40))
    assert result.out_of_memory_halvings == limited.failures > 0
    assert max(limited.rows) > 40


def test_an_error_that_is_not_of_memory_is_raised(diverse: LoadedModel) -> None:
    for sampler in (sample_tree, sample_independently):
        with pytest.raises(RuntimeError, match="the device is broken"):
            limited = Limited(diverse.model, 3, error=RuntimeError("the device is broken"))
            sampler(replace(diverse, model=limited), unit_of(QUERIES, law=LONG_LAW, num_draws=25))  # type: ignore[arg-type]


def test_independent_draws_survive_running_out_of_memory(diverse: LoadedModel) -> None:
    unit = unit_of(QUERIES, law=LONG_LAW, num_draws=25)
    limited = Limited(diverse.model, 4)
    result = sample_independently(replace(diverse, model=limited), unit)
    assert draws_of(result) == draws(diverse, unit)
    assert result.out_of_memory_halvings == limited.failures > 0


def test_a_prompt_is_evaluated_once_whatever_the_number_of_draws(tiny: LoadedModel) -> None:
    limited = Limited(tiny.model)
    unit = unit_of([query(mayor_prompt("Tokyo"))], law=law(temperature=0.01, max_new_tokens=5), num_draws=1000)
    result = sample_tree(replace(tiny, model=limited), unit)
    assert sum(limited.rows) == result.model_evaluations == distinct_prefixes(result.sequences) <= 10


def test_sequences_stand_by_prompt_and_then_by_first_draw_with_the_undrawn_last(diverse: LoadedModel) -> None:
    result = sample_tree(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=60))
    undrawn = 60  # after all draws
    order = [([q.id for q in QUERIES].index(s.prompt_id), *s.generation_indices[:1]) for s in result.sequences]
    order = [place if len(place) == 2 else (*place, undrawn) for place in order]
    assert order == sorted(order) and undrawn in {first for _, first in order}
    assert all(list(s.generation_indices) == sorted(s.generation_indices) for s in result.sequences)


def test_greedy_is_what_generate_says(tiny: LoadedModel, diverse: LoadedModel) -> None:
    for it in (tiny, diverse):
        unit = unit_of(QUERIES, law=law(do_sample=False, max_new_tokens=8), num_draws=3)
        for (prompt_id, _), (token_ids, _) in draws(it, unit).items():
            prompt = next(q.prompt for q in QUERIES if q.id == prompt_id)
            ids = torch.tensor([[EOS, *it.tokenizer.encode(prompt, add_special_tokens=False)]])
            generated = it.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
                eos_token_id=sorted(it.eos_ids),
                pad_token_id=1,
                suppress_tokens=it.undrawable.tolist() or None,
            )
            assert tuple(generated[0, ids.shape[1] :].tolist()) == token_ids
    greedy = sample_tree(tiny, unit_of(QUERIES, law=law(do_sample=False), num_draws=3))
    assert {s.logprob_sampling for s in greedy.sequences} == {0.0}


def test_eos_ends_a_draw_and_is_its_last_token(diverse: LoadedModel) -> None:
    reasons = set()
    for token_ids, reason in draws(diverse, unit_of(QUERIES, law=LONG_LAW, num_draws=200)).values():
        reasons.add(reason)
        assert not set(token_ids[:-1]) & diverse.eos_ids
        assert (reason == "eos") == (token_ids[-1] in diverse.eos_ids)
        assert reason == "eos" or len(token_ids) == LONG_LAW.max_new_tokens
    assert reasons == {"eos", "length"}


def test_an_id_that_the_tokenizer_lacks_is_never_drawn(tokenizer: PreTrainedTokenizerFast) -> None:
    config = LlamaConfig(vocab_size=len(tokenizer) + 500, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    it = loaded(random_model(config), tokenizer)
    for sampling in (law(temperature=100.0, max_new_tokens=2), law(do_sample=False)):
        result = sample_tree(it, unit_of(QUERIES, law=sampling, num_draws=400))
        assert max(max(s.token_ids) for s in result.sequences) < len(tokenizer)
