"""``tickloom run``: runs the daemon, or drains the log once."""

from typing import Annotated

import typer

from tickloom.commands.output import JsonOption, Output, OutputOption, print_json, wants_json
from tickloom.commands.start import configured, run_loop
from tickloom.errors import SettingsError

app = typer.Typer(add_completion=False)


@app.command(
    epilog="With --once a summary is printed at the end. The exit code is 0 even if a bound or a signal ended the drain: the "
    "summary says which (`drained`, `ended`). It is 1 if --max-seconds ran out while Kafka or Postgres was away.\n\n"
    "Example, for cron: tickloom run --once --max-seconds 100 --output json"
)
def run(
    once: Annotated[bool, typer.Option(help="Load the log up to its current end, then exit.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option(help="With --once: stop reading after this time and finish the batch in flight.")
    ] = None,
    max_messages: Annotated[int | None, typer.Option(help="With --once: load at most this many messages.")] = None,
    output: OutputOption = Output.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Read both topics and keep the tables exact, until SIGTERM or SIGINT."""
    from tickloom.daemon.runtime import leave, tune_first

    tune_first()
    import structlog

    from tickloom import __version__
    from tickloom.daemon import drain, process
    from tickloom.observe.outcome import Bounds

    in_json = wants_json(output, as_json)
    if not once and (max_seconds is not None or max_messages is not None or in_json):
        raise SettingsError("--max-seconds, --max-messages and --output are for a drain; add --once, or leave them out")
    bounds = Bounds(max_seconds, max_messages) if once else None
    settings = configured()
    log = structlog.get_logger("tickloom")
    log.info("starting", version=__version__, database_from=settings.database_source, **settings.shown())

    async def work() -> None:
        outcome = (await process.run(settings, once=bounds)).outcome()
        if once:
            if in_json or not outcome.drained:  # a text report of a complete drain shows no lag
                outcome = await drain.with_lag(outcome, settings)
            print_json(outcome.as_dict()) if in_json else print("\n".join(outcome.lines()))
        leave()  # inside the loop: closing it would wait for questions that a silent broker never answers

    run_loop(work())
