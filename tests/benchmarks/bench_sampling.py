"""Times the tree sampler against the usual way, `generate(num_return_sequences=n)`, on one checkpoint in one run.

    make bench        (after `make demo`, whose checkpoint it samples)

Both sample the same prompts under the same law; weights are loaded and both are warmed up before the clock starts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from evalgen.queries import collect_queries
from evalgen.records import Checkpoint, Query, SamplingLaw, SamplingUnit
from evalgen.runs import find_inner_runs
from evalgen.sampling.model import LoadedModel, load_model
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt

REGIMES = ((0.1, 5), (0.3, 10), (1.0, 10))  # temperature, max_new_tokens
PROMPTS_AT_A_TIME = 2  # as the seed document's commands


def unit_of(checkpoint: Checkpoint, queries: tuple[Query, ...], law: SamplingLaw, num_draws: int) -> SamplingUnit:
    return SamplingUnit(
        id="benchmark",
        dataset="benchmark",
        checkpoint=checkpoint,
        queries=queries,
        law=law,
        first_draw=0,
        num_draws=num_draws,
        seed=42,
        dtype="fp32",
        sampler="tree",
        generation_batch_size=32,
    )


@torch.inference_mode()
def sample_with_generate(loaded: LoadedModel, unit: SamplingUnit) -> None:
    """One row per draw, prompts of one length batched together so that nothing is padded."""
    prompts = sorted((encode_prompt(loaded.tokenizer, query.prompt) for query in unit.queries), key=len)
    while prompts:
        batch = [ids for ids in prompts[:PROMPTS_AT_A_TIME] if len(ids) == len(prompts[0])]
        prompts = prompts[len(batch) :]
        loaded.model.generate(
            input_ids=torch.tensor(batch),
            attention_mask=torch.ones(len(batch), len(batch[0]), dtype=torch.long),
            do_sample=True,
            temperature=unit.law.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=unit.law.max_new_tokens,
            num_return_sequences=unit.num_draws,
            pad_token_id=loaded.tokenizer.pad_token_id,
        )


def seconds(sample: Callable[[], object]) -> float:
    start = time.perf_counter()
    sample()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="outputs/2026_01_20_23-26-34_wabZw_mayors_1epoch")
    parser.add_argument("--eval_dataset", default="name_mayor_eval_qa_1_no_fs")
    parser.add_argument("--num_generations", type=int, default=1000)
    arguments = parser.parse_args()
    (run,) = find_inner_runs(str(Path(arguments.run).resolve()), ("checkpoint_final",))
    queries = collect_queries(None, run.eval_datasets, (arguments.eval_dataset,))
    loaded = load_model(run.checkpoints[0], "fp32", torch.device("cpu"))
    parameters = sum(p.numel() for p in loaded.model.parameters()) / 1e6
    table = Table(
        title=f"{len(queries)} prompts x {arguments.num_generations} draws, {parameters:.1f} M parameters, fp32, "
        f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    )
    for heading in ("temperature", "tokens", "generate", "tree", "ratio", "distinct completions", "model evaluations"):
        table.add_column(heading, justify="right")
    for temperature, max_new_tokens in REGIMES:
        law = SamplingLaw(
            temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, do_sample=True, max_new_tokens=max_new_tokens
        )
        warm_up = unit_of(run.checkpoints[0], queries[:2], law, 10)
        sample_with_generate(loaded, warm_up)
        sample_tree(loaded, warm_up)
        unit = unit_of(run.checkpoints[0], queries, law, arguments.num_generations)
        usual_s = seconds(lambda unit=unit: sample_with_generate(loaded, unit))  # type: ignore[misc]
        ours_s = seconds(lambda unit=unit: sample_tree(loaded, unit))  # type: ignore[misc]
        result = sample_tree(loaded, unit)
        table.add_row(
            f"{temperature}",
            f"{max_new_tokens}",
            f"{usual_s:.2f} s",
            f"{ours_s:.2f} s",
            f"{usual_s / ours_s:.0f}x",
            f"{len(result.sequences):,}",
            f"{result.model_evaluations:,}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
