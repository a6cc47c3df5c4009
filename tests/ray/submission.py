"""A job that is submitted as the README says, with a key in a file of the user's, and all that others see of it.

The judge keeps it waiting in mid-run, until everything has been looked at.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from tests.browser.browsers import chromium, is_installed
from tests.messages_api import MessagesApi, error
from tests.ray.conftest import REPOSITORY, RayCluster
from tests.ray.jobs import Experiment, mayors_arguments
from tests.ray.pages import PROGRESS, Pages
from tests.ray.places import dashboard, exported, files, process_list
from tests.screenshots.ray_dashboard import RayDashboard
from tests.waiting import wait_until

KEY = f"sk-ant-canary-{secrets.token_hex(24)}"
MODEL = "anthropic/claude-haiku-4-5-20251001"
REFUSAL = "this question is not one"  # to the first that is asked
SUBMISSION = "mayors_on_the_dashboard"
METADATA = {"job_name": "mayors, for the dashboard"}
OUTPUT_DIR = Path("outputs")  # relative: of where Ray was started
PATIENCE_S = 300


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A finished job, by its Ray's ID; what the submission printed, and all that can be read in each place."""

    experiment: Experiment
    job_id: str
    stdout: str
    places: dict[str, bytes]
    pages: Pages | None  # without a browser: None


def submitted_and_seen(cluster: RayCluster, run: Path, home: Path) -> SubmittedJob:
    """`home` is where the key is."""
    settings = {"grader_model": MODEL, "max_connections": 3, "grader_config_path": "configs/mayors_grader.json"}
    arguments = mayors_arguments(run, OUTPUT_DIR, **settings)
    client = JobSubmissionClient(cluster.dashboard)
    pages = Pages(submission=SUBMISSION) if is_installed() else None
    with MessagesApi(api_key=KEY) as api, ExitStack() as stack:
        key_file = write_key_file(home, api)
        api.script(error(400, "invalid_request_error", REFUSAL))
        held = [api.hold(number) for number in range(5, 100)]  # many: one that waits for long is asked again
        browser = _signed_in(cluster, stack) if pages else None
        with submitted(cluster, SUBMISSION, key_file, arguments) as job:
            wait_until(lambda: held[0].has_arrived or job.poll() is not None, PATIENCE_S, "the judge is asked")
            assert job.poll() is None, job.communicate()[0].decode()
            job_id = str(client.get_job_info(SUBMISSION).job_id)
            planned = re.compile(rb'ray_evalgen_units_planned\{[^}]*JobId="' + job_id.encode())
            seen = {"process list": b"".join(process_list())}

            def are_exported() -> bool:
                seen["metrics in mid-run"] = b"".join(exported(cluster))
                return planned.search(seen["metrics in mid-run"]) is not None

            wait_until(are_exported, PATIENCE_S, "the job's metrics are exported")
            # Before its page is opened, which has what the log had then.
            wait_until(lambda: PROGRESS in client.get_job_logs(SUBMISSION), PATIENCE_S, "the job tells how far it is")
            seen["dashboard in mid-run"] = b"".join(dashboard(cluster))
            if pages and browser:
                pages.look_in_mid_run(browser)
            for request in held:
                request.release()
            printed, _ = job.communicate(timeout=PATIENCE_S)
        assert job.returncode == 0, printed.decode()
        assert api.calls > 5, "the server takes no other key"
        if pages and browser:
            pages.look_afterwards(browser)
    seen["submission's output"] = printed
    seen["dashboard"] = b"".join(dashboard(cluster))
    seen["metrics"] = b"".join(exported(cluster))
    (path,) = (cluster.started_in / OUTPUT_DIR).iterdir()
    seen["experiment"] = b"".join(files(path))
    seen["Ray's directory"] = b"".join(files(cluster.temp_dir))
    seen["home"] = b"".join(files(home))
    return SubmittedJob(experiment=Experiment(path), job_id=job_id, stdout=printed.decode(), places=seen, pages=pages)


def _signed_in(cluster: RayCluster, stack: ExitStack) -> RayDashboard:
    return RayDashboard(stack.enter_context(chromium()), cluster.dashboard, os.environ["RAY_AUTH_TOKEN"])


def write_key_file(home: Path, api: MessagesApi) -> Path:
    """What the README has a user write, readable by nobody else."""
    path = home / ".anthropic.env"
    path.touch(mode=0o600)
    path.write_text(f"export ANTHROPIC_API_KEY={KEY} ANTHROPIC_BASE_URL={api.base_url} NO_PROXY=127.0.0.1\n")
    return path


@contextmanager
def submitted(
    cluster: RayCluster, name: str, key_file: Path, arguments: list[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """`ray job submit`, which prints the job's log as long as the job lasts; `name` is the submission's ID."""
    command = shlex.join(["python", "ray_jobs/generate_eval_datasets.py", *arguments])
    submission = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard]
    submission += ["--submission-id", name, "--metadata-json", json.dumps(METADATA), "--working-dir", ".", "--"]
    entrypoint = ["bash", "-c", f". {shlex.quote(str(key_file))} && exec {command}"]
    job = subprocess.Popen([*submission, *entrypoint], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield job
    finally:
        job.kill()
        job.wait()
