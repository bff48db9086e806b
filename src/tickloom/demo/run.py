"""Runs the demo: starts everything, shows what the daemon does, and stops everything."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tickloom.demo.embedded import embedded_broker, embedded_postgres, free_port
from tickloom.demo.producer import DemoSettings, sender
from tickloom.demo.view import View, next_view
from tickloom.errors import Mistake
from tickloom.settings import Settings
from tickloom.store.postgres import Connection, connected
from tickloom.store.provision import provision

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 5.0
_DRAIN_SECONDS = 30.0


async def run_demo(demo: DemoSettings, seconds: float | None) -> None:
    """Run until Ctrl-C, SIGTERM or the end of ``seconds``; then print the counts and whether the ledger adds up.

    Raises ``Mistake`` if the embedded services are not available or the daemon ended by itself.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tickloom-demo-", ignore_cleanup_errors=True) as folder:
        console.print("starting an embedded broker and an embedded Postgres …")
        with embedded_broker() as (bootstrap, producer), embedded_postgres(Path(folder)) as url:
            port = free_port()
            settings = Settings(kafka_bootstrap_servers=bootstrap, database_url=url)  # pyright: ignore
            await provision(settings)
            log = Path(folder, "daemon.log")
            async with _daemon(_environment(bootstrap, url, port), log) as process, connected(settings) as connection:
                thread = sender(producer, demo, stop)
                thread.start()
                console.print(f'tables:  psql "{url}" -c "SELECT * FROM stock_analytics_data LIMIT 10"', soft_wrap=True)
                console.print(f"metrics: http://127.0.0.1:{port}/metrics", soft_wrap=True)
                await _Watch(console, connection, port, process, log, stop).until(seconds)
                stop.set()
                thread.join(10)
                await _finish(process)
                for line in (await next_view(connection, port, View(), 1.0)).summary():
                    console.print(line)


@dataclass(frozen=True, slots=True)
class _Watch:
    """Shows what the daemon does: a live view on a terminal, otherwise a line every few seconds."""

    console: Console
    connection: Connection
    port: int
    process: asyncio.subprocess.Process
    log: Path
    stop: asyncio.Event

    async def until(self, seconds: float | None) -> None:
        """Return when ``stop`` is set or ``seconds`` are over. Raises ``Mistake`` if the daemon ends before that."""
        started = shown = seen = time.monotonic()
        view = View()
        screen = Live(view.panel(), console=self.console, auto_refresh=False) if self.console.is_terminal else None
        with screen or contextlib.nullcontext():
            while not self.stop.is_set() and (seconds is None or time.monotonic() - started < seconds):
                if self.process.returncode is not None:
                    raise Mistake(
                        f"the daemon ended with exit code {self.process.returncode}: {self.log.read_text()[-500:]}"
                    )
                now = time.monotonic()
                view = await next_view(self.connection, self.port, view, now - seen)
                seen = now
                if screen is not None:
                    screen.update(view.panel(), refresh=True)
                elif now - shown >= _LINE_SECONDS:
                    shown = now
                    self.console.print(view.line(), soft_wrap=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFRESH_SECONDS):
                        await self.stop.wait()


def _environment(bootstrap: str, url: str, port: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")}
    return inherited | {
        "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "TICKLOOM_DATABASE_URL": url,
        "TICKLOOM_HTTP_PORT": str(port),
        "TICKLOOM_LOG_FORMAT": "json",
    }


@asynccontextmanager
async def _daemon(environment: dict[str, str], log: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tickloom", "run"), env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        await _finish(process)


async def _finish(process: asyncio.subprocess.Process) -> None:
    """Let the daemon finish its batch and leave; kill it after half a minute."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
