"""Digests of what made a dataset: equal for equal parts, different for any other, and one for a whole dataset."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evalgen.errors import JobStopped
from evalgen.provenance import weights_digests
from evalgen.tokenization import load_tokenizer, tokenizer_digest
from evalgen.unit_store import SamplingCost, StoredUnit
from tests.unit.test_unit_store import COST
from tests.unit.tiny import plan_of, query, tiny_tokenizer

PLAN = plan_of([query("p")])


def stored(unit_id: str, *weights: str, dataset: str = PLAN.name) -> StoredUnit:
    costs: dict[str, SamplingCost] = {
        f"{unit_id}{n}": replace(COST, weights_digest=digest) for n, digest in enumerate(weights)
    }
    return StoredUnit(
        unit_id=unit_id, dataset=dataset, sampling_key="k", ranges={}, num_samples=0, sha256="s", costs=costs
    )


@pytest.mark.parametrize(
    ("units", "digest"),
    [
        ([], ""),
        ([stored("u", "aa")], "aa"),
        ([stored("u", "aa", "aa"), stored("v", "aa"), stored("w", "bb", dataset="other")], "aa"),
        ([stored("u", "")], ""),
        ([stored("u", "aa"), stored("v", "")], ""),  # of an older version: nobody knows what it was sampled from
        ([stored("u", "aa", "")], ""),
    ],
)
def test_the_weights_of_a_dataset_are_those_of_all_its_units(units: list[StoredUnit], digest: str) -> None:
    assert weights_digests([PLAN], units, Path("samples")) == {PLAN.name: digest}


def test_a_checkpoint_that_was_changed_stops_the_job_and_its_files_are_named(caplog: pytest.LogCaptureFixture) -> None:
    units = [
        stored("u1", "aa"),
        stored("u2", "bb"),
        stored("u3", "aa"),
        stored("u4", ""),
        stored("x", "cc", dataset="o"),
    ]
    with caplog.at_level(logging.ERROR), pytest.raises(JobStopped) as stopped:
        weights_digests([replace(PLAN, name="o"), PLAN], units, Path("/e/samples"))
    message = str(stopped.value)
    assert message.startswith(f"{PLAN.name}: {PLAN.checkpoint.path} was changed") and "\n" not in message
    assert "2 different weights" in message and "/e/samples" in message and "--resume" in message
    first, second = (record.getMessage() for record in caplog.records)
    assert "digest aa: u1.parquet u3.parquet" in first and "digest bb: u2.parquet" in second


def test_a_tokenizer_has_one_digest_wherever_it_is_loaded_from_and_whatever_it_encoded(tmp_path: Path) -> None:
    first = tiny_tokenizer()
    digest = tokenizer_digest(first)
    assert len(digest) == 64 and digest == tokenizer_digest(tiny_tokenizer())
    for name in ("a", "b"):
        first.save_pretrained(tmp_path / name)
        assert tokenizer_digest(load_tokenizer(str(tmp_path / name))) == digest
    first(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(first) == digest


def _with_other_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = "<|pad|>"


def _without_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = None


def _with_a_token_more(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens(["Grace"])


def _with_a_normalizer(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("  +"), " ")


@pytest.mark.parametrize("change", [_with_other_bos, _without_bos, _with_a_token_more, _with_a_normalizer])
def test_whatever_changes_ids_or_text_changes_the_digest(change: object) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    change(tokenizer)  # type: ignore[operator]
    assert tokenizer_digest(tokenizer) != before


def test_a_tokenizer_without_a_fast_backend_has_a_digest_too() -> None:
    byte_tokenizers: list[PreTrainedTokenizerBase] = [ByT5Tokenizer(), ByT5Tokenizer(), ByT5Tokenizer(extra_ids=3)]
    assert not byte_tokenizers[0].is_fast
    digests = [tokenizer_digest(tokenizer) for tokenizer in byte_tokenizers]
    assert digests[0] == digests[1] != digests[2]
