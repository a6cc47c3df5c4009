"""Starts the chaos server in a process of its own, and is how a test talks to it.

``with ChaosApi(limits=Limits(requests_per_minute=600), faults=Faults(overloaded=0.1)) as api:`` serves both the
Messages API and Message Batches at ``api.base_url``; every keyword is a field of `Settings`.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.books import QuestionCounts, Stats
from tests.chaos.serve import QUESTIONS, SETTINGS, STATS
from tests.chaos.settings import Settings

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 60.0


class ChaosApi:
    """The server, running while its ``with`` block does. Safe to use from any thread and event loop."""

    def __init__(self, **settings: Any) -> None:
        """`settings`: any fields of `Settings`."""
        self._settings = Settings(**settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> ChaosApi:
        command = [sys.executable, "-m", "tests.chaos.serve"]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(SETTINGS.dump_json(self._settings) + b"\n")
        self._process.stdin.flush()
        port = self._process.stdout.readline()
        assert port, f"the chaos server did not start: exit code {self._process.wait()}"
        self._port = int(port)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def settings(self) -> Settings:
        """As they are in force."""
        return self._settings

    def environment(self) -> dict[str, str]:
        """What makes the SDK of a process take the server for the real API."""
        return {
            "ANTHROPIC_BASE_URL": self.base_url,
            "ANTHROPIC_API_KEY": self._settings.api_key,
            "NO_PROXY": "127.0.0.1",
        }

    def set(self, **changes: Any) -> None:
        """Changes these fields of `Settings`; once this returns they are in force. A storm's time starts now."""
        self._settings = replace(self._settings, **changes)
        self._ask("POST", "/chaos/settings", SETTINGS.dump_json(self._settings))

    def start_over(self, **settings: Any) -> None:
        """As a new server with these `Settings` would be, books and batches and all, at the same address."""
        self._settings = Settings(**settings)
        self._ask("POST", "/chaos/start_over", SETTINGS.dump_json(self._settings))

    def stats(self) -> Stats:
        """The books as they are now."""
        return STATS.validate_json(self._ask("GET", "/chaos/stats"))

    def questions(self) -> dict[str, QuestionCounts]:
        """Every distinct question by a digest, with its counts."""
        return QUESTIONS.validate_json(self._ask("GET", "/chaos/questions"))

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return content
        finally:
            connection.close()
