"""A dataset in another form, for readers that want it so; the dataset itself stays as it is. Starts no Ray.

    python ray_jobs/export_dataset.py outputs/<experiment>/sampled_eval_datasets/<name> --to padded --output padded_set

Exit codes: 0 done; 1 it could not be written; 2 the input is wrong, and nothing was created; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evalgen.command_line import CommandSettings, checked_settings, parse_flags
from evalgen.config_files import absolute_path, without_tilde
from evalgen.errors import ConfigError, JobStopped
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.paths import path_root


class ExportConfig(CommandSettings):
    """Write a dataset in another form, rows in the same order, into a new directory."""

    directory: str = Field(
        description="a dataset (.../sampled_eval_datasets/<name>); the flag may be left out if it comes first"
    )
    to: Literal["padded", "three_column", "jsonl", "datasets3"] = Field(
        description="padded: as source eval sets are, on the right, with labels -100 and mask 0; three_column: "
        "input_ids, labels and attention_mask alone; jsonl: rows.jsonl, an object a line; datasets3: a copy that "
        "datasets 3.x loads, as later ones do. All but jsonl are an eval_dataset/ with its functions beside it"
    )
    output: str = Field(description="directory to make; there must be none")
    max_length: int | None = Field(
        None, gt=0, description="tokens of every row of --to padded; null: as many as the longest has"
    )
    pad_id: int | None = Field(
        None, ge=0, description="id to pad with; null: the tokenizer's, or its EOS, or 0 without one; the mask hides it"
    )
    tokenizer: str | None = Field(None, description="directory of a tokenizer, for its padding id")


def main(argv: Sequence[str] | None = None) -> int:
    """Exports what the command line says; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    nothing = "interrupted; nothing was written"
    return exit_code_of(lambda: export(load_export(arguments, path_root())), if_interrupted=nothing)


def load_export(argv: Sequence[str], root: Path) -> ExportConfig:
    """What `argv` (without the program's name) asks for, every path absolute; `--help` prints the flags and exits.

    Raises:
        ConfigError: unknown flag, one that is missing or plays no part, no dataset, or an output that is there already.
    """
    settings: dict[str, Any] = dict(parse_flags(argv, ExportConfig, "export_dataset.py", first="directory"))
    for name in ("directory", "to", "output"):
        if name not in settings:
            raise ConfigError(f"{name}: missing; give --{name}, or --help for what there is")
    for name in ("directory", "tokenizer"):
        if name in settings:
            settings[name] = absolute_path(settings[name], root, may_be_hub_id=name == "tokenizer")
    settings["output"] = os.path.abspath(root / without_tilde(settings["output"]))
    config = checked_settings(ExportConfig, settings)
    of_padding = [name for name in ("max_length", "pad_id", "tokenizer") if getattr(config, name) is not None]
    if of_padding and config.to != "padded":
        raise ConfigError(f"{of_padding[0]}: found with --to {config.to}, which pads nothing; leave it out")
    if not Path(config.directory, "eval_dataset").is_dir():
        raise ConfigError(
            f"{config.directory} is no dataset: it has no eval_dataset/; give .../sampled_eval_datasets/<name>"
        )
    _check_output(Path(config.output), Path(config.directory))
    return config


def export(config: ExportConfig) -> None:
    """Every stage in order.

    Raises:
        UserError: the input is wrong; nothing was created.
        JobStopped: the files could not be written.
    """
    # Here, so that --help and the errors of a user do not wait for it.
    from datasets import disable_progress_bars

    from evalgen.export import Export, export_dataset
    from evalgen.plain_lines import print_lines

    disable_progress_bars()
    form = Export(form=config.to, max_length=config.max_length, pad_id=_pad_id(config))
    try:
        num_rows = export_dataset(Path(config.directory), Path(config.output), form)
    except OSError as error:
        raise JobStopped(f"cannot write {config.output}: {error.strerror or error}") from None
    print_lines([f"{num_rows:,} rows: {config.output}"])


def _check_output(output: Path, source: Path) -> None:
    if output.exists():
        raise ConfigError(f"output: {output} is there already, and nothing is overwritten; give another name")
    if output.is_relative_to(source):
        raise ConfigError(f"output: {output} lies in the dataset itself; give a place outside of it")
    parent = next(parent for parent in output.parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"output: {parent} is no directory that can be written to")


def _pad_id(config: ExportConfig) -> int:
    if config.pad_id is not None or config.tokenizer is None:
        return config.pad_id or 0
    from evalgen.tokenization import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer)
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(found) for found in candidates if isinstance(found, int))


if __name__ == "__main__":
    sys.exit(main())
