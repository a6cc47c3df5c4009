"""A replica: real checkpoints from disk, one after the other, and what sampling them cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from evalgen.records import SamplingUnit
from evalgen.runs import find_inner_runs
from evalgen.samples import samples_of
from evalgen.sampling import replica, weights_digest
from evalgen.sampling.model import load_model, read_ahead
from evalgen.sampling.replica import Replica
from evalgen.sampling.weights_digest import WeightsDigest, weight_files
from tests.unit.tiny import MAYORS, Limited, law, mayor_prompt, query, unit_of
from tests.waiting import wait_until

INEXACT = ("token_logprobs", "logprob", "logprob_sampling", "token_logprobs_sampling")


@pytest.fixture
def unit(tiny_run: Path) -> SamplingUnit:
    (run,) = find_inner_runs(str(tiny_run), ("checkpoint_final",))
    queries = [query(mayor_prompt(city), reference=mayor) for city, mayor in MAYORS.items()]
    return unit_of(queries, checkpoint=run.checkpoints[0], law=law(temperature=0.1, max_new_tokens=8), num_draws=50)


def test_the_checkpoint_says_what_it_learnt(unit: SamplingUnit) -> None:
    table, cost = Replica(torch.device("cpu")).sample(unit)
    by_prompt = {q.id: q.reference for q in unit.queries}
    right = [row for row in table.to_pylist() if row["completion"].startswith(f" {by_prompt[row['prompt_id']]}"[:6])]
    assert sum(row["sample_count"] for row in right) > 0.9 * 150
    assert cost.model_evaluations == cost.distinct_prefixes > 0 and cost.out_of_memory_halvings == 0
    assert cost.kv_bytes > 0


def test_both_samplers_store_the_same_samples(unit: SamplingUnit) -> None:
    ours = Replica(torch.device("cpu"))
    few = replace(unit, num_draws=4)
    tree, cost = ours.sample(few)
    independent, slow = ours.sample(replace(few, sampler="independent"))
    assert {True, False} == set(tree["is_greedy"].to_pylist())
    assert tree.drop_columns(INEXACT).to_pylist() == independent.drop_columns(INEXACT).to_pylist()
    # All of a prompt, the greedy one too, are drawn from one evaluation at first, the prompt's own.
    rows = [(len(s.token_ids), s.sample_count + s.is_greedy) for s in samples_of(independent)]
    tokens = sum(length * count for length, count in rows)
    first_tokens = len(few.queries) * (few.num_draws + 1)
    assert slow.model_evaluations == tokens - first_tokens + len(few.queries)
    assert cost.distinct_prefixes == slow.distinct_prefixes < slow.model_evaluations


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs util-linux's fincore to see the file cache")
def test_the_next_checkpoint_is_read_ahead(unit: SamplingUnit, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(2**20) * 64)  # more than one call has the system read
    with open(weights, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _cached_bytes(weights):
        pytest.skip("this file system keeps all files in memory")
    Replica(torch.device("cpu")).sample(replace(unit, num_draws=2), str(tmp_path))
    wait_until(lambda: _cached_bytes(weights) == 2**26, 60, "the file is in the cache")


def _cached_bytes(path: Path) -> int:
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("path", ["organisation/name", "/no/such/directory"])
def test_a_checkpoint_that_cannot_be_read_ahead_is_left_alone(path: str) -> None:
    read_ahead(path)


def test_a_checkpoint_is_read_once_until_another_comes(unit: SamplingUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load_model = replica.load_model

    def counted(checkpoint, dtype, device):  # type: ignore[no-untyped-def]
        read.append(dtype)
        return load_model(checkpoint, dtype, device)

    monkeypatch.setattr(replica, "load_model", counted)
    ours = Replica(torch.device("cpu"))
    few = replace(unit, num_draws=2)
    for dtype in ("fp32", "fp32", "bf16", "bf16", "fp32"):
        ours.sample(replace(few, dtype=dtype))
    assert read == ["fp32", "bf16", "fp32"]


@pytest.fixture
def own(unit: SamplingUnit, tmp_path: Path) -> SamplingUnit:
    """Of a checkpoint that a test may change."""
    path = shutil.copytree(unit.checkpoint.path, tmp_path / "checkpoint")
    return replace(unit, num_draws=2, checkpoint=replace(unit.checkpoint, path=str(path)))


def test_the_cost_says_from_which_weights_the_unit_was_sampled(unit: SamplingUnit, own: SamplingUnit) -> None:
    ours = Replica(torch.device("cpu"))
    digests = [ours.sample(one)[1].weights_digest for one in (replace(unit, num_draws=2), own)]
    assert digests == [WeightsDigest(weight_files(unit.checkpoint.path)).result()] * 2, "a copy is the same"
    weights = Path(own.checkpoint.path) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1  # the least bit of a weight
    weights.write_bytes(content)
    assert ours.sample(own)[1].weights_digest == digests[0], "what is held was read before"
    (changed,) = {Replica(torch.device("cpu")).sample(own)[1].weights_digest for _ in range(2)}
    assert len(changed) == 64 and changed != digests[0]


def test_weights_are_hashed_while_the_first_unit_is_sampled_and_once(
    own: SamplingUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two waited for the other to end would wait for ever."""
    hashing, sampled = threading.Event(), threading.Event()
    hashed: list[str] = []
    sha256_of, sample_tree = weights_digest.sha256_of, replica.sample_tree

    def slow_hash(path: Path) -> str:
        hashing.set()
        assert sampled.wait(60)
        hashed.append(path.name)
        return sha256_of(path)

    def watched_sampler(*arguments):  # type: ignore[no-untyped-def]
        assert hashing.wait(60)
        result = sample_tree(*arguments)
        sampled.set()
        return result

    monkeypatch.setattr(weights_digest, "sha256_of", slow_hash)
    monkeypatch.setitem(replica.SAMPLERS, "tree", watched_sampler)
    ours = Replica(torch.device("cpu"))
    costs = [ours.sample(replace(own, id=id))[1] for id in ("first", "second")]
    assert hashed == ["model.safetensors"]
    assert len({cost.weights_digest for cost in costs}) == 1 and costs[0].weights_digest
    assert costs[0].load_s > costs[1].load_s and costs[1].load_s < 0.1


