"""``tickloom verify``: compares the tables with their definition."""

from typing import Annotated

import typer

from tickloom.commands.output import JsonOption, Output, OutputOption, print_json, wants_json
from tickloom.commands.start import configured, run_loop

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: tickloom verify --from 2026-11-24T10:00 --to 2026-11-24T11:00 --repair")
def verify(
    since: Annotated[
        str | None, typer.Option("--from", help="Only rows from this time on (ISO; UTC without an offset).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only rows before this time.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Recompute wrong averages and joined rows.")] = False,
    limit: Annotated[int, typer.Option(min=0, max=10_000, help="Show this many of the first differences.")] = 10,
    output: OutputOption = Output.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Recompute averages, join and counts from the raw tables and the ledger, in one snapshot; exit 3 if anything differs."""
    from rich.console import Console
    from rich.progress import Progress

    from tickloom.store.slices import parse_span
    from tickloom.store.verify import verify as verify_all

    span, settings = parse_span(since, until), configured()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=None)

        def watch(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        report = run_loop(verify_all(settings, span, limit=limit, repair=repair, watch=watch))
    print_json(report.as_dict()) if wants_json(output, as_json) else print("\n".join(report.lines()))
    if report.remaining:
        raise typer.Exit(3)
