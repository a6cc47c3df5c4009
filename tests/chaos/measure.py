"""How many requests a second the chaos server answers: ``python -m tests.chaos.measure``.

The client is one process with aiohttp, bodies made beforehand, a question each; so the figure is the server's or the
client's limit, whichever is lower, and the server's CPU time a request tells the two apart.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
import psutil

from evalgen.grading.messages import message_params
from tests.chaos.limits import Limits
from tests.chaos.server import ChaosApi
from tests.claude_calls import question
from tests.messages_api import API_KEY

NUM_REQUESTS, NUM_CONNECTIONS = 20_000, 100


async def ask_all(url: str, bodies: list[bytes]) -> float:
    """Seconds from the first request to the last response."""
    queue = iter(bodies)
    headers = {"x-api-key": API_KEY, "content-type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        for body in queue:
            async with session.post(url, data=body) as response:
                assert response.status == 200, await response.text()
                await response.read()

    connector = aiohttp.TCPConnector(limit=NUM_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        started_at = time.monotonic()
        await asyncio.gather(*[client(session) for _ in range(NUM_CONNECTIONS)])
        return time.monotonic() - started_at


def main() -> None:
    bodies = [json.dumps(message_params(question(f" Grace Miller {i}"))).encode() for i in range(NUM_REQUESTS)]
    plenty = Limits(requests_per_minute=1e7, input_tokens_per_minute=1e9, output_tokens_per_minute=1e9)
    with ChaosApi(limits=plenty) as api:
        process = psutil.Process(api.pid)
        before_bytes = process.memory_info().rss
        seconds = asyncio.run(ask_all(f"{api.base_url}/v1/messages", bodies))
        cpu_ms = 1000 * sum(process.cpu_times()[:2]) / NUM_REQUESTS
        growth_mb = (process.memory_info().rss - before_bytes) / 1e6
        stats = api.stats()
    assert stats.num_questions == NUM_REQUESTS and stats.times_answered == {1: NUM_REQUESTS}, stats
    sys.stdout.write(
        f"{NUM_REQUESTS / seconds:,.0f} requests/s over {NUM_CONNECTIONS} connections; the server used {cpu_ms:.2f} ms "
        f"of CPU a request and grew by {growth_mb:.0f} MB for {NUM_REQUESTS:,} distinct questions\n"
    )


if __name__ == "__main__":
    main()
