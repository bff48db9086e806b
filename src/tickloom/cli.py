"""The command line. Exit codes: 0 done (a bounded drain: also at its bound); 1 a fault that a restart may cure, an outage
that outlasted ``--max-seconds`` among them; 2 a mistake that a person must cure; 3 ``check`` or ``verify`` found something."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from enum import StrEnum
from typing import Annotated, Any

import structlog
import typer

from tickloom import __version__, logs, settings
from tickloom.errors import Mistake, SettingsError, TickloomError

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


def _configured(*, tolerant: bool = False) -> settings.Settings:
    loaded = settings.load(tolerant=tolerant)
    logs.configure(loaded.log_format, loaded.log_level)
    return loaded


class Output(StrEnum):
    """How a summary is written."""

    TEXT = "text"
    JSON = "json"


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


@app.command(
    epilog="With --once a summary is printed at the end, and 0 is the exit code also where a bound or a signal ended it: the "
    "summary says which (`drained`, `ended`). 1 where --max-seconds were over while Kafka or Postgres was away.\n\n"
    "Example, for cron: tickloom run --once --max-seconds 100 --output json"
)
def run(
    once: Annotated[bool, typer.Option(help="Drain to the log's end as it is now, then exit.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(help="With --once: end after this long, with the batch in flight finished.")
    ] = None,
    max_messages: Annotated[int | None, typer.Option(help="With --once: load no more than this many messages.")] = None,
    output: Annotated[Output, typer.Option(help="With --once: how the summary is written.")] = Output.TEXT,
) -> None:
    """The daemon: reads both topics, keeps the tables exact, until SIGTERM or SIGINT."""
    from tickloom.daemon.runtime import leave, tune_first

    tune_first()
    from tickloom.daemon import daemon
    from tickloom.observe.outcome import Bounds

    if not once and (max_seconds, max_messages, output) != (None, None, Output.TEXT):
        raise SettingsError("--max-seconds, --max-messages and --output are for a drain; add --once, or leave them out")
    bounds = Bounds(max_seconds, max_messages) if once else None
    configured = _configured()
    structlog.get_logger("tickloom").info("starting", version=__version__, **configured.shown())

    async def work() -> None:
        outcome = (await daemon.run(configured, once=bounds)).outcome()
        if once:
            if output is Output.JSON or not outcome.drained:  # else nobody waits for Kafka's word on what came since
                outcome = await daemon.with_lag(outcome, configured)
            print(json.dumps(outcome.as_dict(), indent=2) if output is Output.JSON else "\n".join(outcome.lines()))
        leave()  # from here: the end of the loop would wait for questions to brokers that do not answer

    _run(work())


@app.command(epilog="Example: tickloom migrate")
def migrate() -> None:
    """Create tables, bookkeeping and the first partitions; safe to repeat, never drops anything."""
    from tickloom.admin import migrate as migrate_tables

    print("\n".join(_run(migrate_tables(_configured()))))


@app.command(epilog="Example: tickloom check --json")
def check(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Look at settings, broker, topics, keys, database, rights and clock: a line each, with the mend; exit 3 if any is bad."""
    from tickloom.admin import check as check_all

    findings = _run(check_all(_configured(tolerant=True)))  # it names itself what is misspelt, beside all else
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'}  {finding.what:<12} {finding.told}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(3)


@app.command(epilog="Example: tickloom verify --from 2026-11-24T10:00 --to 2026-11-24T11:00 --repair")
def verify(
    since: Annotated[
        str | None, typer.Option("--from", help="Only rows from this time on (ISO; UTC without offset).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only rows before this time.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Compute wrong averages and joined rows anew.")] = False,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Show this many of the first differences.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Recompute averages, join and counts from the raw tables and the ledger, in one snapshot; exit 3 if anything differs."""
    from rich.console import Console
    from rich.progress import Progress

    from tickloom.store.verify import parse_span
    from tickloom.store.verify import verify as verify_all

    span, configured = parse_span(since, until), _configured()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=None)

        def watch(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        report = _run(verify_all(configured, span, limit=limit, repair=repair, watch=watch))
    print(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(report.lines()))
    if report.remaining:
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

    settings.refuse_ignored()
    logs.configure("auto", "warning")
    _run(run_demo(DemoSettings(rate=rate, symbols=symbols), seconds))


@app.command(
    epilog="Uses the broker and the Postgres of the settings. Both must be real ones: an embedded broker as the demo's keeps "
    "only a few megabytes. From a checkout, `make bench` starts both natively first. It makes topics, groups and databases named "
    "tickloom_bench_… and removes them at its end; it touches nothing else. The role must be allowed to make databases.\n\n"
    "The default takes a few minutes, in which nothing else should run. Machines drift: trust the ratios.\n\n"
    "Example: tickloom bench --rate 1000 --idle --restart --history-days 10\n\n"
    "A full run: tickloom bench --messages 2000000 --disorder 0.1 --late-hours 0.01 --json"
)
def bench(
    messages: Annotated[
        int, typer.Option(min=0, help="Messages of both topics; 2000000 for a full run, 0 for no throughput.")
    ] = 500_000,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each figure is taken.")] = 5,
    symbols: Annotated[int, typer.Option(min=1, help="Number of symbols.")] = 5_000,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 4,
    disorder: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent late, by seconds.")] = 0,
    disorder_seconds: Annotated[float, typer.Option(min=0, help="How late those are at most.")] = 60,
    late_hours: Annotated[float, typer.Option(min=0, max=1, help="Share of pairs that are 1 to 6 hours late.")] = 0,
    volumes_behind: Annotated[int, typer.Option(min=0, help="Volumes are sent that many prices after theirs.")] = 0,
    history_days: Annotated[
        int, typer.Option(min=0, max=365, help="Days that are in the tables before: a pair an hour and symbol.")
    ] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="How the messages are written, instead of plain; may be repeated; all for a table of all."),
    ] = None,
    plain: Annotated[
        bool, typer.Option(help="Beside a log that differs from the default, measure the default one too.")
    ] = True,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            min=1, help="Measure latency and CPU at that many messages a second (open loop); may be repeated."
        ),
    ] = None,
    idle: Annotated[bool, typer.Option(help="Measure the CPU of a daemon that has nothing to do.")] = False,
    restart: Annotated[bool, typer.Option(help="Measure how soon a daemon that starts writes its first row.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="How long --rate and --idle measure.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """What this machine does with this broker and this Postgres: floors, rate, latency, CPU and memory."""
    from rich.console import Console

    from tickloom.bench.plan import LogPlan, Plan
    from tickloom.bench.progress import Shown
    from tickloom.bench.report import picture
    from tickloom.bench.run import bench as run_bench
    from tickloom.shapes import PLAIN, SHAPES, shape_named

    logs.configure("auto", "warning")
    try:
        shapes = [shape_named(name) for name in (SHAPES if shape and "all" in shape else shape or [PLAIN.name])]
    except ValueError as error:
        raise Mistake(f"{error}, all") from None
    log = LogPlan(
        messages // 2 * 2,
        symbols,
        partitions,
        disorder,
        disorder_seconds,
        late_hours,
        volumes_behind,
        history_days,
        shapes[0] if len(shapes) == 1 else PLAIN,
    )
    plan = Plan(
        log,
        tuple(shapes) if len(shapes) > 1 else (),
        repetitions,
        plain,
        tuple(dict.fromkeys(rate or ())),
        seconds,
        idle,
        restart,
    )
    with Shown() as progress:
        told = _run(run_bench(settings.load(), plan, progress))
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        Console().print(picture(told))
