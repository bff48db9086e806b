"""Commands are loaded one at a time, report in one of two forms, and complete in a shell."""

import os
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tickloom import __version__
from tickloom.cli import app
from tickloom.commands.group import NAMES
from tickloom.commands.output import Output, wants_json

REPORTING = ("run", "migrate", "check", "verify", "bench")


def python(code: str, **environment: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout


def command_named(name: str) -> Any:
    root: Any = typer.main.get_command(app)
    return root.get_command(None, name)


def test_a_command_loads_no_other() -> None:
    """Every start of the daemon would pay for the libraries of bench and demo."""
    code = """if True:
        import sys
        from tickloom.cli import app
        import typer
        typer.main.get_command(app).get_command(None, "run")
        print(*(name for name in sys.modules if name.startswith("tickloom.commands.")))
        print(*(name for name in ("numpy", "polars", "asyncpg", "confluent_kafka", "rich.live") if name in sys.modules))
    """
    commands, libraries = python(code).splitlines()
    assert set(commands.split()) & {f"tickloom.commands.{name}" for name in NAMES} == {"tickloom.commands.run"}
    assert libraries == ""


def test_run_sets_the_allocator_before_the_large_imports() -> None:
    """Later, threads and libraries have arenas already, and the daemon takes some 80 MB more."""
    code = """if True:
        import sys
        from tickloom.daemon import runtime
        def tuned():
            print(*(name for name in ("numpy", "polars", "asyncpg", "confluent_kafka") if name in sys.modules))
            raise SystemExit(0)
        runtime.tune_first = tuned
        from tickloom.cli import main
        sys.argv = ["tickloom", "run", "--once"]
        main()
    """
    assert python(code) == "\n"


def test_the_version() -> None:
    """A report of a fault would not say which release it is about."""
    assert CliRunner().invoke(app, ["--version"]).stdout == f"{__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example(name: str) -> None:
    """People copy the example before they read the options."""
    assert "Example" in command_named(name).epilog
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("name", REPORTING)
def test_what_reports_does_so_in_json_too(name: str) -> None:
    """A script would have to know which command has which option."""
    options = {option for parameter in command_named(name).params for option in parameter.opts}
    assert {"--output", "--json"} <= options


def test_json_is_the_same_as_output_json() -> None:
    """Scripts from before there was --output would read text."""
    assert [wants_json(output, flag) for output in Output for flag in (False, True)] == [False, True, True, True]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str) -> None:
    """`eval "$(tickloom completion bash)"` would complete nothing."""
    done = CliRunner().invoke(app, ["completion", shell])
    assert done.exit_code == 0
    assert f"_TICKLOOM_COMPLETE=complete_{shell}" in done.stdout


@pytest.mark.parametrize(("words", "expected"), [("tickloom mi", ["migrate"]), ("tickloom verify --rep", ["--repair"])])
def test_a_shell_gets_its_completions(words: str, expected: list[str]) -> None:
    """The script asks the program itself: without an answer the Tab key does nothing."""
    environment = {"_TICKLOOM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert python("from tickloom.cli import main; main()", **environment).split() == expected
