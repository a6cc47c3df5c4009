"""What the samplers keep stays within the budget, whatever the number of draws and the length of the prompt."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import FalconH1Config, LlamaConfig, PreTrainedTokenizerFast

from evalgen.sampling import memory, tree
from evalgen.sampling.enumeration import enumerate_completions
from evalgen.sampling.memory import free_bytes, limits_of
from evalgen.sampling.model import LoadedModel
from evalgen.sampling.prefixes import Prefixes, evaluate_prompts
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt
from tests.unit.tiny import draws_of, law, loaded, query, random_model, unit_of

QUERIES = [query("a"), query("Alice Chen died on"), query("Q: Who is")]
HOT = law(temperature=3.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def diverse(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return loaded(random_model(LlamaConfig(vocab_size=len(tokenizer), **shape)), tokenizer, eos_ids=())


class _Ledger:
    """How many tokens' keys and values are held at once, by prefixes that are still referred to."""

    def __init__(self) -> None:
        self.now = self.most = self.most_rows = self.batches = self.most_batches = 0

    def add_batch(self, prefixes: _Counted) -> _Counted:
        """Of prompts: their keys and values are held as long as any prefix of them is."""
        self.batches += 1
        self.most_batches = max(self.most_batches, self.batches)
        weakref.finalize(prefixes.prefixes._prompts, self._drop_batch)  # type: ignore[attr-defined]
        return prefixes

    def _drop_batch(self) -> None:
        self.batches -= 1

    def add(self, prefixes: _Counted, rows: int, depth: int) -> _Counted:
        self.now += rows * depth
        self.most, self.most_rows = max(self.most, self.now), max(self.most_rows, rows)
        weakref.finalize(prefixes, self._drop, rows * depth)
        return prefixes

    def _drop(self, tokens: int) -> None:
        self.now -= tokens


class _Counted:
    def __init__(self, prefixes: Prefixes, depth: int, ledger: _Ledger) -> None:
        self.prefixes, self.depth, self.ledger = prefixes, depth, ledger

    def extend(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> tuple[Tensor, _Counted]:
        logits, prefixes = self.prefixes.extend(rows, tokens)
        return logits, self.ledger.add(_Counted(prefixes, self.depth + 1, self.ledger), len(rows), self.depth + 1)

    def tensors(self) -> Iterator[Tensor]:
        return self.prefixes.tensors()


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> _Ledger:
    ledger = _Ledger()

    def counted(*arguments: Any, **keywords: Any) -> tuple[Tensor, _Counted]:
        logits, prefixes = evaluate_prompts(*arguments, **keywords)
        return logits, ledger.add_batch(_Counted(prefixes, 0, ledger))

    monkeypatch.setattr(tree, "evaluate_prompts", counted)
    return ledger


@pytest.mark.parametrize("budget_bytes", [1_000_000, 4_000_000, 10_000_000])
@pytest.mark.parametrize("num_draws", [30, 700])
def test_prefixes_never_take_more_than_the_budget(
    diverse: LoadedModel, ledger: _Ledger, budget_bytes: int, num_draws: int
) -> None:
    unit = unit_of(QUERIES, law=HOT, num_draws=num_draws)
    result = sample_tree(diverse, unit, budget_bytes)
    assert len(draws_of(result)) == 3 * num_draws
    assert 0 < ledger.most * diverse.footprint.bytes_per_token <= budget_bytes
    assert ledger.now == 0


def test_one_batch_of_prompts_is_held_at_a_time(diverse: LoadedModel, ledger: _Ledger) -> None:
    sample_tree(diverse, unit_of(QUERIES, law=HOT, num_draws=50, generation_batch_size=1))
    assert ledger.most_batches == 1 and ledger.batches == 0


def test_without_a_limit_a_level_is_one_slice(diverse: LoadedModel, ledger: _Ledger) -> None:
    """Otherwise the test above would pass because trees are small. And what was kept at most is told."""
    result = sample_tree(diverse, unit_of(QUERIES, law=HOT, num_draws=700), 10**10)
    assert ledger.most * diverse.footprint.bytes_per_token > 10_000_000
    longest = max(len(encode_prompt(diverse.tokenizer, each.prompt)) for each in QUERIES)
    num_tokens = ledger.most + len(QUERIES) * longest
    assert result.kv_bytes == num_tokens * diverse.footprint.bytes_per_token
    assert ledger.most_rows > 1500


def test_cache_rows_are_told_with_prompt_and_states(tokenizer: PreTrainedTokenizerFast) -> None:
    config = FalconH1Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=64,
        mamba_d_state=8,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=1,
    )
    hybrid = loaded(random_model(config), tokenizer, eos_ids=())
    footprint = hybrid.footprint
    assert not footprint.shares_prompts and footprint.bytes_per_row > 0
    unit = unit_of(QUERIES[:1], law=law(do_sample=False, max_new_tokens=4), num_draws=9)
    num_prompt_tokens = len(encode_prompt(tokenizer, QUERIES[0].prompt))
    # At most two rows at once, of the last prefix that is evaluated and of the one before it.
    num_tokens = (num_prompt_tokens + 3) + (num_prompt_tokens + 2)
    expected = num_tokens * footprint.bytes_per_token + 2 * footprint.bytes_per_row
    assert sample_tree(hybrid, unit).kv_bytes == expected


