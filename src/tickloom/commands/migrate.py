"""``tickloom migrate``: creates or upgrades the tables and their bookkeeping."""

import typer

from tickloom.commands.output import JsonOption, Output, OutputOption, print_json, wants_json
from tickloom.commands.start import configured, run_loop

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: tickloom migrate")
def migrate(output: OutputOption = Output.TEXT, as_json: JsonOption = False) -> None:
    """Create tables, bookkeeping and the first partitions; safe to repeat, never drops anything."""
    from tickloom.store.provision import provision

    done, created = run_loop(provision(configured()))
    if wants_json(output, as_json):
        print_json({"done": done, "partitions_created": created})
    else:
        print("\n".join((*done[:-1], f"{created} partitions were created", done[-1])))
