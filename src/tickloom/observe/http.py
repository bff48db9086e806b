"""HTTP on one port: ``/metrics``, ``/livez``, ``/readyz``. Runs on the daemon's own event loop.

Anybody who can reach the port can open connections, and each takes one of the process's file descriptors, which the flow
needs as well. So their number is limited: a connection serves one request, has a few seconds for it, and is aborted in favour
of a newer one when there are too many. Uvicorn's protocol class speaks HTTP on them. Uvicorn's server is not used, because
it accepts every connection and waits without a limit for the first request.
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
"""Time limit of a connection, for its request and the answer. It also holds while the server shuts down."""
_MAX_CONNECTIONS = 32
_ACCEPTED_AT_ONCE = 8
"""Connections accepted before the event loop gets its turn, in which aborted connections release their descriptors."""
_NO_DESCRIPTOR_SECONDS = 0.5
"""Pause before the next attempt to accept a connection when the process has no descriptor left."""

_log = Logger(__name__)


def application(health: Health, metrics: Metrics) -> Starlette:
    """The application. ``/metrics`` answers 200; ``/livez`` and ``/readyz`` answer 200 or 503, with the reason."""

    async def serve_metrics(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def serve_livez(_: Request) -> Response:
        alive, reason = health.alive(time.monotonic())
        return PlainTextResponse(reason + "\n", 200 if alive else 503)

    async def serve_readyz(_: Request) -> Response:
        ready, reason = health.ready()
        return PlainTextResponse(reason + "\n", 200 if ready else 503)

    return Starlette(
        routes=[Route("/metrics", serve_metrics), Route("/livez", serve_livez), Route("/readyz", serve_readyz)]
    )


class _Connection(H11Protocol):
    """One connection, which lasts at most ``_CONNECTION_SECONDS``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.closed = asyncio.Event()
        self._deadline = self.loop.call_later(_CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)
        self.closed.set()


class _Acceptor:
    """Accepts connections and keeps the newest ``_MAX_CONNECTIONS`` of them. Belongs to the event loop."""

    def __init__(self, listener: socket.socket, make_connection: Callable[[], _Connection]) -> None:
        """``listener`` must not block; the caller closes it."""
        self._listener = listener
        self._make_connection = make_connection
        self._loop = asyncio.get_running_loop()
        self._connections: list[_Connection] = []  # oldest first; some have ended
        self._starting: set[asyncio.Task[Any]] = set()
        self._resumption: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections from now on, until ``close``."""
        self._resumption = None
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Accept no more connections, and wait up to ``_CONNECTION_SECONDS`` for the pending answers."""
        self._loop.remove_reader(self._listener)
        if self._resumption is not None:
            self._resumption.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        connections = self._open_connections()
        for connection in connections:
            if not connection.transport.is_closing():
                connection.shutdown()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))  # each has its deadline

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                channel, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept an HTTP connection", error=str(error), wait_seconds=_NO_DESCRIPTOR_SECONDS)
                self._loop.remove_reader(self._listener)  # or the loop would call this again at once
                self._resumption = self._loop.call_later(_NO_DESCRIPTOR_SECONDS, self.start)
                return
            self._abort_oldest()
            channel.setblocking(False)
            task = self._loop.create_task(self._start_connection(channel))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    def _abort_oldest(self) -> None:
        """Make room for one more connection."""
        connections = self._open_connections()
        for connection in connections[: max(0, len(connections) + len(self._starting) + 1 - _MAX_CONNECTIONS)]:
            connection.transport.abort()
            self._connections.remove(connection)

    async def _start_connection(self, channel: socket.socket) -> None:
        try:
            _, connection = await self._loop.connect_accepted_socket(self._make_connection, channel)
        except OSError:  # the client is gone
            channel.close()
        else:
            self._connections.append(connection)

    def _open_connections(self) -> list[_Connection]:
        self._connections = [one for one in self._connections if one in one.connections]  # uvicorn's set of open ones
        return list(self._connections)


@asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncGenerator[int]:
    """Serve inside the block; yields the port. Raises ``SettingsError`` if the port is taken."""
    listener = _listen(host, port)
    bound = int(listener.getsockname()[1])
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    state = ServerState()
    state.default_headers = [(b"connection", b"close")]
    acceptor = _Acceptor(listener, partial(_Connection, config, state, {}, asyncio.get_running_loop()))
    acceptor.start()
    _log.info("serving", address=f"http://{host}:{bound}/metrics")
    try:
        yield bound
    finally:
        await acceptor.close()
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