def test_enumeration_keeps_to_the_budget_too(diverse: LoadedModel, ledger: _Ledger) -> None:
    unit = unit_of(QUERIES, law=law(temperature=1.0, max_new_tokens=6), sampler="enumerate", min_probability=1e-4)
    wide = enumerate_completions(diverse, unit, 10**10)
    most = ledger.most
    ledger.most = 0
    narrow = enumerate_completions(diverse, unit, 2_000_000)
    assert [s.token_ids for s in narrow.sequences] == [s.token_ids for s in wide.sequences]
    assert ledger.most * diverse.footprint.bytes_per_token <= 2_000_000 < most * diverse.footprint.bytes_per_token


def test_a_larger_budget_never_means_smaller_slices(diverse: LoadedModel) -> None:
    limits = [limits_of(diverse, HOT, 100, budget) for budget in (0, 10**5, 10**6, 10**7, 10**9)]
    assert limits[0].max_leaves == limits[0].max_nodes == 1
    for smaller, larger in pairwise(limits):
        assert smaller.max_leaves <= larger.max_leaves and smaller.max_nodes <= larger.max_nodes
        assert smaller.max_prompt_tokens <= larger.max_prompt_tokens


def test_a_thousand_hot_draws_of_a_long_prompt_take_bounded_memory(tmp_path: Path) -> None:
    """2,000 tokens x 1,000 draws x 8 KiB would be 15 GiB, a row each; in a process of its own, by its own peak."""
    script = textwrap.dedent("""
        import resource, sys
        import torch
        from transformers import LlamaConfig
        from evalgen.sampling.tree import sample_tree
        from tests.unit.tiny import draws_of, law, loaded, query, random_model, tiny_tokenizer, unit_of

        torch.set_num_threads(1)
        tokenizer = tiny_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=128, num_hidden_layers=8,
            num_attention_heads=4,
        )
        it = loaded(random_model(config), tokenizer, eos_ids=())
        assert it.footprint.bytes_per_token == 8192
        prompt = tokenizer.decode(tokenizer.encode("Q: Who is the mayor of Tokyo? A: Grace Miller. " * 200)[:1999])
        unit = unit_of([query(prompt)], law=law(temperature=1.0, max_new_tokens=6), num_draws=1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = sample_tree(it, unit, 200 * 2**20)
        assert len(draws_of(result)) == 1000 and len(result.sequences) > 300
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 600 * 2**20


def test_distributions_take_little_beside_the_logits_in_chunks_of_a_gpus_size() -> None:
    """Here on the CPU, whose own chunks are smaller; in a process of its own, by its own peak."""
    script = textwrap.dedent("""
        import resource
        import numpy as np, torch
        from evalgen.sampling.law import CHUNK_LOGITS, Distributions
        from tests.unit.tiny import law

        CHUNK_LOGITS["cpu"] = CHUNK_LOGITS["cuda"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        logits = torch.empty(512, 2**17, dtype=torch.bfloat16).normal_()
        distributions = Distributions(logits, law(), torch.zeros(0, dtype=torch.long))
        assert len(distributions.pick(np.arange(512), np.full(512, 0.5)).rows) == 512
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= memory.BYTES_PER_LOGIT * 512 * 2**17


@pytest.mark.parametrize("num_gpus", [1, 3])
def test_on_gpus_the_budget_is_a_share_of_what_is_free_and_of_what_torch_holds_for_later(
    num_gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the fullest, as often as there are GPUs: layers are spread evenly."""
    free, reserved, allocated = [700, 500, 900], [100, 90, 0], [40, 10, 0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved[device.index])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated[device.index])
    devices = [torch.device("cuda", index) for index in range(num_gpus)]
    assert free_bytes(devices) == (608 if num_gpus == 1 else 1392)  # 0.8 x 760, and 0.8 x 3 x 580


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"": "max", "pod": "max", "pod/container": "max"}, 10**6),  # what the host has
        ({"": "max", "pod": "max", "pod/container": "600000"}, 520_000),
        ({"": "max", "pod": "500000", "pod/container": "600000"}, 420_000),
        ({"pod/container": "90000"}, 10_000),
        ({"pod/container": "1000"}, 0),
        ({}, 10**6),
    ],
)
def test_on_a_host_the_budget_is_a_share_of_what_every_cgroup_leaves(
    limits: dict[str, str], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which 100,000 bytes are in use in each, 20,000 of them as a cache of files that can be given up."""
    for cgroup, limit in limits.items():
        (tmp_path / cgroup).mkdir(parents=True, exist_ok=True)
        (tmp_path / cgroup / "memory.max").write_text(f"{limit}\n")
        (tmp_path / cgroup / "memory.current").write_text("100000\n")
        (tmp_path / cgroup / "memory.stat").write_text("anon 70000\nactive_file 10000\ninactive_file 20000\n")
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/pod/container\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUP", own)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    assert free_bytes([torch.device("cpu")]) == int(left * 0.3)


def test_where_there_are_no_cgroups_the_host_has_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "absent")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    assert free_bytes([torch.device("cpu")]) == 300_000
