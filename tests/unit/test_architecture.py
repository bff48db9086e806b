"""The rules of ARCHITECTURE.md that a machine can hold."""

import ast
from pathlib import Path

import tickloom

ROOT = Path(tickloom.__file__).parent
MODULES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
ROOMS = ("", "core", "store", "source", "observe", "daemon", "integrations", "demo", "bench", "commands")
"""From the ground up: a module may import from its own room and from those before it. "": the modules beside the rooms."""
IMPURE = {"asyncio", "asyncpg", "confluent_kafka", "time", "socket", "os", "threading", "structlog"}
PURE = (
    *("store/inspection.py", "store/slices.py", "store/carry.py", "store/verdict.py", "source/client_config.py"),
    *("source/lag.py", "observe/events.py", "observe/health.py", "observe/outcome.py"),
    *("daemon/verdicts.py", "retry.py"),
)
"""Beside all of ``core``."""


def imports(tree: ast.Module) -> set[str]:
    """Top-level names of all that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_who_may_talk_to_kafka() -> None:
    """Offsets that two places commit are offsets that get lost."""
    users = {name for name, tree in MODULES.items() if "confluent_kafka" in imports(tree)}
    assert users == {
        "source/clients.py",
        "source/cluster.py",
        "source/log_ends.py",
        "source/membership.py",
        "source/reader.py",
        "demo/embedded.py",
        "bench/broker.py",
    }


def test_who_may_talk_to_postgres() -> None:
    """asyncpg is untyped: one seam keeps its errors and its types in one place."""
    assert {name for name, tree in MODULES.items() if "asyncpg" in imports(tree)} == {"store/postgres.py"}


def test_who_may_know_dagster() -> None:
    """A user who installs tickloom without the extra could start nothing."""
    users = {name for name, tree in MODULES.items() if "dagster" in imports(tree)}
    assert users
    assert all(name.startswith("integrations/dagster/") for name in users)


def room(name: str) -> str:
    """The room of a module, from its path within the package."""
    first, slash, _ = name.partition("/")
    return first if slash else ""


def ours(tree: ast.Module) -> set[str]:
    """The modules of this package that a module imports, wherever in it, as dotted names without ``tickloom``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tickloom":
            found |= {f"{node.module}.{alias.name}".removeprefix("tickloom.") for alias in node.names}
    return found


def test_arrows_point_down() -> None:
    """Rooms that import each other are one room: to change one, you must know both."""
    top = {"cli.py", "__main__.py", "__init__.py"}
    for name, tree in MODULES.items():
        if name in top:
            continue
        allowed = set(ROOMS[: ROOMS.index(room(name)) + 1])
        for target in ours(tree):
            first = target.split(".")[0]
            assert (first if first in ROOMS else "") in allowed, f"{name} imports {target}"


def test_integrations_know_no_daemon() -> None:
    """Each would become a second daemon, with errors and rules of its own."""
    for name, tree in MODULES.items():
        if room(name) == "integrations":
            known = {target for target in ours(tree) if target.startswith(("daemon.", "store.ledger"))}
            assert all(target.startswith("daemon.drain.") for target in known), name


def test_the_core_is_pure() -> None:
    """A core with a clock or a socket in it cannot be tested for any split of any log."""
    pure = [name for name in MODULES if room(name) == "core" or name in PURE]
    assert len(pure) > len(PURE)
    for name in pure:
        assert not imports(MODULES[name]) & IMPURE, name
        calls = {node.attr for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
        assert not calls & {"now", "utcnow", "today"}, name


def test_the_flow_fits_on_one_screen() -> None:
    """A new developer begins there."""
    assert len((ROOT / "daemon/pipeline.py").read_text().splitlines()) <= 90


def test_modules_are_short() -> None:
    """A module that nobody can keep in mind has become two things."""
    assert {name for name in MODULES if len((ROOT / name).read_text().splitlines()) > 350} == set()


def test_names_and_docstrings() -> None:
    """A drawer for everything is where nobody finds anything."""
    for name, tree in MODULES.items():
        assert Path(name).stem not in {"utils", "common", "helpers", "manager", "handler"}
        assert ast.get_docstring(tree) or Path(name).name == "__main__.py", name


def test_every_statement_is_used() -> None:
    """SQL that nobody runs misleads those who read it."""
    sources = "".join(path.read_text() for path in ROOT.rglob("*.py"))
    for path in (ROOT / "store/sql").glob("*.sql"):
        assert f'"{path.stem}"' in sources, path.name
