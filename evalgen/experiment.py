"""The experiment directory: its name and its files."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalgen.assembly import AssembledDataset
from evalgen.config import JobConfig
from evalgen.errors import ConfigError
from evalgen.eval_dataset import EvalDataset
from evalgen.files import whole_directory, write_text


@dataclass(frozen=True)
class Experiment:
    """`outputs/<stamp>_<5 alnum>_<experiment name>/` and what lies in it."""

    directory: Path

    @classmethod
    def create(cls, config: JobConfig) -> Experiment:
        """Makes the directory and writes `config.json`, from which the job can be run again.

        Raises:
            ConfigError: the directory cannot be made.
        """
        stamp = datetime.now(UTC).strftime("%Y_%m_%d_%H-%M-%S")
        code = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(5))
        directory = Path(config.output_dir) / f"{stamp}_{code}_{config.experiment_name}"
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"output_dir: cannot make {directory}: {error.strerror}") from None
        experiment = cls(directory)
        experiment._write_json("config.json", config.resolved())
        experiment.datasets.mkdir()
        experiment.samples.mkdir()
        experiment.verdicts.mkdir()
        return experiment

    @property
    def log_file(self) -> Path:
        return self.directory / "experiment.log"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"

    @property
    def verdicts(self) -> Path:
        return self.directory / "verdicts"

    @property
    def datasets(self) -> Path:
        return self.directory / "sampled_eval_datasets"

    def earlier_verdicts(self) -> list[Path]:
        """The verdict files of the other experiments in the output directory, journals of stopped ones included."""
        files = sorted(self.directory.parent.glob("*/verdicts/*"))
        return [file for file in files if file.parent != self.verdicts]

    def write_dataset(self, name: str, assembled: AssembledDataset) -> Path:
        """Writes one dataset, whole or not at all."""
        path = self.datasets / name
        with whole_directory(path) as directory:
            EvalDataset.from_rows(assembled.rows).save(directory)
            _write_json(directory / "non_equivalent_completions.json", assembled.non_equivalent)
            if assembled.left_out:
                _write_json(directory / "left_out.json", assembled.left_out)
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

    def _write_json(self, name: str, content: Any) -> None:
        _write_json(self.directory / name, content)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
