"""HTTP on one port: ``/metrics``, ``/livez``, ``/readyz``. Runs on the daemon's own event loop."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tickloom.errors import SettingsError
from tickloom.health import Health
from tickloom.logs import Logger
from tickloom.metrics import Metrics

_CLOSE_SECONDS = 5.0
"""For answers that are under way."""

_log = Logger(__name__)


class _Server(uvicorn.Server):
    """Leaves the signals to the daemon."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


def application(health: Health, metrics: Metrics) -> Starlette:
    """The three answers, 200 or 503."""

    async def serve_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def serve_livez(_: Request) -> Response:
        good, why = health.alive(time.monotonic())
        return PlainTextResponse(why + "\n", 200 if good else 503)

    async def serve_readyz(_: Request) -> Response:
        good, why = health.ready()
        return PlainTextResponse(why + "\n", 200 if good else 503)

    return Starlette(
        routes=[Route("/metrics", serve_metrics), Route("/livez", serve_livez), Route("/readyz", serve_readyz)]
    )


@asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncGenerator[int]:
    """Serve while inside; gives the port. Raises ``SettingsError`` where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; set TICKLOOM_HTTP_PORT (0 takes a free one)"
        ) from None
    taken = int(listener.getsockname()[1])
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    _log.info("serving", address=f"http://{host}:{taken}/metrics")
    try:
        yield taken
    finally:
        task.cancel()  # by itself it looks every tenth of a second whether it is to end, and then waits as long again
        await asyncio.wait([task])
        if server.server_state.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await server.shutdown([listener])
        elif server.started:
            for one in server.servers:
                one.close()
        listener.close()
