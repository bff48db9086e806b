"""The group of all commands. It imports a command's module only when it needs that command."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

NAMES = ("run", "migrate", "check", "verify", "demo", "bench", "completion")
"""Each is a module of this package that holds ``app``, a Typer application with this one command."""


class LazyGroup(TyperGroup):
    """Imports a command's module when the command is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of ``--help``."""
        return list(NAMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with this name; None if there is none."""
        if cmd_name not in NAMES:
            return None
        command = typer.main.get_command(import_module(f"tickloom.commands.{cmd_name}").app)
        command.name = cmd_name
        return command
