"""The experiment directory: its name and its files."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalgen.config import JobConfig
from evalgen.dataset_files import CALIBRATION_FILE, LEFT_OUT_FILE, PARTIAL, PROMPTS_FILE, REJECTS_FILE
from evalgen.errors import ConfigError
from evalgen.files import JsonListWriter, sync, whole_directory, write_json, write_text
from evalgen.parquet_rows import ParquetRowsWriter
from evalgen.plan_file import PLAN_FILE, check_same_prompts, plan_record, with_graders
from evalgen.resume import CONFIG_FILE

if TYPE_CHECKING:
    from evalgen.assembly import AssembledDataset
    from evalgen.job import DatasetPlan


@dataclass(frozen=True)
class Experiment:
    """`outputs/<stamp>_<5 alnum>_<experiment name>/` and what lies in it."""

    directory: Path

    @classmethod
    def named(cls, config: JobConfig) -> Experiment:
        """One with a name of its own, of which there is nothing yet."""
        stamp = datetime.now(UTC).strftime("%Y_%m_%d_%H-%M-%S")
        code = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(5))
        return cls(Path(config.output_dir) / f"{stamp}_{code}_{config.experiment_name}")

    def make_directory(self) -> None:
        """Raises `ConfigError` where the directory cannot be made."""
        try:
            self.directory.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"output_dir: cannot make {self.directory}: {error.strerror}") from None

    @contextmanager
    def begun(self, config: JobConfig, plans: Sequence[DatasetPlan]) -> Iterator[None]:
        """A block in which this job and no other works in the directory.

        Writes `config.json`, from which the job can be run again, and `plan.json`, by which a resumed one is checked,
        with the graders as their files have them now. Until `write_summary` the directory is marked as unfinished: its
        datasets and figures may be those of an earlier part of the job, which had other settings.

        Raises:
            ConfigError: another job works there.
            InputError: the directory was begun with other prompts.
        """
        with self._locked(fcntl.LOCK_EX):
            plan_file, plan = self.directory / PLAN_FILE, plan_record(plans)
            if plan_file.exists():
                check_same_prompts(json.loads(plan_file.read_text(encoding="utf-8")), plan, str(self.directory))
            write_text(self.unfinished_mark, "")  # first, or a kill might leave new settings beside old datasets
            write_json(self.directory / CONFIG_FILE, _with_commits(config, plans))
            write_json(plan_file, with_graders(plan, plans))
            for directory in (self.datasets, self.samples, self.verdicts):
                directory.mkdir(exist_ok=True)
            yield

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """A block in which no job works in the directory. Nothing is written, and any number may read.

        Raises:
            ConfigError: a job works there.
        """
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other process is at work in the directory, or reads it.

        Raises:
            ConfigError: one is.
        """
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        """The lock goes with the process, whatever ends it."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another job is at work in {self.directory}; let it end, or stop it") from None
            yield
        finally:
            os.close(descriptor)

    @property
    def log_file(self) -> Path:
        return self.directory / "experiment.log"

    @property
    def page(self) -> Path:
        """The report, for people."""
        return self.directory / "report.html"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"

    @property
    def unfinished_mark(self) -> Path:
        """A file that is there from when a job begins until its figures are written."""
        return self.directory / "unfinished"

    @property
    def unsampled_units(self) -> Path:
        """What the job has to sample, while it does."""
        return self.directory / "unsampled_units.jsonl"

    @property
    def verdicts(self) -> Path:
        return self.directory / "verdicts"

    @property
    def datasets(self) -> Path:
        return self.directory / "sampled_eval_datasets"

    @property
    def earlier_datasets(self) -> Path:
        """Whole datasets of an earlier part of the job that have a partial one in their place now."""
        return self.directory / "earlier_datasets"

    def earlier_verdicts(self) -> list[Path]:
        """The verdict files of the other experiments in the output directory, journals of stopped ones included."""
        files = sorted(self.directory.parent.glob("*/verdicts/*"))
        return [file for file in files if file.parent != self.verdicts]

    def write_dataset(
        self,
        name: str,
        parts: Iterable[AssembledDataset],
        missing: Sequence[Mapping[str, Any]] = (),
        then: Callable[[Path], None] = lambda directory: None,
    ) -> Path:
        """Writes one dataset, whole or not at all, in place of an older one of its name; `parts` are its rows in order.

        With `missing` prompts, the content of `missing.json`, it is named `.partial`: nobody is to take it for whole.
        An older one that is whole goes to `earlier_datasets` then: who selects by name must not get both.
        `then` writes what else belongs into its directory, in which by then everything of `parts` is.
        """
        partial = self.datasets / f"{name}{PARTIAL}"
        path = partial if missing else self.datasets / name
        with whole_directory(path) as directory:
            _write_parts(directory, parts)
            if missing:
                write_json(directory / "missing.json", missing)
            for calibration in (partial / CALIBRATION_FILE, self.datasets / name / CALIBRATION_FILE):
                if calibration.is_file():  # of the dataset whose place this one takes: it may have cost money
                    shutil.copyfile(calibration, directory / CALIBRATION_FILE)
            then(directory)
        earlier = self.earlier_datasets / name
        if not missing:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(earlier, ignore_errors=True)
            with suppress(OSError):  # others are in it, or it is not there
                self.earlier_datasets.rmdir()
        elif (self.datasets / name).exists():
            shutil.rmtree(earlier, ignore_errors=True)
            self.earlier_datasets.mkdir(exist_ok=True)
            (self.datasets / name).rename(earlier)
            for directory in (self.datasets, self.earlier_datasets, self.directory):
                sync(directory)
        return path

    def write_summary(self, config: JobConfig, summary: dict[str, Any]) -> None:
        """`summary.json`, and `experiment_log.json` in the form of the runs that we read."""
        self._write_json("summary.json", summary)
        self._write_json(
            "experiment_log.json",
            {
                "experiment_name": config.experiment_name,
                "experiment_output_dir": str(self.directory),
                "args": config.resolved(),
                "history": [],
                "log_dict": summary,
            },
        )
        self.unfinished_mark.unlink(missing_ok=True)

    def _write_json(self, name: str, content: Any) -> None:
        write_json(self.directory / name, content)


def _with_commits(config: JobConfig, plans: Sequence[DatasetPlan]) -> dict[str, Any]:
    """The job as JSON values, each hub id with the commit of its plans: so it is resumed, run again and verified."""
    commits = {plan.settings.data_model_path: plan.checkpoint.path for plan in plans if plan.checkpoint.source.commit}
    resolved = config.resolved()
    for settings in (resolved, *resolved["runs"]):
        path = settings.get("data_model_path")
        if path in commits:
            settings["data_model_path"] = commits[path]
    return resolved


def _write_parts(directory: Path, parts: Iterable[AssembledDataset]) -> None:
    # Here: it takes seconds, and most that know where an experiment's files are write no dataset.
    from evalgen.eval_dataset import FEATURES, EvalDatasetWriter
    from evalgen.prompt_figures import PROMPTS_SCHEMA

    left_out_file = directory / LEFT_OUT_FILE
    with (
        EvalDatasetWriter(directory) as dataset,
        ParquetRowsWriter(directory / REJECTS_FILE, FEATURES.arrow_schema) as rejects,
        ParquetRowsWriter(directory / PROMPTS_FILE, PROMPTS_SCHEMA) as prompts,
        JsonListWriter(directory / "non_equivalent_completions.json") as non_equivalent,
        JsonListWriter(left_out_file) as left_out,
    ):
        for part in parts:
            dataset.write_rows(part.rows)
            rejects.write(part.rejects)
            prompts.write([asdict(prompt) for prompt in part.prompts])
            non_equivalent.write(part.non_equivalent)
            left_out.write(part.left_out)
    if not left_out.num_rows:
        left_out_file.unlink()
