"""A replica: real checkpoints from disk, one after the other, and what sampling them cost."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evalgen.records import SamplingUnit
from evalgen.runs import find_inner_runs
from evalgen.samples import samples_of
from evalgen.sampling import replica
from evalgen.sampling.model import read_ahead
from evalgen.sampling.replica import Replica
from tests.unit.tiny import MAYORS, law, mayor_prompt, query, unit_of
from tests.waiting import wait_until


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


def test_both_samplers_store_the_same_samples(unit: SamplingUnit) -> None:
    ours = Replica(torch.device("cpu"))
    few = replace(unit, num_draws=4)
    tree, cost = ours.sample(few)
    independent, slow = ours.sample(replace(few, sampler="independent"))
    drop = ("token_logprobs", "logprob", "logprob_sampling", "token_logprobs_sampling")
    assert tree.drop_columns(drop).to_pylist() == independent.drop_columns(drop).to_pylist()
    tokens = sum(len(s.token_ids) * s.sample_count for s in samples_of(independent))
    first_tokens = len(few.queries) * few.num_draws  # all of a prompt's are drawn from one evaluation, the prompt's
    assert slow.model_evaluations == tokens - first_tokens + len(few.queries)
    assert cost.distinct_prefixes == slow.distinct_prefixes < slow.model_evaluations


@pytest.mark.skipif(shutil.which("fincore") is None, reason="needs util-linux's fincore to see the file cache")
def test_the_next_checkpoint_is_read_ahead(unit: SamplingUnit, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(2**22))
    with open(weights, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _cached_bytes(weights):
        pytest.skip("this file system keeps all files in memory")
    Replica(torch.device("cpu")).sample(replace(unit, num_draws=2), str(tmp_path))
    wait_until(lambda: _cached_bytes(weights) == 2**22, 60, "the file is in the cache")


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
