"""The command line. Exit codes: 0 done; 1 a fault that a restart may cure; 2 a mistake that a person must cure;
3 ``check`` or ``verify`` found something."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import structlog
import typer

from tickloom import __version__, logs, settings
from tickloom.errors import TickloomError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Two Kafka topics of market data into exact, hourly-partitioned Postgres tables.",
)


def main() -> None:
    """Entry point: errors of ours become one line that says the mend, and their exit code."""
    try:
        app()
    except TickloomError as error:
        print(f"tickloom: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return asyncio.run(work)
    return uvloop.run(work)


def _configured() -> settings.Settings:
    loaded = settings.load()
    logs.configure(loaded.log_format, loaded.log_level)
    return loaded


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: tickloom run --once")
def run(once: Annotated[bool, typer.Option(help="Drain to the log's end as it is now, then exit.")] = False) -> None:
    """The daemon: reads both topics, keeps the tables exact, until SIGTERM or SIGINT."""
    from tickloom import daemon

    configured = _configured()
    structlog.get_logger("tickloom").info("starting", version=__version__, **configured.shown())
    _run(daemon.run(configured, once=once))


@app.command(epilog="Example: tickloom migrate")
def migrate() -> None:
    """Create tables, bookkeeping and the first partitions; safe to repeat, never drops anything."""
    from tickloom.admin import migrate as migrate_tables

    _run(migrate_tables(_configured()))
    print("the tables are in place")


@app.command(epilog="Example: tickloom check --json")
def check(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Look at settings, broker, topics, keys, database, rights and clock: a line each, with the mend; exit 3 if any is bad."""
    from tickloom.admin import check as check_all

    findings = _run(check_all(_configured()))
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'}  {finding.what:<12} {finding.told}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(3)


@app.command(epilog="Example: tickloom demo --seconds 60")
def demo(
    seconds: Annotated[float | None, typer.Option(help="End by itself after this long; else at Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=1, max=2_000, help="Pairs of price and volume a second.")] = 500,
    symbols: Annotated[int, typer.Option(min=1, help="Number of symbols.")] = 200,
) -> None:
    """Everything embedded: broker, Postgres, producer and the real daemon, with a live view."""
    from tickloom.demo import DemoSettings
    from tickloom.demo import demo as run_demo

    logs.configure("auto", "warning")
    _run(run_demo(DemoSettings(rate=rate, symbols=symbols), seconds))
