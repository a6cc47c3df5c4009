"""The pages of Ray's dashboard about a submitted job, as a person sees them in a browser."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.screenshots.ray_dashboard import RayDashboard

ACTORS = ["grading actor 0", "rate limiter", "sampling replica 0", "store"]
PROGRESS = "sampled 1 of 1 parts"  # what the job's own page tells in mid-run

Row = dict[str, str]  # by the titles of its table's columns


@dataclass(kw_only=True)
class Pages:
    """Of one job: its row of the Jobs page, in mid-run and afterwards; its rows of the Actors page; and each page."""

    submission: str
    job: Row = field(default_factory=dict)
    job_afterwards: Row = field(default_factory=dict)
    actors: list[Row] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # HTML, which has what only a hovering mouse would show, too

    def look_in_mid_run(self, dashboard: RayDashboard) -> None:
        dashboard.open("jobs")
        self.job = dashboard.row({"Submission ID": self.submission, "Status": "RUNNING"})
        self._keep("jobs", dashboard)
        dashboard.click(self.job["Job ID"])
        dashboard.wait_for(self.submission, PROGRESS)
        self._keep("job", dashboard)
        dashboard.open("actors", "TOTAL")
        dashboard.filter({"Job Id": self.job["Job ID"], "Name": "evalgen "}, num_rows=len(ACTORS))
        self._keep("actors", dashboard)
        self.actors = dashboard.rows()
        (grading,) = [actor for actor in self.actors if "grading" in actor["Name"]]  # whose process has the key
        dashboard.click(grading["ID"])
        dashboard.wait_for("Class Name", grading["Name"])
        self._keep("grading actor", dashboard)

    def look_afterwards(self, dashboard: RayDashboard) -> None:
        dashboard.open("jobs")
        self.job_afterwards = dashboard.row({"Submission ID": self.submission, "Status": "SUCCEEDED"})
        self._keep("jobs afterwards", dashboard)

    def _keep(self, page: str, dashboard: RayDashboard) -> None:
        self.texts[page], self.sources[page] = dashboard.text(), dashboard.driver.page_source
