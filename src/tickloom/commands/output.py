"""How a command reports: as text for people, or as one JSON document. Errors go to standard error either way."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer


class Output(StrEnum):
    """The form of a report."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option(help="Report as text, or as one JSON document.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --output json.")]


def wants_json(output: Output, as_json: bool) -> bool:
    """Whether either option asks for JSON."""
    return as_json or output is Output.JSON


def print_json(document: Any) -> None:
    """Write the report to standard output."""
    print(json.dumps(document, indent=2))
