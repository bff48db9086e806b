"""``tickloom completion``: prints the script that makes a shell complete commands and options."""

from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


class Shell(StrEnum):
    """Shells that typer writes scripts for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    epilog='Example, for ~/.bashrc: eval "$(tickloom completion bash)"\n\n'
    "For zsh: tickloom completion zsh > ~/.zfunc/_tickloom, with that folder in fpath before compinit. "
    "For fish: tickloom completion fish > ~/.config/fish/completions/tickloom.fish"
)
def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the script that makes a shell complete commands and options."""
    from typer.completion import get_completion_script  # pyright: ignore[reportPrivateImportUsage]

    from tickloom.cli import PROGRAM

    print(get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell.value))
