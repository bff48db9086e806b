"""HTTP beside the flow: few connections, each of them short, and always room for the next one."""

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tickloom.errors import SettingsError
from tickloom.observe import http
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics

GET = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=request.param)


@asynccontextmanager
async def served() -> AsyncGenerator[int]:
    app = http.application(Health(10, moved_at=0), Metrics())
    async with http.serving(app, "127.0.0.1", 0) as port:
        yield port


async def get(port: int, path: str = "livez") -> bytes:
    """The whole answer; the server closes the connection after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(GET.replace(b"livez", path.encode()))
        return await asyncio.wait_for(reader.read(), 3)
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def hold(port: int, count: int, say: bytes = b"") -> list[Opened]:
    """Open ``count`` connections that send no more than ``say``."""
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in held:
        writer.write(say)
    return held


async def closed(opened: Opened, seconds: float) -> bool:
    """Whether the server ends the connection in time."""
    try:
        async with asyncio.timeout(seconds):
            while await opened[0].read(1000):
                pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_the_answers(run: asyncio.Runner) -> None:
    """Monitoring would see nothing."""

    async def look() -> None:
        async with served() as port:
            for path, status in (("livez", b"200"), ("readyz", b"503"), ("metrics", b"200"), ("else", b"404")):
                answer = await get(port, path)
                assert answer.startswith(b"HTTP/1.1 " + status)
                assert b"connection: close" in answer
            assert b"tickloom_build_info" in await get(port, "metrics")

    with run:
        run.run(look())


@pytest.mark.parametrize(
    "say", [b"", b"GET /liv", b"GET /livez HTTP/1.1\r\nHost: here\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n"]
)
def test_idle_connections_make_room(run: asyncio.Runner, say: bytes) -> None:
    """A client that holds connections open would make the orchestrator kill a healthy daemon."""

    async def look() -> None:
        async with served() as port:
            held = await hold(port, 300, say)
            started = time.monotonic()
            assert (await get(port)).startswith(b"HTTP/1.1 200")
            assert time.monotonic() - started < 1
            over = [opened for opened in held if await closed(opened, 0.02)]
            assert len(over) >= 300 - 32
            for _, writer in held:
                await end(writer)

    with run:
        run.run(look())


def test_each_connection_has_its_time(run: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request, or an answer that nobody takes, would hold a descriptor for ever."""
    monkeypatch.setattr(http, "_CONNECTION_SECONDS", 0.5)

    async def look() -> None:
        async with served() as port:
            for say in (b"", b"GET /livez HTTP/1.1\r\nX: 1\r\n"):
                (opened,) = await hold(port, 1, say)
                for _ in range(4):  # a byte now and then does not prolong it
                    opened[1].write(b"X")
                    await asyncio.sleep(0.1)
                assert await closed(opened, 1)
                await end(opened[1])

    with run:
        run.run(look())


def test_the_end_waits_for_nobody_idle(run: asyncio.Runner) -> None:
    """A stop would take as long as somebody likes to hold a connection."""

    async def look() -> None:
        async with served() as port:
            held = await hold(port, 3, b"GET /liv")
            await get(port)
            started = time.monotonic()
        assert time.monotonic() - started < 1
        assert all([await closed(opened, 1) for opened in held])
        with pytest.raises(OSError):
            await get(port)
        for _, writer in held:
            await end(writer)

    with run:
        run.run(look())


@contextlib.contextmanager
def no_descriptor_left() -> Generator[None]:
    """Inside the block the process cannot open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    fillers: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def test_no_descriptor_is_left(run: asyncio.Runner) -> None:
    """The server would ask for the next connection again and again, and leave the loop no time for the flow."""

    async def look() -> None:
        async with served() as port:
            with socket.create_connection(("127.0.0.1", port)) as waiting:
                waiting.setblocking(False)
                with no_descriptor_left():
                    before = time.process_time()
                    await asyncio.sleep(1)
                    assert time.process_time() - before < 0.3
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(waiting, GET)
                assert (await asyncio.wait_for(loop.sock_recv(waiting, 100), 3)).startswith(b"HTTP/1.1 200")

    with run:
        run.run(look())


def test_a_port_that_is_taken(run: asyncio.Runner) -> None:
    """A second daemon on one machine would run without metrics, or end without a word."""

    async def look() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            app = http.application(Health(10, moved_at=0), Metrics())
            with pytest.raises(SettingsError, match="set TICKLOOM_HTTP_PORT"):
                async with http.serving(app, "127.0.0.1", other.getsockname()[1]):
                    pass

    with run:
        run.run(look())
