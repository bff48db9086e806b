"""README's tables are the code's: a setting, metric or command that is not there cannot be found."""

import re
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from tickloom.cli import app
from tickloom.metrics import Metrics
from tickloom.settings import PREFIX, Settings

README = (Path(__file__).parents[2] / "README.md").read_text()


def table(name: str) -> str:
    """What stands between the markers."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert match, f"README has no {name} table"
    return match[1]


def shown(field: Any) -> str:
    """A default as the table shows it."""
    default = field.get_default(call_default_factory=True)
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    return f"`{getattr(default, 'value', default)}`"


def settings_table() -> str:
    rows = [
        f"| `{PREFIX}{name.upper()}` | {shown(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows, ""])


def metrics_table() -> str:
    rows: list[str] = []
    for family in vars(Metrics()).values():
        if not hasattr(family, "_documentation"):
            continue
        name = family._name + ("_total" if family._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in family._labelnames)
        rows.append(f"| `{name}` | {family._type} | {labels} | {family._documentation} |")
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])


def commands_table() -> str:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    rows = [f"| `tickloom {name}` | {(command.help or '').strip()} |" for name, command in commands.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, ""])


def test_settings_table() -> None:
    """An operator sets what README names."""
    assert table("settings") == settings_table()


def test_metrics_table() -> None:
    """An alert on a metric that does not exist never fires."""
    assert table("metrics") == metrics_table()


def test_commands_table() -> None:
    """A command that README forgets is not used."""
    assert table("commands") == commands_table()
