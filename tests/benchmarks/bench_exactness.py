"""Counts the draws that depend on how they were computed: tree against one row per draw, and one batch against another.

    python -m tests.benchmarks.bench_exactness [--checkpoint smollm2] [--num_draws 100] [--dtypes fp32]

In exact arithmetic none would. In floating point a batch of another shape can round a logit differently, and a draw
whose number lies that close to a boundary picks the neighbouring token. In fp64 that must not happen: the check that
nothing but rounding is different. Exits with 1 if it does.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from evalgen.records import Checkpoint, Query, SamplingLaw, SamplingUnit
from evalgen.sampling.independent import sample_independently
from evalgen.sampling.model import load_model, ready_to_sample
from evalgen.sampling.nodes import SamplingResult
from evalgen.sampling.tree import sample_tree
from tests.benchmarks.checkpoints import prepare

LAWS = ((0.1, 10), (0.7, 10), (1.0, 10))  # temperature, max_new_tokens
SMALL_BUDGET_BYTES = 50_000_000  # so that slices are cut elsewhere


def tokens_of(result: SamplingResult) -> dict[tuple[str, int], tuple[int, ...]]:
    return {(s.prompt_id, g): s.token_ids for s in result.sequences for g in s.generation_indices}


def num_different(one: SamplingResult, other: SamplingResult) -> int:
    first, second = tokens_of(one), tokens_of(other)
    assert first.keys() == second.keys()
    return sum(first[draw] != second[draw] for draw in first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", choices=("demo", "smollm2"), default="demo")
    parser.add_argument("--num_prompts", type=int, default=10)
    parser.add_argument("--num_draws", type=int, default=1000)
    parser.add_argument("--dtypes", nargs="+", choices=("fp64", "fp32", "bf16"), default=("fp64", "fp32", "bf16"))
    parser.add_argument("--directory", type=Path, default=Path(".bench"))
    arguments = parser.parse_args()
    bench = prepare(arguments.checkpoint, arguments.directory)
    checkpoint = Checkpoint(run="", name="", path=str(bench.path), tokenizer_path=str(bench.tokenizer_path))
    queries = tuple(
        Query(id=prompt, prompt=prompt, reference="", source_dataset="", metadata={})
        for prompt in bench.prompts(arguments.num_prompts, None)
    )
    table = Table(title=f"{arguments.checkpoint}: of {len(queries) * arguments.num_draws:,} draws so many differ")
    headings = ("dtype", "temperature", "tree / a row per draw", "all prompts / one at a time", "large / small slices")
    for heading in headings:
        table.add_column(heading, justify="right")
    num_different_in_fp64 = 0
    for dtype in arguments.dtypes:
        loaded = load_model(checkpoint, "bf16" if dtype == "bf16" else "fp32", torch.device("cpu"))
        if dtype == "fp64":
            double = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float64)
            loaded = ready_to_sample(double, loaded.tokenizer, loaded.eos_ids)
        for temperature, max_new_tokens in LAWS:
            unit = SamplingUnit(
                id="benchmark",
                dataset="benchmark",
                checkpoint=checkpoint,
                queries=queries,
                law=SamplingLaw(
                    temperature=temperature, top_k=0, top_p=1, min_p=0, do_sample=True, max_new_tokens=max_new_tokens
                ),
                first_draw=0,
                num_draws=arguments.num_draws,
                seed=42,
                dtype="bf16" if dtype == "bf16" else "fp32",
                sampler="tree",
                min_probability=None,
                generation_batch_size=32,
            )
            tree = sample_tree(loaded, unit)
            others = (
                sample_independently(loaded, unit),
                sample_tree(loaded, replace(unit, generation_batch_size=1)),
                sample_tree(loaded, unit, SMALL_BUDGET_BYTES),
            )
            counts = [num_different(tree, other) for other in others]
            table.add_row(dtype, f"{temperature}", *map(str, counts))
            num_different_in_fp64 += sum(counts) if dtype == "fp64" else 0
    Console().print(table)
    if num_different_in_fp64:
        raise SystemExit(f"{num_different_in_fp64} draws differ in fp64: something other than rounding does, too")


if __name__ == "__main__":
    main()
