"""Whether a dataset is what it says, checked by whoever reads it: rows, counts, weights, log-probs. Starts no Ray.

    python ray_jobs/verify_dataset.py outputs/2026_01_21_10-00-00_a1B2c_sampled_mayors

Exit codes: 0 all that could be checked held; 1 something did not; 2 the input is wrong; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evalgen.command_line import CommandSettings, checked_settings, parse_flags
from evalgen.config_files import absolute_path
from evalgen.errors import ConfigError, JobStopped
from evalgen.job_log import without_log
from evalgen.printable import printable
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.paths import path_root

if TYPE_CHECKING:
    from rich.text import Text

    from evalgen.verification.findings import Finding

STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


class VerificationConfig(CommandSettings):
    """Check everything about a dataset that can be checked; one line for each check, with the first rows at fault."""

    directory: str = Field(
        description="a dataset (.../sampled_eval_datasets/<name>), or an experiment, whose datasets are all checked; "
        "the flag may be left out if it comes first"
    )
    checkpoint: str | None = Field(
        None,
        description="directory or hub id of the checkpoint that was sampled; null: where config.json says it was",
    )
    tokenizer: str | None = Field(None, description="directory of its tokenizer; null: that of the run or checkpoint")
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="in which log-probs are computed again")
    recompute: bool = Field(True, description="false: load no model, and leave log-probs unchecked by it")
    tolerance: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="nats by which the logprob of a row may differ from the model's; null: 1e-4 where sampled and "
        "computed in fp32, else 0.25 and 0.125 for each of its tokens, as far as bf16 rounds logits",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Verifies what the command line says; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    nothing = "interrupted; nothing was written"
    return exit_code_of(lambda: verify(load_verification(arguments, path_root())), if_interrupted=nothing)


def load_verification(argv: Sequence[str], root: Path) -> VerificationConfig:
    """What `argv` (without the program's name) asks for, every path absolute; `--help` prints the flags and exits.

    Raises:
        ConfigError: unknown flag, value out of range, no directory.
    """
    settings: dict[str, Any] = dict(parse_flags(argv, VerificationConfig, "verify_dataset.py", first="directory"))
    if "directory" not in settings:
        raise ConfigError("directory: missing; give a dataset, or the directory of an experiment")
    for name in ("directory", "checkpoint", "tokenizer"):
        if name in settings:
            settings[name] = absolute_path(settings[name], root, may_be_hub_id=name != "directory")
    return checked_settings(VerificationConfig, settings)


def verify(config: VerificationConfig) -> None:
    """Every stage in order.

    Raises:
        UserError: the input is wrong.
        JobStopped: a check failed.
    """
    from evalgen.verification.evidence import dataset_directories, gather

    directories = dataset_directories(Path(config.directory))
    if config.checkpoint and len(directories) > 1:
        raise ConfigError(f"checkpoint: given for {len(directories)} datasets; give the directory of one of them")
    # Here, so that --help and the errors of a user do not wait for it.
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from evalgen.verification.dataset import verify_dataset

    disable_progress_bar()
    console, failed = Console(), []
    for directory in directories:
        with without_log():  # what is to be said of the run's prompts, its job has said
            evidence = gather(directory, config.checkpoint, config.tokenizer)
        console.print(directory.name, soft_wrap=True, markup=False, highlight=False)
        findings = verify_dataset(evidence, config.dtype, config.recompute, config.tolerance)
        for line in finding_lines(findings, console.encoding):
            console.print(line, soft_wrap=True, highlight=False)
        failed += [f"{directory.name}: {it.check}" for it in findings if it.outcome == "failed"]
    if failed:
        raise JobStopped(f"{len(failed)} checks failed: {'; '.join(failed)}")


def finding_lines(findings: Sequence[Finding], encoding: str) -> Iterator[Text]:
    """A line for each check, and one that counts them. Ids and texts may have characters that a terminal lacks."""
    from rich.text import Text

    for finding in findings:
        note = printable(finding.note).encode(encoding, "backslashreplace").decode(encoding)
        yield Text.assemble("  ", (f"{finding.outcome:<8}", STYLES[finding.outcome]), f" {finding.check:<16}  {note}")
    counts = {outcome: sum(finding.outcome == outcome for finding in findings) for outcome in STYLES}
    yield Text(f"{counts['ok']} checks held, {counts['failed']} failed, {counts['skipped']} were skipped")


if __name__ == "__main__":
    sys.exit(main())
