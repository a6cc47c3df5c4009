"""Asks the chaos server through the real SDK, for tests that judge what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anthropic

from evalgen.grading.messages import message_params, pack_params
from tests.chaos.server import ChaosApi
from tests.claude_calls import question
from tests.messages_api import Json

T = TypeVar("T")
RIGHT, WRONG = " Grace Miller\nQ:", " Ethan Parker"


@asynccontextmanager
async def connected(api: ChaosApi, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """A client of the SDK, without retries; `options` are its own."""
    options = {"api_key": api.settings.api_key, "max_retries": 0, "timeout": 60.0, **options}
    # Plain HTTP needs no certificates, and loading them takes longer than most tests.
    http_client = anthropic.DefaultAsyncHttpxClient(verify=False)
    async with anthropic.AsyncAnthropic(base_url=api.base_url, http_client=http_client, **options) as client:
        yield client


def run(api: ChaosApi, use: Callable[[anthropic.AsyncAnthropic], Awaitable[T]], **options: Any) -> T:
    """What `use` makes of a client."""

    async def main() -> T:
        async with connected(api, **options) as client:
            return await use(client)

    return asyncio.run(main())


def params(completion: str = RIGHT) -> Any:
    return message_params(question(completion))


def packed(*completions: str) -> Any:
    return pack_params([question(completion) for completion in completions])


def ask(api: ChaosApi, body: Any, **options: Any) -> anthropic.types.Message:
    """The message that one request gets. Raises as the SDK does."""

    async def use(client: anthropic.AsyncAnthropic) -> anthropic.types.Message:
        message: anthropic.types.Message = await client.messages.create(**body)
        return message

    return run(api, use, **options)


def ask_raw(api: ChaosApi, body: Any) -> Any:
    """The SDK's raw response, or the error with its `response`: either has headers."""

    async def use(client: anthropic.AsyncAnthropic) -> Any:
        try:
            return (await client.messages.with_raw_response.create(**body)).http_response
        except anthropic.APIStatusError as error:
            return error.response

    return run(api, use)


def ask_all(api: ChaosApi, completions: Sequence[str], **options: Any) -> list[Any]:
    """A message or an exception for each of the questions, all asked at once."""

    async def use(client: anthropic.AsyncAnthropic) -> list[Any]:
        calls = [client.messages.create(**params(completion)) for completion in completions]
        return await asyncio.gather(*calls, return_exceptions=True)

    return run(api, use, **options)


def num_ok(outcomes: list[Any]) -> int:
    """How many of `ask_all`'s outcomes are messages."""
    return sum(isinstance(outcome, anthropic.types.Message) for outcome in outcomes)


def text_of(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def reply_in(message: anthropic.types.Message) -> Json:
    """The judge's reply, parsed."""
    reply: Json = json.loads(text_of(message))
    return reply
