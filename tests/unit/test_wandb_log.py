"""What `--logging_type wandb` logs, with the real wandb and no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalgen.config import JobConfig
from evalgen.experiment import Experiment
from evalgen.wandb_log import log_to_wandb


def test_a_job_is_logged_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = JobConfig(data_model_path="run", output_dir=str(tmp_path), logging_type="wandb", wandb_project="evalgen")
    experiment = Experiment.create(config)
    summary = {"datasets": [{"name": "sampled_x", "num_draws": 10}], "timings": {"total": 1.5}}
    log_to_wandb(config, experiment, summary)
    assert not caplog.messages  # it warns where it cannot log
    (logged,) = experiment.directory.glob("wandb/offline-run-*/run-*.wandb")
    content = logged.read_bytes()
    assert b"timings/total_s" in content
    assert experiment.directory.name.encode() in content
    (table,) = experiment.directory.glob("wandb/offline-run-*/files/media/table/datasets_*.table.json")
    assert "sampled_x" in table.read_text()
