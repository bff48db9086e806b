"""``make peers``: runs tickloom and its peers on one log, measures them from outside and judges them row by row.

Each run is a process of its own on a fresh database. Runs are interleaved, so that other load on the machine affects all
peers equally. Progress goes to standard error, the table to standard output.
"""

import asyncio
import json
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console

from benchmarks.measure import Measured, measure
from benchmarks.peers import CACHE, PEERS, TICKLOOM, NotInstalled, Peer, Workspace, failure_line, install
from benchmarks.report import Report, Result, Scale
from benchmarks.verdict import Row, Verdict, describe, judge
from producer.__main__ import Sender
from tests import hostile, reference, services
from tickloom.shapes import SHAPES, reshaped, shape_named
from tickloom.synthetic import TickSettings, history

HOURS = 12
"""Hours of event time that the log covers."""
console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Log:
    """The log that all peers process, and the expected tables."""

    topics: dict[str, str]
    hours: range
    expected: dict[str, list[Row]]
    """The tables by the SQL reference, from the valid messages alone."""
    bad: int


def produce(bootstrap: str, scale: Scale) -> tuple[dict[str, str], range]:
    """Create a pair of topics with the log in it; returns them, and the hours since 1970 that the log touches."""
    unique = uuid.uuid4().hex[:8]
    topics = {side: f"{side}-{unique}" for side in ("prices", "volumes")}
    for topic in topics.values():
        services.create_topic(bootstrap, topic, scale.partitions, {"retention.ms": "-1"})
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    settings = TickSettings(symbols=scale.symbols, disorder_share=scale.disorder)
    sender = Sender(bootstrap, topics)
    for tick in reshaped(history(settings, scale.pairs, HOURS / 24, end), shape_named(scale.shape)):
        sender.send(tick)
    sender.close()
    if sender.failed or sender.delivered != scale.messages:
        raise RuntimeError(f"{sender.failed} messages were not delivered: {sender.last_error}")
    last = int(end.timestamp()) // 3600
    return topics, range(last - HOURS, last)


async def expect(postgres_url: str, records: list[reference.Record]) -> reference.Expected:
    """The tables that the SQL reference computes from the log."""
    connection = await asyncpg.connect(postgres_url)
    try:
        return await reference.expected(connection, records)
    finally:
        await connection.close()


def prepare(bootstrap: str, postgres: Any, scale: Scale) -> Log:
    """Write the log and compute the expected tables."""
    console.print(f"writing {scale.messages:,} messages")
    topics, hours = produce(bootstrap, scale)
    console.print("computing the expected tables")
    records = hostile.read_log(bootstrap, topics)
    expected = asyncio.run(expect(services.new_database(postgres), records))
    return Log(topics, hours, expected.tables, len(expected.dead))


async def run_once(peer: Peer, log: Log, workspace: Workspace, limit_seconds: float) -> tuple[Measured, Verdict]:
    """Run a peer once on a fresh database, measure and judge it."""
    measured = await measure(
        workspace.command(peer), workspace.environment(peer), workspace.database_url, output_of(peer), limit_seconds
    )
    return measured, await judge(workspace.database_url, log.expected)


def output_of(peer: Peer) -> Path:
    """The file with the output of the peer's last run."""
    return CACHE / f"{peer.name}.log"


@contextmanager
def fresh_workspace(bootstrap: str, postgres: Any, log: Log) -> Iterator[Workspace]:
    """Yields a new database and folder for one run, and removes them at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="tickloom-peer-", ignore_cleanup_errors=True) as folder:
        url = services.new_database(postgres)
        services.execute(postgres.url, "CHECKPOINT")
        yield Workspace(bootstrap, log.topics, url, Path(folder))
        services.execute(postgres.url, f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def install_all(chosen: list[Peer]) -> list[Result]:
    """Install all peers. A peer that cannot be installed gets the reason."""
    results: list[Result] = []
    for peer in chosen:
        console.print(f"{peer.name}: installing")
        try:
            results.append(Result(peer, version=install(peer)))
        except NotInstalled as error:
            console.print(f"{peer.name}: {error}")
            results.append(Result(peer, reason=str(error)))
    return results


def run_all(chosen: list[Peer], scale: Scale) -> Report:
    """Start the services, run every peer, and stop the services."""
    results = install_all(chosen)
    with services.running_kafka() as kafka, services.running_postgres() as postgres:
        log = prepare(kafka.bootstrap, postgres, scale)
        for repetition in range(scale.repetitions):
            for result in results:
                if not result.version:
                    continue
                with fresh_workspace(kafka.bootstrap, postgres, log) as workspace:
                    workspace.make_tables(result.peer, log.hours)
                    run, verdict = asyncio.run(run_once(result.peer, log, workspace, scale.limit_seconds))
                result.runs.append((run, verdict))
                if run.exit_code:
                    result.reason = failure_line(output_of(result.peer).read_text(errors="replace"))
                console.print(
                    f"{result.peer.name} {repetition + 1}/{scale.repetitions}: {run.seconds:.1f} s, exit code {run.exit_code}, "
                    f"{describe(verdict, result.peer.averages)}"
                )
        version = asyncio.run(_server_version(postgres.url))
    native = isinstance(kafka, services.Kafka)
    return Report(
        scale, results, f"Kafka {services.KAFKA_VERSION}" if native else "Kafka", f"PostgreSQL {version}", log.bad
    )


async def _server_version(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version")).split()[0]
    finally:
        await connection.close()


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of price and volume in the log.")] = 250_000,
    symbols: Annotated[int, typer.Option(min=1, help="Number of symbols.")] = 500,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 4,
    disorder: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent up to a minute late.")] = 0,
    shape: Annotated[
        str, typer.Option(help="How the messages are written; the peers' jobs understand only ISO times.")
    ] = "realistic",
    repetitions: Annotated[int, typer.Option(min=1, help="Runs of each peer.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Only this peer; may be repeated.")] = None,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of the table.")] = False,
) -> None:
    """Process one log with tickloom and with each of its peers; print the cost and the correctness of each."""
    names = [peer.name for peer in PEERS]
    if unknown := set(only or ()) - set(names):
        raise typer.BadParameter(f"no peer is called {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if shape not in SHAPES:
        raise typer.BadParameter(f"no shape is called {shape}; choose from {', '.join(SHAPES)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    chosen = [peer for peer in PEERS if peer.name in (only or names)]
    report = run_all(chosen, Scale(pairs, symbols, partitions, disorder, shape, repetitions, time_limit))
    print(json.dumps(report.document(), indent=2) if as_json else report.markdown())
    if not all(result.exact for result in report.results if result.peer is TICKLOOM):
        raise typer.Exit(3)  # the table reports a peer's faults; ours are an error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog="Example: python -m benchmarks --only tickloom --only flink --pairs 20000")(main)
    app(prog_name="python -m benchmarks")
