"""A submitted job on Ray's dashboard, as a person sees it in a browser: its name, its actors, and never a key."""

from __future__ import annotations

import pytest

from tests.browser.browsers import NO_CHROMIUM, is_installed
from tests.ray.pages import ACTORS, PROGRESS, Pages
from tests.ray.submission import METADATA, MODEL, SubmittedJob
from tests.ray.test_secrets import is_in

pytestmark = pytest.mark.skipif(not is_installed(), reason=NO_CHROMIUM)

# By page, what is surely to be read there: without it nothing was looked at.
MARKS = {
    "jobs": "generate_eval_datasets.py",
    "job": PROGRESS,
    "actors": "GradingActor",
    "grading actor": "GradingActor",
    "jobs afterwards": "SUCCEEDED",
}


@pytest.fixture
def seen(submitted_job: SubmittedJob) -> Pages:
    """All but the last page are looked at while the judge keeps the job waiting."""
    assert submitted_job.pages
    return submitted_job.pages


def test_the_jobs_page_says_what_runs_and_how_it_ended(seen: Pages) -> None:
    assert seen.job["Name"] == METADATA["job_name"]
    assert "python ray_jobs/generate_eval_datasets.py --data_model_path" in seen.job["Entrypoint"]
    assert f"--grader_model {MODEL}" in seen.job["Entrypoint"]
    assert (seen.job["Status"], seen.job_afterwards["Status"]) == ("RUNNING", "SUCCEEDED")


def test_the_jobs_own_page_has_its_metadata_and_how_far_it_is(seen: Pages) -> None:
    assert METADATA["job_name"] in seen.texts["job"]
    assert "2,000 draws" in seen.texts["job"]


def test_the_actors_page_names_each_actor_for_people(seen: Pages, submitted_job: SubmittedJob) -> None:
    assert seen.job["Job ID"] == submitted_job.job_id
    names = sorted(actor["Name"] for actor in seen.actors)
    (suffix,) = {name.rsplit(" ", 1)[1] for name in names}
    assert names == [f"evalgen {kind} of {suffix}" for kind in ACTORS]
    alive = {actor["Name"] for actor in seen.actors if actor["State"] == "ALIVE"}
    assert alive >= {f"evalgen {kind} of {suffix}" for kind in ACTORS if "replica" not in kind}


@pytest.mark.parametrize("page", MARKS)
def test_no_page_has_the_key(seen: Pages, page: str) -> None:
    assert MARKS[page] in seen.texts[page]
    assert not is_in(seen.sources[page].encode())
