"""The output tables: those of ``join``, and the derived ones that this process and this database declare.

A package declares its outputs in the entry point group ``tickloom.outputs``; every process that has it installed then
maintains them. A script may call ``declare`` instead. ``migrate`` creates the tables and notes each definition in
``tickloom.outputs``. A process that declares other outputs than those noted is refused: it would leave rows that no longer
follow from the raw ones. A change of a note raises all epochs, so that running daemons start over and check it.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tickloom.core.model import TABLES, Table
from tickloom.core.outputs import Output
from tickloom.errors import DataRefused, SchemaMismatch, SettingsError
from tickloom.store.postgres import Connection, sql

GROUP = "tickloom.outputs"
DECLARED: dict[str, Output] = {}
"""The outputs that ``declare`` was given; entry points add to them."""


def declare(*outputs: Output) -> None:
    """Maintain these outputs, too, in this process. Raises ``SettingsError`` if another output has the name of one."""
    for output in outputs:
        _add(output, DECLARED)


def declared() -> tuple[Output, ...]:
    """The derived outputs of this process, by name. Raises ``SettingsError`` for an entry point that cannot be used."""
    found = dict(DECLARED)
    for output in _installed():
        _add(output, found)
    return tuple(found[name] for name in sorted(found))


def tables() -> tuple[Table, ...]:
    """All output tables: the three of ``join`` first."""
    return (*TABLES, *(output.table for output in declared()))


def rights(books: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """The rights that the daemon needs, by table: on the output tables, and on ``books``, tables of the bookkeeping."""
    writes = ("SELECT", "INSERT", "UPDATE")
    found: dict[str, tuple[str, ...]] = dict.fromkeys((*(table.name for table in TABLES), *books), writes)
    found |= {output.name: (*writes, "DELETE") for output in declared()}
    return found | {"tickloom.outputs": ("SELECT",)}  # only `migrate` writes there


def _add(output: Output, found: dict[str, Output]) -> None:
    if found.setdefault(output.name, output) != output:
        raise SettingsError(f"two outputs are named {output.name}; rename one of them")


@cache
def _installed() -> tuple[Output, ...]:
    """The outputs of installed packages: an entry point is an ``Output``, or several."""
    found: list[Output] = []
    for entry in entry_points(group=GROUP):
        try:
            loaded: Any = entry.load()
        except SettingsError:
            raise
        except Exception as error:
            raise SettingsError(
                f"entry point {entry.name} = {entry.value} of {GROUP} cannot be loaded ({type(error).__name__}: {error}); "
                f"fix or uninstall the package"
            ) from error
        outputs: list[Any] = list(loaded) if isinstance(loaded, Iterable) else [loaded]  # pyright: ignore[reportUnknownArgumentType]
        if not all(isinstance(output, Output) for output in outputs):
            raise SettingsError(
                f"entry point {entry.name} = {entry.value} of {GROUP} is not a tickloom.Output; let it name one, or a tuple of them"
            )
        found += outputs
    return tuple(found)


async def register(connection: Connection) -> list[str]:
    """Bring the existing tables of derived outputs up to their declarations, and note these; a part of ``migrate``.

    Returns what it did, a line each. Raises ``SchemaMismatch`` with the fix, ``StoreUnavailable``.
    """
    noted, done = await _noted(connection), list[str]()
    for output in declared():
        await _add_columns(connection, output)
        await connection.execute(sql("output_owner").format(table=output.name))
        if noted.get(output.name) != output.definition:
            await connection.execute(_NOTE, output.name, output.definition)
            await connection.execute("UPDATE tickloom.offsets SET epoch = epoch + 1")
            done.append(f"noted the definition of {output.name}; `tickloom verify --repair` computes its rows")
    return done


async def refuse_others(connection: Connection) -> None:
    """Raise ``SchemaMismatch`` with the fix if the database has other derived outputs than this process declares."""
    noted, mine = await _noted(connection), {output.name: output for output in declared()}
    for name in sorted(noted.keys() - mine.keys()):
        raise SchemaMismatch(
            f"{name} is an output of this database that this process does not declare, so its rows would grow stale; install "
            f"the package that declares it. To give it up, stop all daemons and run: "
            f"DELETE FROM tickloom.outputs WHERE name = '{name}'"
        )
    for name, output in mine.items():
        if noted.get(name) != output.definition:
            what = (
                "is declared differently than it was created" if name in noted else "is declared, but not created yet"
            )
            raise SchemaMismatch(f"output {name} {what}; run `tickloom migrate`, then `tickloom verify --repair`")


async def _noted(connection: Connection) -> Mapping[str, str]:
    """The outputs of the database: name to definition."""
    return dict(await connection.fetch("SELECT name, definition FROM tickloom.outputs"))


async def _add_columns(connection: Connection, output: Output) -> None:
    """Add the columns that were declared after the table was created."""
    rows = await connection.fetch(sql("columns"), [output.name])
    existing = {row["name"] for row in rows}
    for column in output.table.columns:
        if column.name not in existing:
            try:
                await connection.execute(f'ALTER TABLE {output.name} ADD COLUMN "{column.name}" {column.sql}')
            except DataRefused as error:
                raise SchemaMismatch(
                    f"{output.name} has rows, in which its new column {column.name} would be NULL: declare it without "
                    f"NOT NULL, or drop the table; then `tickloom migrate` and `tickloom verify --repair`"
                ) from error


_NOTE = (
    "INSERT INTO tickloom.outputs (name, definition) VALUES ($1, $2) "
    "ON CONFLICT (name) DO UPDATE SET definition = excluded.definition"
)
