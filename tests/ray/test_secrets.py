"""The key of the judge's account is nowhere to be read: a submitted job, and everything that others see of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

import pytest

from tests.ray.submission import KEY, MODEL, SubmittedJob

# By place, what this job has surely left there: without it nothing was looked at.
MARKS = {
    "process list": "generate_eval_datasets.py --data_model_path .* --output_dir outputs ",
    "submission's output": "Grading statistics(?s:.*){experiment}",
    "dashboard in mid-run": '"job_id": "{job_id}", "name": "evalgen grading actor 0 of ',
    "dashboard": '"job_id": "{job_id}", "name": "evalgen grading actor 0 of ',
    "metrics in mid-run": r'ray_evalgen_units_planned\{{[^}}]*JobId="{job_id}"',
    "metrics": r'ray_evalgen_requests_total\{{[^}}]*JobId="{job_id}"',
    "experiment": f"'grader': '{MODEL}'",  # as the rows of its verdicts have it
    "Ray's directory": "actor_id=[0-9a-f]{{24}}{job_id} ",
}


def is_in(content: bytes) -> bool:
    return any(form in content for form in forms_of_key())


def forms_of_key() -> Iterable[bytes]:
    """As it is, and as base64 has it wherever it begins in what was encoded."""
    yield KEY.encode()
    for before in range(3):
        encoded = base64.b64encode(b"." * before + KEY.encode())
        yield encoded[4:-4]  # the ends depend on what is beside it


@pytest.mark.parametrize("place", MARKS)
def test_the_key_is_not_to_be_read(submitted_job: SubmittedJob, place: str) -> None:
    experiment = re.escape(str(submitted_job.experiment.path))
    mark = MARKS[place].format(job_id=submitted_job.job_id, experiment=experiment)
    assert re.search(mark.encode(), submitted_job.places[place])
    assert not is_in(submitted_job.places[place])


def test_the_search_finds_a_key_where_there_is_one(submitted_job: SubmittedJob) -> None:
    assert is_in(submitted_job.places["home"])
