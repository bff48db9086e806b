"""``tickloom bench``: measures this machine with this broker and this Postgres."""

from typing import TYPE_CHECKING, Annotated

import typer

from tickloom.commands.output import JsonOption, Output, OutputOption, print_json, wants_json
from tickloom.commands.start import run_loop
from tickloom.errors import Mistake

if TYPE_CHECKING:
    from tickloom.shapes import Shape

app = typer.Typer(add_completion=False)


@app.command(
    epilog="It uses the broker and the Postgres in the settings. Both must be real: an embedded broker like the demo's keeps only a "
    "few megabytes. In a checkout, `make bench` starts both first. The bench creates topics, groups and databases named "
    "tickloom_bench_…, removes them at the end, and touches nothing else. The role must be allowed to create databases.\n\n"
    "The default takes a few minutes, during which nothing else should run. Machines drift, so trust the ratios.\n\n"
    "Example: tickloom bench --rate 1000 --idle --restart --history-days 10\n\n"
    "A full run: tickloom bench --messages 2000000 --disorder 0.1 --late-hours 0.01 --output json"
)
def bench(
    messages: Annotated[
        int, typer.Option(min=0, help="Messages of both topics; 2000000 for a full run, 0 for no throughput.")
    ] = 500_000,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each figure is measured.")] = 5,
    symbols: Annotated[int, typer.Option(min=1, help="Number of symbols.")] = 5_000,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 4,
    disorder: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent late, by seconds.")] = 0,
    disorder_seconds: Annotated[float, typer.Option(min=0, help="How late those are at most.")] = 60,
    late_hours: Annotated[float, typer.Option(min=0, max=1, help="Share of pairs that are 1 to 6 hours late.")] = 0,
    volumes_behind: Annotated[
        int, typer.Option(min=0, help="Send each volume this many prices after its own price.")
    ] = 0,
    history_days: Annotated[
        int, typer.Option(min=0, max=365, help="Days already in the tables: one pair per hour and symbol.")
    ] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="How the messages are written, instead of plain. May be repeated; `all` gives a table of all."
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option(help="Where the log differs from the default, measure the default log as well.")
    ] = True,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            min=1, help="Measure latency and CPU at this many messages per second (open loop). May be repeated."
        ),
    ] = None,
    idle: Annotated[bool, typer.Option(help="Measure the CPU of a daemon that has nothing to do.")] = False,
    restart: Annotated[bool, typer.Option(help="Measure how soon a daemon that starts writes its first row.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="How long --rate and --idle measure.")] = 20,
    output: OutputOption = Output.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine with this broker and this Postgres: floors, rate, latency, CPU and memory."""
    from rich.console import Console

    from tickloom import logs, settings
    from tickloom.bench.plan import LogPlan, Plan
    from tickloom.bench.progress import ConsoleProgress
    from tickloom.bench.report import render
    from tickloom.bench.run import bench as run_bench
    from tickloom.shapes import PLAIN

    logs.configure("auto", "warning")
    shapes = _shapes(shape)
    log = LogPlan(
        messages=messages // 2 * 2,
        symbols=symbols,
        partitions=partitions,
        disorder=disorder,
        disorder_seconds=disorder_seconds,
        late_hours=late_hours,
        volumes_behind=volumes_behind,
        history_days=history_days,
        shape=shapes[0] if len(shapes) == 1 else PLAIN,
    )
    plan = Plan(
        log=log,
        shapes=shapes if len(shapes) > 1 else (),
        repetitions=repetitions,
        compare_with_plain=plain,
        rates=tuple(dict.fromkeys(rate or ())),
        seconds=seconds,
        idle=idle,
        restart=restart,
    )
    with ConsoleProgress() as progress:
        document = run_loop(run_bench(settings.load(), plan, progress))
    print_json(document) if wants_json(output, as_json) else Console().print(render(document))


def _shapes(names: list[str] | None) -> "tuple[Shape, ...]":
    """The shapes with these names, by default the plain one. Raises ``Mistake``."""
    from tickloom.shapes import PLAIN, SHAPES, shape_named

    try:
        return tuple(shape_named(name) for name in (SHAPES if names and "all" in names else names or [PLAIN.name]))
    except ValueError as error:
        raise Mistake(f"{error}, all") from None
