"""A submitted job on Ray's dashboard, as a person sees it in a browser: its name, its actors, and never a key."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from tests.browser.browsers import NO_CHROMIUM, chromium, is_installed
from tests.messages_api import HeldRequest, MessagesApi
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import mayors_arguments
from tests.ray.test_secrets import KEY, MODEL, PATIENCE_S, is_in
from tests.screenshots.ray_dashboard import RayDashboard
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not is_installed(), reason=NO_CHROMIUM)

SUBMISSION = "mayors_on_the_dashboard"
METADATA = {"job_name": "mayors, for the dashboard"}
ACTORS = ["grading actor 0", "rate limiter", "sampling replica 0", "store"]
# By page, what is surely to be read there: without it nothing was looked at.
MARKS = {
    "jobs": "generate_eval_datasets.py",
    "job": "sampled 1 of 1 parts",
    "actors": "GradingActor",
    "grading actor": "GradingActor",
    "jobs afterwards": "SUCCEEDED",
}

Row = dict[str, str]  # by the titles of its table's columns


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Of one job: its row of the Jobs page, in mid-run and afterwards; its rows of the Actors page; and each page."""

    job: Row
    job_afterwards: Row
    actors: list[Row]
    texts: dict[str, str]
    sources: dict[str, str]  # HTML, which has what only a hovering mouse would show, too


@pytest.fixture(scope="module")
def seen(ray_cluster: RayCluster, mayors_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """All but the last page are looked at while the judge keeps the job waiting."""
    key_file = tmp_path_factory.mktemp("home") / ".anthropic.env"
    output_dir = tmp_path_factory.mktemp("outputs")
    arguments = mayors_arguments(mayors_run, output_dir, grader_model=MODEL, max_connections=3)
    with MessagesApi(api_key=KEY) as api, chromium() as driver:
        key_file.write_text(f"export ANTHROPIC_API_KEY={KEY} ANTHROPIC_BASE_URL={api.base_url} NO_PROXY=127.0.0.1\n")
        held = [api.hold(number) for number in range(5, 100)]  # many: one that waits for long is asked again
        with submitted(ray_cluster, key_file, arguments) as job:
            wait_until(lambda: held[0].has_arrived or job.poll() is not None, PATIENCE_S, "the judge is asked")
            client = JobSubmissionClient(ray_cluster.dashboard)
            # Before the job's page is opened, which has what the log had then.
            wait_until(
                lambda: MARKS["job"] in client.get_job_logs(SUBMISSION), PATIENCE_S, "the job tells how far it is"
            )
            return look(RayDashboard(driver, ray_cluster.dashboard, os.environ["RAY_AUTH_TOKEN"]), job, held)


@contextmanager
def submitted(cluster: RayCluster, key_file: Path, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """As the README says to do it."""
    command = shlex.join(["python", "ray_jobs/generate_eval_datasets.py", *arguments])
    submission = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard]
    submission += ["--submission-id", SUBMISSION, "--metadata-json", json.dumps(METADATA), "--working-dir", ".", "--"]
    entrypoint = ["bash", "-c", f". {shlex.quote(str(key_file))} && exec {command}"]
    job = subprocess.Popen([*submission, *entrypoint], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        yield job
    finally:
        job.kill()
        job.wait()


def look(dashboard: RayDashboard, job: subprocess.Popen[bytes], held: list[HeldRequest]) -> Seen:
    texts, sources = {}, {}

    def keep(page: str) -> None:
        texts[page], sources[page] = dashboard.text(), dashboard.driver.page_source

    dashboard.open("jobs", SUBMISSION, "RUNNING")
    keep("jobs")
    in_mid_run = row_of_job(dashboard)
    dashboard.click(in_mid_run["Job ID"])
    dashboard.wait_for(SUBMISSION, MARKS["job"])
    keep("job")
    dashboard.open("actors", "TOTAL")
    dashboard.filter({"Job Id": in_mid_run["Job ID"], "Name": "evalgen "}, num_rows=len(ACTORS))
    keep("actors")
    actors = dashboard.rows()
    (grading,) = [actor for actor in actors if "grading" in actor["Name"]]  # whose process has the key
    dashboard.click(grading["ID"])
    dashboard.wait_for("Class Name", grading["Name"])
    keep("grading actor")
    for request in held:
        request.release()
    assert job.wait(PATIENCE_S) == 0
    dashboard.open("jobs", SUBMISSION, "SUCCEEDED")
    keep("jobs afterwards")
    return Seen(job=in_mid_run, job_afterwards=row_of_job(dashboard), actors=actors, texts=texts, sources=sources)


def row_of_job(dashboard: RayDashboard) -> Row:
    (row,) = [row for row in dashboard.rows() if row["Submission ID"] == SUBMISSION]
    return row


def test_the_jobs_page_says_what_runs_and_how_it_ended(seen: Seen) -> None:
    assert seen.job["Name"] == METADATA["job_name"]
    assert "python ray_jobs/generate_eval_datasets.py --data_model_path" in seen.job["Entrypoint"]
    assert f"--grader_model {MODEL}" in seen.job["Entrypoint"]
    assert (seen.job["Status"], seen.job_afterwards["Status"]) == ("RUNNING", "SUCCEEDED")


def test_the_jobs_own_page_has_its_metadata_and_how_far_it_is(seen: Seen) -> None:
    assert METADATA["job_name"] in seen.texts["job"]
    assert "2,000 draws" in seen.texts["job"]


def test_the_actors_page_names_each_actor_for_people(seen: Seen) -> None:
    names = sorted(actor["Name"] for actor in seen.actors)
    (job_id,) = {name.rsplit(" ", 1)[1] for name in names}
    assert names == [f"evalgen {kind} of {job_id}" for kind in ACTORS]
    alive = {actor["Name"] for actor in seen.actors if actor["State"] == "ALIVE"}
    assert alive >= {f"evalgen {kind} of {job_id}" for kind in ACTORS if "replica" not in kind}


@pytest.mark.parametrize("page", MARKS)
def test_no_page_has_the_key(seen: Seen, page: str) -> None:
    assert MARKS[page] in seen.texts[page]
    assert not is_in(seen.sources[page].encode())
