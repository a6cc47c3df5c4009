"""The process of the chaos server: HTTP on loopback around `Api`, and the connections' own faults.

Reads its settings as one line of JSON from stdin, prints its port, and ends when stdin does: so it never outlives the
process that started it. What is under /chaos is for that process and no part of the API.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import sys

from aiohttp import web
from pydantic import TypeAdapter

from tests.chaos.api import Api
from tests.chaos.books import QuestionCounts, Stats
from tests.chaos.settings import Settings
from tests.chaos.wire import Call, Response

SETTINGS = TypeAdapter(Settings)
STATS = TypeAdapter(Stats)
QUESTIONS = TypeAdapter(dict[str, QuestionCounts])


class Server:
    """Carries calls to an `Api` and its responses back."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._request_ids = itertools.count(1)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**40)  # the API has limits of its own
        app.router.add_post("/chaos/settings", self._change)
        app.router.add_post("/chaos/start_over", self._start_over)
        app.router.add_get("/chaos/stats", self._stats)
        app.router.add_get("/chaos/questions", self._questions)
        app.router.add_post("/v1/messages", self._message)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _change(self, request: web.Request) -> web.Response:
        self._api.change(SETTINGS.validate_json(await request.read()))
        return web.Response()

    async def _start_over(self, request: web.Request) -> web.Response:
        self._api = Api(SETTINGS.validate_json(await request.read()))
        return web.Response()

    async def _stats(self, request: web.Request) -> web.Response:
        return web.Response(body=STATS.dump_json(self._api.books.stats()))

    async def _questions(self, request: web.Request) -> web.Response:
        return web.Response(body=QUESTIONS.dump_json(self._api.books.questions()))

    async def _message(self, request: web.Request) -> web.StreamResponse:
        """Served like any other call, and counted."""
        books = self._api.books
        books.arrive()
        status = 0
        try:
            sent = await self._serve(request)
            status = 0 if sent.headers.get("connection") == "reset" else sent.status
            return sent
        finally:
            books.leave(status)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        response = self._api.respond(
            Call(
                method=request.method,
                path=request.path,
                query=request.query,
                headers={name.lower(): value for name, value in request.headers.items()},
                body=await request.read(),
                base_url=f"http://{request.host}",
            )
        )
        try:
            if response.latency_s > 0:
                await asyncio.sleep(response.latency_s)
        finally:
            response.settle()  # the work is done, whether or not the client is still there
        return await self._send(request, response)

    async def _send(self, request: web.Request, response: Response) -> web.StreamResponse:
        if response.reply.reset or response.fault == "lost":
            return _reset(request)
        if response.fault == "hang":
            await asyncio.Event().wait()  # cancelled when the client gives up
        is_json = not isinstance(response.reply.body, str)
        body = (json.dumps(response.reply.body) if is_json else str(response.reply.body)).encode()
        if response.fault == "malformed":
            body = body[: len(body) // 2]
        headers = {
            "content-type": "application/json" if is_json else "text/html",
            "request-id": f"req_{next(self._request_ids):024d}",
            **self._api.limits.headers(self._api.settings.clock_skew_s),
            **response.reply.headers,
        }
        if response.fault == "cut":
            return await _cut(request, body, headers)
        return web.Response(status=response.reply.status, body=body, headers=headers)


def _reset(request: web.Request) -> web.Response:
    transport = request.transport
    if transport is not None:  # None: the client was faster
        # Closing with a linger time of zero sends RST in place of FIN.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(headers={"connection": "reset"})  # never sent


async def _cut(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Half of the body, then the end of the connection."""
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    response.force_close()
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return response


async def _main() -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    api = Api(SETTINGS.validate_json(await stdin.readline()))
    runner = web.AppRunner(
        Server(api).application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=0,
        keepalive_timeout=3600,
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await stdin.read()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main())
