"""The entry point: the application with its global options, and errors as one line with an exit code."""

import os
import sys
from typing import Annotated

import typer

from tickloom import __version__
from tickloom.commands.group import LazyGroup
from tickloom.errors import TickloomError

PROGRAM = "tickloom"

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,  # `tickloom completion` prints the script, and edits nobody's start-up files
    pretty_exceptions_enable=False,
    help="Two Kafka topics of market data into exact, hourly-partitioned Postgres tables.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command. An error of ours becomes one line on standard error that ends with the fix, and its exit code."""
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:  # a shell asks for completions
        from typer.completion import completion_init  # pyright: ignore[reportPrivateImportUsage]

        completion_init()
    try:
        app(prog_name=PROGRAM)
    except TickloomError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
