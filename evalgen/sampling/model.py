"""A causal language model as the samplers see it: weights, the tokens that end a draw, the ids that can be drawn."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from evalgen.errors import EvalgenError, InputError, LoadFailed
from evalgen.records import Checkpoint, SamplingUnit
from evalgen.rotations import check_rotations
from evalgen.sampling.freed_memory import keep_freed_memory
from evalgen.sampling.out_of_memory import is_out_of_memory
from evalgen.sampling.packed_linear import pack_linears
from evalgen.sampling.prefixes import Footprint, footprint_of
from evalgen.tokenization import check_vocabulary, encode_prompt, load_tokenizer

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SPREAD: Literal["balanced"] = "balanced"  # the layers over all GPUs that the process sees, as evenly as they go
Device = torch.device | Literal["balanced"]
READ_AHEAD_BYTES = 2**17  # for one call: Linux reads no more ahead than a device's window, whatever it is asked for


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint on a device, ready to sample."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]  # a draw ends with any of them
    undrawable: Tensor  # ids that the model has logits for and the tokenizer lacks
    num_logits: int
    footprint: Footprint

    @property
    def device(self) -> torch.device:
        """Where ids go in and logits come out."""
        return self.undrawable.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All that hold layers."""
        return tuple({parameter.device for parameter in self.model.parameters()})


def load_model(checkpoint: Checkpoint, dtype: str, device: Device) -> LoadedModel:
    """The checkpoint's weights (safetensors only, no remote code) in `dtype`, read straight to `device`.

    Raises:
        InputError: the weights are damaged, the tokenizer has ids that the model lacks, or the model keeps what it has
            read in a form that cannot be re-indexed.
        LoadFailed: they cannot be read here, or find no room.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.source.name,
            revision=checkpoint.source.revision,
            dtype=TORCH_DTYPES[dtype],
            device_map=device,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
            raise  # the device is broken, whatever is loaded
        may_pass = isinstance(error, OSError) or is_out_of_memory(error)
        kind: type[EvalgenError] = LoadFailed if may_pass else InputError
        raise kind(f"checkpoint {checkpoint.path} cannot be loaded: {' '.join(str(error).split())}") from error
    model, report = loaded
    # transformers fills what is missing with random numbers, and goes on.
    wanting = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wanting:
        raise InputError(f"checkpoint {checkpoint.path} lacks {len(wanting)} of the model's tensors: {wanting[0]}, ...")
    try:
        tokenizer = load_tokenizer(checkpoint.tokenizer_path)
    except InputError as error:  # the driver has read it: this node does not see it
        raise LoadFailed(str(error)) from error
    num_embeddings = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    check_vocabulary(tokenizer, num_embeddings, checkpoint)
    return ready_to_sample(model, tokenizer, _eos_ids(model, tokenizer))


def ready_to_sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_ids: Iterable[int]) -> LoadedModel:
    """A model and its tokenizer, with what the samplers need to know of them.

    On a CPU the model's layers are packed, and the process keeps the memory that it frees.

    Raises:
        InputError: the model keeps what it has read in a form that cannot be re-indexed.
    """
    if model.device.type == "cpu":
        keep_freed_memory()
    model.train(False)
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # transformers 5.17 has another for these, which leaves the softcap out
    num_logits = cast(Tensor, model.get_output_embeddings().weight).shape[0]
    has_token = torch.zeros(num_logits, dtype=torch.bool)
    has_token[[token for token in tokenizer.get_vocab().values() if token < num_logits]] = True
    pack_linears(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        eos_ids=frozenset(eos_ids),
        undrawable=(~has_token).nonzero()[:, 0].to(model.device),
        num_logits=num_logits,
        footprint=footprint_of(model),
    )


def encoded_prompts(loaded: LoadedModel, unit: SamplingUnit) -> list[list[int]]:
    """The token ids of each prompt of `unit`.

    Raises:
        InputError: a prompt and its completion may be of two lengths that LongRoPE rotates differently.
    """
    prompts = [encode_prompt(loaded.tokenizer, query.prompt) for query in unit.queries]
    for query, prompt in zip(unit.queries, prompts, strict=True):
        check_rotations(query.id, len(prompt), unit.law.max_new_tokens, loaded.footprint.rotation_changes)
    return prompts


def read_ahead(path: str) -> None:
    """Has the system read the weights of checkpoint `path` into its file cache.

    A hub id, or a directory that this node does not see, is left for `load_model` to complain about.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for weights in sorted(Path(path).glob("*.safetensors")):
        with suppress(OSError), open(weights, "rb") as file:
            for start in range(0, os.fstat(file.fileno()).st_size, READ_AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """From the generation config, else the model's, else the tokenizer's."""
    candidates: list[Any] = [getattr(model.generation_config, "eos_token_id", None)]
    candidates += [getattr(model.config, "eos_token_id", None), tokenizer.eos_token_id]
    eos: int | list[int] = next((c for c in candidates if c is not None), [])
    return frozenset(eos if isinstance(eos, list) else [eos])
