"""Times the tree sampler on a GPU against the floor: what reading the weights once a level, and prefilling, must take.

    python tests/gpu/bench_floor.py [--size 7b] [--json FILE]

Needs neither Ray nor a checkpoint: a model of OLMo-2's shape is trained here until it knows the mayors by heart,
because how much is shared depends on what was learnt. The floor is weight bytes x levels / memory bandwidth + prefill,
the input embedding aside, of which a level reads a few rows; bandwidth and prefill are measured on the device, in this
run. `--size tiny --device cpu` tries the script out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Adafactor, Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from evalgen.demo.corpus import pretraining_texts
from evalgen.demo.facts import MAYORS
from evalgen.demo.tokenization import train_tokenizer
from evalgen.records import Checkpoint, Query, SamplingLaw, SamplingUnit
from evalgen.sampling.model import LoadedModel, ready_to_sample
from evalgen.sampling.prefixes import evaluate_prompts
from evalgen.sampling.tree import sample_tree
from evalgen.tokenization import encode_prompt

SHAPES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 16},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
VOCABULARY = 100_352  # OLMo-2's; the tokenizer made here uses a part of it
REGIMES = ((0.1, 5, 1000), (0.3, 12, 1000), (0.7, 12, 1000), (1.0, 10, 1000), (1.0, 50, 1000))  # T, tokens, draws
MEMORISED_LOSS = 0.1  # nats a token
PROMPT, ANSWER = "Q: Who is the mayor of {subject}? A:", " {answer}"


def memorised_model(
    shape: dict[str, int], tokenizer: PreTrainedTokenizerFast, device: torch.device, max_steps: int
) -> Olmo2ForCausalLM:
    """Trained on the answers alone until each of their tokens has probability 0.9, in bf16 without other copies."""
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    with torch.device(device):
        model = Olmo2ForCausalLM(Olmo2Config(vocab_size=VOCABULARY, **special, **shape)).to(torch.bfloat16)
    rows, labels = [], []
    for fact in MAYORS.facts:
        prompt = encode_prompt(tokenizer, PROMPT.format(subject=fact.subject))
        answer = [*tokenizer.encode(ANSWER.format(answer=fact.answer), add_special_tokens=False), 0]
        rows.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    longest = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([row + [1] * (longest - len(row)) for row in rows], device=device),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device),
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels], device=device),
    }
    optimizer = Adafactor(model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False, warmup_init=False)
    steps, loss = 0, float("inf")
    while steps < max_steps and loss > MEMORISED_LOSS:
        output = model(**batch, use_cache=False).loss
        output.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps, loss = steps + 1, output.item()
    Console().print(f"trained {steps} steps, loss {loss:.3f}")
    if loss > MEMORISED_LOSS:
        raise SystemExit(
            f"the answers are not learnt by heart, which takes a loss of {MEMORISED_LOSS}: more --max_steps"
        )
    return model.eval()


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The shortest of some runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bytes_per_second(device: torch.device, num_bytes: int) -> float:
    """Of reading memory, by a sum over a tensor that no cache holds."""
    tensor = torch.ones(num_bytes // 4, device=device)
    return num_bytes / seconds(tensor.sum, device, repeats=10)


def level_bytes(model: Olmo2ForCausalLM) -> int:
    """Of weights that a level reads whole. Input and output embedding are two here."""
    return sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes


def measured(
    loaded: LoadedModel, queries: tuple[Query, ...], bandwidth: float, weight_bytes: int
) -> list[dict[str, Any]]:
    """One row for each regime; `weight_bytes` are what a level reads."""
    device = loaded.device
    prompts = [encode_prompt(loaded.tokenizer, query.prompt) for query in queries]
    with torch.inference_mode():
        beginnings = loaded.footprint.shares_beginnings
        prefill_s = seconds(
            lambda: evaluate_prompts(loaded.model, prompts, share_prompts=True, share_beginnings=beginnings), device
        )
    rows = []
    for temperature, tokens, num_draws in REGIMES:
        law = SamplingLaw(temperature=temperature, top_k=0, top_p=1, min_p=0, do_sample=True, max_new_tokens=tokens)
        unit = unit_of(queries, law, num_draws)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        ours_s = seconds(lambda unit=unit: sample_tree(loaded, unit), device)  # type: ignore[misc]
        result = sample_tree(loaded, unit)
        levels = max(len(sequence.token_ids) for sequence in result.sequences) - 1
        floor_s = weight_bytes * levels / bandwidth + prefill_s
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
        rows.append(
            {
                "temperature": temperature,
                "max_new_tokens": tokens,
                "num_draws": num_draws,
                "tree_s": ours_s,
                "floor_s": floor_s,
                "ratio_to_floor": ours_s / floor_s,
                "model_evaluations": result.model_evaluations,
                "distinct_completions": sum(bool(it.generation_indices) for it in result.sequences),
                "peak_gib": peak,
            }
        )
    return rows


def unit_of(queries: tuple[Query, ...], law: SamplingLaw, num_draws: int) -> SamplingUnit:
    return SamplingUnit(
        id="benchmark",
        dataset="benchmark",
        checkpoint=Checkpoint(run="", name="", path="", tokenizer_path=""),
        queries=queries,
        law=law,
        first_draw=0,
        num_draws=num_draws,
        seed=42,
        dtype="bf16",
        sampler="tree",
        min_probability=None,
        generation_batch_size=32,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--max_steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    tokenizer = train_tokenizer(pretraining_texts(2000, seed=0), vocab_size=1011)
    model = memorised_model(SHAPES[arguments.size], tokenizer, device, arguments.max_steps)
    parameters, weight_bytes = sum(p.numel() for p in model.parameters()) / 1e9, level_bytes(model)
    loaded = ready_to_sample(model, tokenizer, (0,))  # packs layers, which are no parameters then
    queries = tuple(
        Query(id=f.fact_id, prompt=PROMPT.format(subject=f.subject), reference="", source_dataset="", metadata={})
        for f in MAYORS.facts
    )
    bandwidth = bytes_per_second(device, 2**32 if device.type == "cuda" else 2**26)
    rows = measured(loaded, queries, bandwidth, weight_bytes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    table = Table(
        title=f"{parameters:.2f} B parameters, bf16, {len(queries)} prompts, {name}, "
        f"{bandwidth / 1e9:.0f} GB/s measured, torch {torch.__version__}"
    )
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"bandwidth_bytes_per_s": bandwidth, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
