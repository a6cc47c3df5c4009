"""The SDK with nothing of ours around it: what the machine allows any client that is built on it.

python -m tests.benchmarks.sdk_alone CONNECTIONS REQUESTS     asks the server in ANTHROPIC_BASE_URL; prints their rate
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from evalgen.grading.connection import connect
from evalgen.grading.messages import message_params
from evalgen.grading.question_text import DEFAULT_INSTRUCTIONS
from evalgen.records import GraderSpec, Question
from ray_jobs.garbage import collect_garbage_seldom
from ray_jobs.stages import CONNECTIONS_PER_GRADING_ACTOR
from tests.claude_calls import HAIKU

_ROOT = Path(__file__).parents[2]


def sdk_rate(connections: int, num_requests: int) -> float:
    """Requests a second over so many connections, shared among as many processes as a job would have."""
    num_processes = -(-connections // CONNECTIONS_PER_GRADING_ACTOR)
    command = [sys.executable, "-m", "tests.benchmarks.sdk_alone"]
    command += [str(connections // num_processes), str(num_requests // num_processes)]
    processes = [subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)]
    return sum(float(process.communicate()[0]) for process in processes)


async def _ask_all(connections: int, num_requests: int) -> float:
    grader = GraderSpec(model=HAIKU, instructions=DEFAULT_INSTRUCTIONS)
    numbers = iter(range(num_requests))
    async with connect(request_timeout_s=120) as client:

        async def ask() -> None:
            for number in numbers:
                question = Question(
                    grader=grader, prompt="Who rules?", reference=" nobody", completion=f" answer {number}"
                )
                await client.messages.create(**message_params(question))

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(ask())
        return num_requests / (time.perf_counter() - begun)


if __name__ == "__main__":
    collect_garbage_seldom()
    print(asyncio.run(_ask_all(int(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
