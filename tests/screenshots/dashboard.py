"""Ray's dashboard in mid-run: the page of a job that was submitted, with what the job has told so far."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from ray.job_submission import JobSubmissionClient

from tests.browser.browsers import chromium, screenshot
from tests.ray.conftest import REPOSITORY, started_ray
from tests.screenshots.ray_dashboard import RayDashboard
from tests.waiting import wait_until

COMMAND = (
    "python ray_jobs/generate_eval_datasets.py --config configs/demo.yaml --num_generations 50000 --temperature 0.7"
)
METADATA = {"job_name": "demo"}
PATIENCE_S = 300
NUM_LINES = 4  # of the job's progress
WIDTH, HEIGHT = 1200, 1000  # of the page's upper part, which ends with its log
COLOURS = 64


def take(directory: Path, path: Path) -> None:
    with started_ray(directory) as cluster, chromium() as driver:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        client = JobSubmissionClient(cluster.dashboard)
        job = client.submit_job(entrypoint=COMMAND, metadata=METADATA, runtime_env={"working_dir": str(REPOSITORY)})
        wait_until(lambda: client.get_job_logs(job).count(" graded ") >= NUM_LINES, PATIENCE_S, "the job tells")
        dashboard = RayDashboard(driver, cluster.dashboard, os.environ["RAY_AUTH_TOKEN"])
        dashboard.open("jobs", job, "RUNNING")
        dashboard.click(dashboard.rows()[0]["Job ID"])
        dashboard.wait_for(job, "equivalent", "Ray Core Overview")
        screenshot(driver, path, whole=False)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
