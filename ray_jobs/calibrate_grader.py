"""How far a grader can be trusted: judges a labelled file, and says where people and grader differ. Starts no Ray.

    python ray_jobs/calibrate_grader.py configs/calibration/death_dates.jsonl \\
      --grader_model offline/date --grader_config_path configs/death_date_grader.json

What a judge that costs money has answered is kept in `<output_dir>/calibration_<file>_<grader>/verdicts/`, whatever
ends the command: run again, it asks only what is left. Jobs in the same output directory use these verdicts, and theirs
are used here.

Exit codes: 0 done; 1 the grader cannot be used or not be paid for any more, or a file not be written; 2 the input is
wrong, and nothing was created or spent; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import Field

from evalgen.command_line import CommandSettings, checked_settings, parse_flags
from evalgen.config import DEFAULT_GRADER_MODEL, JobConfig, NumVotes
from evalgen.config_files import absolute_path, check_writable, without_tilde
from evalgen.errors import ConfigError, JobStopped
from evalgen.grading.grader_config import check_judges, load_grader
from evalgen.grading.labelled_items import read_labelled_items
from evalgen.grading.offline import grade_offline
from evalgen.grading.prices import PriceList, load_prices
from evalgen.job_log import JobLog
from evalgen.records import BATCH_PREFIX, GraderSpec, Question, Verdict
from ray_jobs.exit_codes import exit_code_of
from ray_jobs.paths import path_root

RECORD_FILE = "grader_calibration.json"  # in the directory of a dataset


class CalibrationConfig(CommandSettings):
    """Hold a grader's verdicts against the labels of people: precision, recall, Cohen's kappa, and every mistake."""

    labelled_path: str = Field(
        description="labelled file, whose flag may be left out if it comes first: a JSON object a line, with prompt, "
        "reference, completion, equivalent (true or false) and, if you like, case (a word for what makes it hard). "
        "There are two in configs/calibration/"
    )
    grader_model: str = Field(DEFAULT_GRADER_MODEL, description=JobConfig.model_fields["grader_model"].description)
    grader_config_path: str | None = Field(None, description=JobConfig.model_fields["grader_config_path"].description)
    grader_votes: NumVotes = Field(1, description=JobConfig.model_fields["grader_votes"].description)
    grader_pack_size: int = Field(1, ge=1, le=100, description=JobConfig.model_fields["grader_pack_size"].description)
    max_connections: int = Field(50, gt=0, description="grading requests in flight")
    requests_per_minute: float | None = Field(None, gt=0, description="limit of grading requests")
    max_outage_minutes: float = Field(
        15, gt=0, allow_inf_nan=False, description=JobConfig.model_fields["max_outage_minutes"].description
    )
    max_grading_cost_usd: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="cap on what this grader may cost on files of this name, over all runs until it is asked anew; "
        "there the command stops, and run again with a larger one goes on",
    )
    prices_path: str | None = Field(None, description=JobConfig.model_fields["prices_path"].description)
    use_grader_cache: bool = Field(
        True,
        description="reuse verdicts that output_dir holds for the same question; false: ask all of them anew, or go on "
        "with that where it was stopped",
    )
    output_dir: str = Field(
        "outputs", description="where the verdicts of a judge that costs money are kept, beside those of experiments"
    )
    output: str | None = Field(None, description="JSON file to write all of it to")
    attach_to: tuple[str, ...] = Field(
        (),
        description="dataset directories (.../sampled_eval_datasets/<name>) that this grader judged; each gets the "
        f"JSON as {RECORD_FILE}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrates as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv

    def run() -> None:
        with JobLog(has_file=False):
            calibrate_grader(load_calibration(arguments, path_root()))

    return exit_code_of(run, if_interrupted="interrupted; what is judged is kept: run it again to go on")


def load_calibration(argv: Sequence[str], root: Path) -> CalibrationConfig:
    """What `argv` (without the program's name) asks for, every path absolute; `--help` prints the flags and exits.

    Raises:
        ConfigError: unknown flag, value out of range, no labelled file.
    """
    settings: dict[str, Any] = dict(parse_flags(argv, CalibrationConfig, "calibrate_grader.py", first="labelled_path"))
    if "labelled_path" not in settings:
        raise ConfigError("labelled_path: missing; give a labelled file, such as configs/calibration/mayors.jsonl")
    for name in ("labelled_path", "grader_config_path", "prices_path"):
        if name in settings:
            settings[name] = absolute_path(settings[name], root)
    settings.setdefault("output_dir", "outputs")
    for name in settings.keys() & {"output", "output_dir"}:
        settings[name] = os.path.abspath(root / without_tilde(settings[name]))
    if str(settings.get("grader_model", "")).startswith(BATCH_PREFIX):
        raise ConfigError(f"grader_model: found {settings['grader_model']}; the same judge is anthropic/<model> here")
    settings["attach_to"] = [absolute_path(directory, root) for directory in settings.get("attach_to", ())]
    return checked_settings(CalibrationConfig, settings)


def calibrate_grader(config: CalibrationConfig) -> None:
    """Every stage in order.

    Raises:
        UserError: the input is wrong; nothing was asked or written.
        JobStopped: the judge cannot be used or not be paid for any more, or a file not be written.
    """
    path = Path(config.labelled_path)
    items = read_labelled_items(path)
    targets = [Path(directory) / RECORD_FILE for directory in config.attach_to]
    targets += [Path(config.output)] if config.output else []
    for target in targets:
        _check_writable(target)
    grader = load_grader(config.grader_model, config.grader_config_path, config.grader_votes, config.grader_pack_size)
    prices = load_prices(Path(config.prices_path) if config.prices_path else None)
    if not grader.is_offline:
        check_judges([grader], prices, config.max_grading_cost_usd)
        check_writable(Path(config.output_dir), "output_dir", "give another --output_dir")
    if config.attach_to:
        from evalgen.grading.calibrated_datasets import check_judged_by  # here, as it takes seconds to import

        for directory in config.attach_to:
            check_judged_by(grader, Path(directory))

    from evalgen.files import sha256_of, write_text  # here, so that --help and the errors of a user do not wait for it
    from evalgen.grading.calibration import Calibration, JudgedItem, calibration_record
    from evalgen.grading.calibration_tables import calibration_lines
    from evalgen.plain_lines import print_lines

    digest = sha256_of(path)  # before grading, which may take long enough for the file to be edited
    questions = [item.question(grader) for item in items]
    verdicts = list(map(grade_offline, questions)) if grader.is_offline else _ask(questions, grader, prices, config)
    pairs = zip(items, verdicts, strict=True)
    calibration = Calibration(judged=tuple(JudgedItem(item=item, verdict=verdict) for item, verdict in pairs))
    print_lines(calibration_lines(calibration, f"{grader.model} on {path.name}"))
    if not calibration.confusion.num_graded:
        reason = calibration.judged[0].verdict.error
        raise JobStopped(f"none of the {len(items)} items was graded, and no result was written; the first: {reason}")
    now = datetime.now(UTC)
    record = calibration_record(calibration, grader, labelled_file=path.name, labelled_file_sha256=digest, at=now)
    for target in targets:
        _write(target, record)
    if config.attach_to:
        from evalgen.card import with_calibration
        from evalgen.dataset_files import CARD_FILE

        for card in (Path(directory) / CARD_FILE for directory in config.attach_to):
            if card.is_file():
                write_text(card, with_calibration(card.read_text(encoding="utf-8"), record))


def _ask(
    questions: Sequence[Question], grader: GraderSpec, prices: PriceList, config: CalibrationConfig
) -> list[Verdict]:
    """The verdicts of a judge that costs money, kept in a directory that this grader has for this file."""
    from evalgen.experiment import Experiment
    from evalgen.files import write_text
    from evalgen.grading.grader_digest import grader_digest
    from evalgen.grading.in_process import grade_in_process
    from evalgen.plain_lines import print_lines

    name = f"calibration_{Path(config.labelled_path).stem}_{grader_digest(grader)[:12]}"
    experiment = Experiment(Path(config.output_dir) / name)
    try:
        experiment.directory.mkdir(parents=True, exist_ok=True)
        with experiment.alone():
            mark = experiment.directory / "being_asked_anew"
            if not config.use_grader_cache and not mark.exists():
                _set_aside(experiment.verdicts)
                write_text(mark, "")  # first, before anything is paid for that the next run may take for older
            verdicts = grade_in_process(
                questions,
                experiment.verdicts,
                experiment.earlier_verdicts() if config.use_grader_cache else (),
                prices=prices,
                cap_usd=config.max_grading_cost_usd,
                outage_budget_s=60 * config.max_outage_minutes,
                max_connections=config.max_connections,
                requests_per_minute=config.requests_per_minute,
            )
            mark.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise JobStopped(f"cannot keep verdicts in {experiment.directory}: {reason}; run it again to go on") from None
    print_lines([f"Verdicts: {experiment.verdicts}", ""])
    return verdicts


def _set_aside(verdicts: Path) -> None:
    """Nothing paid for is deleted."""
    if verdicts.exists():
        names = (verdicts.with_name(f"{verdicts.name}_{number}") for number in count(1))
        verdicts.rename(next(path for path in names if not path.exists()))


def _check_writable(target: Path) -> None:
    if target.is_dir():
        raise ConfigError(f"output: {target} is a directory; give a file's name")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{target.parent} is no directory that can be written to; {target.name} was to go there")


def _write(target: Path, record: dict[str, Any]) -> None:
    from evalgen.files import write_json

    try:
        write_json(target, record)
    except OSError as error:
        raise JobStopped(f"cannot write {target}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
