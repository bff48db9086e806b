"""``make peers``: tickloom and its peers on one log, measured from outside and judged row by row.

Each run is a process of its own on a fresh database; runs are interleaved, so that what the machine does
meanwhile hits all alike. Progress goes to standard error, the table to standard output.
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
from benchmarks.peers import CACHE, PEERS, TICKLOOM, NotInstalled, Peer, Place, install, told
from benchmarks.report import Report, Result, Scale
from benchmarks.verdict import Row, Verdict, in_words, judge
from producer.__main__ import Sender
from tests import hostile, reference, services
from tickloom.shapes import SHAPES, reshaped, shape_named
from tickloom.synthetic import TickSettings, history

HOURS = 12
"""Event time that the log covers."""
console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Log:
    """What all work off, and what must come of it."""

    topics: dict[str, str]
    hours: range
    expected: dict[str, list[Row]]
    """By the SQL reference, from the valid messages alone."""
    bad: int


def produce(bootstrap: str, scale: Scale) -> tuple[dict[str, str], range]:
    """A fresh pair of topics with the log in it; also the hours since 1970 that it touches."""
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
    """What the SQL reference makes of the log."""
    connection = await asyncpg.connect(postgres_url)
    try:
        return await reference.expected(connection, records)
    finally:
        await connection.close()


def prepare(bootstrap: str, postgres: Any, scale: Scale) -> Log:
    """The log, written and judged."""
    console.print(f"writing {scale.messages:,} messages")
    topics, hours = produce(bootstrap, scale)
    console.print("computing what the tables must hold")
    records = hostile.read_log(bootstrap, topics)
    expected = asyncio.run(expect(services.new_database(postgres), records))
    return Log(topics, hours, expected.tables, len(expected.dead))


async def run_once(peer: Peer, log: Log, place: Place, limit_seconds: float) -> tuple[Measured, Verdict]:
    """One run on a fresh database, measured and judged."""
    measured = await measure(
        place.command(peer), place.environment(peer), place.database_url, output_of(peer), limit_seconds
    )
    return measured, await judge(place.database_url, log.expected)


def output_of(peer: Peer) -> Path:
    """Where the output of its last run lies."""
    return CACHE / f"{peer.name}.log"


@contextmanager
def fresh_place(bootstrap: str, postgres: Any, log: Log) -> Iterator[Place]:
    """A database and a folder for one run, gone after it."""
    with tempfile.TemporaryDirectory(prefix="tickloom-peer-", ignore_cleanup_errors=True) as folder:
        url = services.new_database(postgres)
        services.execute(postgres.url, "CHECKPOINT")
        yield Place(bootstrap, log.topics, url, Path(folder))
        services.execute(postgres.url, f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def made_ready(chosen: list[Peer]) -> list[Result]:
    """All installed, or with the reason why not."""
    results: list[Result] = []
    for peer in chosen:
        console.print(f"{peer.name}: making ready")
        try:
            results.append(Result(peer, version=install(peer)))
        except NotInstalled as error:
            console.print(f"{peer.name}: {error}")
            results.append(Result(peer, reason=str(error)))
    return results


def compete(chosen: list[Peer], scale: Scale) -> Report:
    """Everything, from the services' start to their end."""
    results = made_ready(chosen)
    with services.running_kafka() as kafka, services.running_postgres() as postgres:
        log = prepare(kafka.bootstrap, postgres, scale)
        for repetition in range(scale.repetitions):
            for result in results:
                if not result.version:
                    continue
                with fresh_place(kafka.bootstrap, postgres, log) as place:
                    place.make_tables(result.peer, log.hours)
                    run, verdict = asyncio.run(run_once(result.peer, log, place, scale.limit_seconds))
                result.runs.append((run, verdict))
                if run.exit_code:
                    result.reason = told(output_of(result.peer).read_text(errors="replace"))
                console.print(
                    f"{result.peer.name} {repetition + 1}/{scale.repetitions}: {run.seconds:.1f} s, exit code {run.exit_code}, "
                    f"{in_words(verdict, result.peer.averages)}"
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
        str, typer.Option(help="How the messages are written; the jobs know ISO times only.")
    ] = "realistic",
    repetitions: Annotated[int, typer.Option(min=1, help="Runs of each peer.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Only this peer; may be repeated.")] = None,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of the table.")] = False,
) -> None:
    """Work one log off by tickloom and by each of its peers; print what it took and what they got right."""
    names = [peer.name for peer in PEERS]
    if unknown := set(only or ()) - set(names):
        raise typer.BadParameter(f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if shape not in SHAPES:
        raise typer.BadParameter(f"no shape is called {shape}; there are {', '.join(SHAPES)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    chosen = [peer for peer in PEERS if peer.name in (only or names)]
    report = compete(chosen, Scale(pairs, symbols, partitions, disorder, shape, repetitions, time_limit))
    print(json.dumps(report.document(), indent=2) if as_json else report.markdown())
    if not all(result.exact for result in report.results if result.peer is TICKLOOM):
        raise typer.Exit(3)  # a peer's faults are what the table is for; ours are not


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog="Example: python -m benchmarks --only tickloom --only flink --pairs 20000")(main)
    app(prog_name="python -m benchmarks")
