"""One chaos server for all of these tests: starting its process takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.server import ChaosApi


@pytest.fixture(scope="session")
def process() -> Iterator[ChaosApi]:
    with ChaosApi() as api:
        yield api


@pytest.fixture
def api(process: ChaosApi) -> ChaosApi:
    """As new."""
    process.start_over()
    return process
