"""``tickloom demo``: runs the whole job on a machine that has only Python."""

from typing import Annotated

import typer

from tickloom.commands.start import run_loop

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: tickloom demo --seconds 60")
def demo(
    seconds: Annotated[float | None, typer.Option(help="Stop after this time; by default at Ctrl-C.")] = None,
    rate: Annotated[float, typer.Option(min=1, max=2_000, help="Pairs of price and volume per second.")] = 500,
    symbols: Annotated[int, typer.Option(min=1, help="Number of symbols.")] = 200,
) -> None:
    """Run everything embedded: broker, Postgres, producer and the real daemon, with a live view."""
    from tickloom import logs
    from tickloom.demo.producer import DemoSettings
    from tickloom.demo.run import run_demo
    from tickloom.settings import refuse_ignored

    refuse_ignored()
    logs.configure("auto", "warning")
    run_loop(run_demo(DemoSettings(rate=rate, symbols=symbols), seconds))
