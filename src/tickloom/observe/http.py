"""HTTP on one port: ``/metrics``, ``/livez``, ``/readyz``. Runs on the daemon's own event loop.

Whoever can reach the port can open connections, and each takes a descriptor of the process, of which the flow needs its own.
So connections are few: one is for one request, has a few seconds for it, and makes room for a newer one where there are
too many. Uvicorn speaks HTTP on them; its server would accept whatever comes, and wait for ever for a first request.
"""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tickloom.errors import SettingsError
from tickloom.logs import Logger
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics

_CONNECTION_SECONDS = 5.0
"""For all of one: to send a request, and to take its answer. Also for those under way when the server ends."""
_MAX_CONNECTIONS = 32
_ACCEPTED_AT_ONCE = 8
"""Between two turns of the loop, in which those that made room give their descriptors back."""
_NO_DESCRIPTOR_SECONDS = 0.5
"""Pause before the next attempt, when the process has none left."""

_log = Logger(__name__)


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


class _Visit(H11Protocol):
    """One connection, which lasts ``_CONNECTION_SECONDS`` at most."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.gone = asyncio.Event()
        self._deadline = self.loop.call_later(_CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)
        self.gone.set()


class _Door:
    """Lets connections in, ``_MAX_CONNECTIONS`` at a time: the newest ones. Belongs to the event loop."""

    def __init__(self, listener: socket.socket, visit: Callable[[], _Visit]) -> None:
        """``listener`` does not block; it stays the caller's."""
        self._listener = listener
        self._visit = visit
        self._loop = asyncio.get_running_loop()
        self._visits: list[_Visit] = []  # oldest first, of which some have ended
        self._entering: set[asyncio.Task[Any]] = set()
        self._opens_again: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """From now on, until ``close``."""
        self._opens_again = None
        self._loop.add_reader(self._listener, self._let_in)

    async def close(self) -> None:
        """Let nobody in any more, and wait for the answers under way, ``_CONNECTION_SECONDS`` at most."""
        self._loop.remove_reader(self._listener)
        if self._opens_again is not None:
            self._opens_again.cancel()
        await asyncio.gather(*self._entering, return_exceptions=True)
        visits = self._present()
        for visit in visits:
            if not visit.transport.is_closing():
                visit.shutdown()
        await asyncio.gather(*(visit.gone.wait() for visit in visits))  # each has its deadline

    def _let_in(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                channel, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept an HTTP connection", error=str(error), wait_seconds=_NO_DESCRIPTOR_SECONDS)
                self._loop.remove_reader(self._listener)  # or the loop would ask again at once
                self._opens_again = self._loop.call_later(_NO_DESCRIPTOR_SECONDS, self.open)
                return
            self._make_room()
            channel.setblocking(False)
            task = self._loop.create_task(self._enter(channel))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    def _make_room(self) -> None:
        visits = self._present()
        for visit in visits[: max(0, len(visits) + len(self._entering) + 1 - _MAX_CONNECTIONS)]:
            visit.transport.abort()
            self._visits.remove(visit)

    async def _enter(self, channel: socket.socket) -> None:
        try:
            _, visit = await self._loop.connect_accepted_socket(self._visit, channel)
        except OSError:  # whoever it was is gone
            channel.close()
        else:
            self._visits.append(visit)

    def _present(self) -> list[_Visit]:
        self._visits = [visit for visit in self._visits if visit in visit.connections]
        return list(self._visits)


@asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncGenerator[int]:
    """Serve while inside; gives the port. Raises ``SettingsError`` where it is taken."""
    listener = _listen(host, port)
    taken = int(listener.getsockname()[1])
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    state.default_headers = [(b"connection", b"close")]
    door = _Door(listener, partial(_Visit, config, state, {}, asyncio.get_running_loop()))
    door.open()
    _log.info("serving", address=f"http://{host}:{taken}/metrics")
    try:
        yield taken
    finally:
        await door.close()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; set TICKLOOM_HTTP_PORT (0 takes a free one)"
        ) from None
    listener.setblocking(False)
    return listener
