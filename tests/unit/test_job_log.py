"""The log of a job tells how it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalgen.errors import JobStopped
from evalgen.job_log import JobLog


@pytest.mark.parametrize(
    ("error", "line"),
    [(JobStopped("the judge is gone"), "ERROR the judge is gone"), (KeyboardInterrupt(), "ERROR KeyboardInterrupt")],
)
def test_the_last_line_says_why_a_job_ended(error: BaseException, line: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.log"
    with pytest.raises(type(error)), JobLog() as job_log:
        job_log.open(path, to_stdout=False)
        raise error
    assert path.read_text().splitlines()[-1].endswith(line)