def test_weights_that_cannot_be_read_again_fail_the_unit_and_not_the_next(
    own: SamplingUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256_of = weights_digest.sha256_of
    failures = iter([OSError("stale file handle")])

    def failing_once(path: Path) -> str:
        for failure in failures:
            raise failure
        return sha256_of(path)

    monkeypatch.setattr(weights_digest, "sha256_of", failing_once)
    ours = Replica(torch.device("cpu"))
    with pytest.raises(OSError, match="stale file handle"):
        ours.sample(own)
    _, cost = ours.sample(own)
    assert cost.weights_digest == WeightsDigest(weight_files(own.checkpoint.path)).result()
    assert cost.load_s > 0.001, "it was read again"


@pytest.mark.parametrize(("sampler", "room"), [("tree", {"max_prompts": 2}), ("independent", {"max_rows": 10})])
def test_what_memory_suffices_for_is_learned_once_and_no_less_is_used(
    unit: SamplingUnit, sampler: Literal["tree", "independent"], room: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of prompts that failed says nothing of what else there is room for."""
    hot = replace(unit.law, temperature=1.5)
    ours, some = Replica(torch.device("cpu")), replace(unit, sampler=sampler, num_draws=12, law=hot)
    (expected, free), _ = ours.sample(some), ours.sample(some)
    assert ours._held is not None
    limited = Limited(ours._held.loaded.model, **room)
    ours._held = replace(ours._held, loaded=replace(ours._held.loaded, model=limited))  # type: ignore[arg-type]
    costs = [ours.sample(some)[1] for _ in range(4)]
    assert 0 < costs[0].out_of_memory_halvings <= 5
    assert [cost.out_of_memory_halvings for cost in costs[1:]] == [0, 0, 0]
    if sampler == "tree":
        assert [cost.model_evaluations for cost in costs] == [free.model_evaluations] * 4
        assert max(limited.rows) > room["max_prompts"]
    assert ours.sample(some)[0].drop_columns(INEXACT).equals(expected.drop_columns(INEXACT))


@pytest.mark.parametrize("sampler", ["tree", "independent"])
def test_running_out_of_memory_is_counted_every_time_and_logged_once(
    unit: SamplingUnit, sampler: Literal["tree", "independent"], caplog: pytest.LogCaptureFixture
) -> None:
    ours, few = Replica(torch.device("cpu")), replace(unit, sampler=sampler, num_draws=9)
    assert ours.sample(few)[1].out_of_memory_halvings == 0 and not caplog.messages
    assert ours._held is not None
    limited = Limited(ours._held.loaded.model, max_rows=4, max_prompts=2)
    ours._held = replace(ours._held, loaded=replace(ours._held.loaded, model=limited))  # type: ignore[arg-type]
    num_failures = 0
    for length in (1, 2, 3):  # of prompts, each kind of which is learned anew
        asked = tuple(replace(each, prompt=each.prompt * 4**length) for each in few.queries)
        hot = replace(few, queries=asked, law=replace(few.law, temperature=3.0))
        assert ours.sample(hot)[1].out_of_memory_halvings == limited.failures - num_failures > 0
        num_failures = limited.failures
    assert [message for message in caplog.messages if "out of memory" in message] == [
        "out of memory while sampling; going on with smaller batches, no draw is lost"
    ]


def test_a_draw_ends_with_any_token_that_the_generation_config_names(own: SamplingUnit) -> None:
    """And not with what the model's own config names, or the tokenizer does."""
    path = Path(own.checkpoint.path)
    for name, eos in (("generation_config.json", [5, 7]), ("config.json", 3)):
        file = path / name
        fields = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(fields | {"eos_token_id": eos}))
    assert load_model(own.checkpoint, "fp32", torch.device("cpu")).eos_ids == {5, 7}
    (path / "generation_config.json").unlink()
    assert load_model(own.checkpoint, "fp32", torch.device("cpu")).eos_ids == {3}
