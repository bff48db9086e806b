"""The rules of ARCHITECTURE.md that a machine can hold."""

import ast
from pathlib import Path

import tickloom

ROOT = Path(tickloom.__file__).parent
MODULES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
PURE = (
    "stages/decode.py",
    "stages/gather.py",
    "stages/join.py",
    "tails.py",
    "copy_binary.py",
    "inspection.py",
    "timestamps.py",
    "retry.py",
    "health.py",
    "lag.py",
)


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
        "kafka.py",
        "log_ends.py",
        "membership.py",
        "stages/consume.py",
        "demo.py",
        "bench/broker.py",
    }


def test_who_may_talk_to_postgres() -> None:
    """asyncpg is untyped: one seam keeps its errors and its types in one place."""
    assert {name for name, tree in MODULES.items() if "asyncpg" in imports(tree)} == {"postgres.py"}


def test_who_may_know_dagster() -> None:
    """Who installs tickloom without the extra could start nothing."""
    users = {name for name, tree in MODULES.items() if "dagster" in imports(tree)}
    assert users
    assert all(name.startswith("integrations/dagster/") for name in users)


def test_integrations_know_no_daemon() -> None:
    """Each would become a second daemon, with errors and rules of its own."""
    for name, tree in MODULES.items():
        if name.startswith("integrations/"):
            modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not modules & {"tickloom.daemon", "tickloom.session", "tickloom.pipeline", "tickloom.ledger"}, name


def test_the_core_is_pure() -> None:
    """A core with a clock or a socket in it cannot be tested for any split of any log."""
    for name in PURE:
        assert not imports(MODULES[name]) & {"asyncio", "time", "socket", "os", "threading", "structlog"}, name
        calls = {node.attr for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
        assert not calls & {"now", "utcnow", "today"}, name


def test_the_flow_fits_on_one_screen() -> None:
    """Whoever comes new begins there."""
    assert len((ROOT / "pipeline.py").read_text().splitlines()) <= 90


def test_names_and_docstrings() -> None:
    """A drawer for everything is where nobody finds anything."""
    for name, tree in MODULES.items():
        assert Path(name).stem not in {"utils", "common", "helpers", "manager", "handler"}
        assert ast.get_docstring(tree) or name == "__main__.py", name


def test_every_statement_is_used() -> None:
    """SQL that nobody runs misleads those who read it."""
    sources = "".join(path.read_text() for path in ROOT.rglob("*.py"))
    for path in (ROOT / "sql").glob("*.sql"):
        assert f'"{path.stem}"' in sources, path.name
