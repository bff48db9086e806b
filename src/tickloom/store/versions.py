"""The version of a database's tables: the migrations that this tickloom knows, and those that were applied.

``tickloom.migrations`` lists the applied ones; the highest number is the version. It has no checksums: the files are part of the
package, so a user could not fix a wrong checksum. A unit test keeps released migrations from being edited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from tickloom.errors import SchemaMismatch
from tickloom.store.postgres import Connection


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a version to the next: SQL statements, run in one transaction."""

    version: int
    name: str
    statements: str

    @property
    def file(self) -> str:
        """The name of its file in ``migrations/``."""
        return f"{self.version:04}_{self.name}.sql"


@cache
def known_migrations() -> tuple[Migration, ...]:
    """The migrations of this tickloom, in the order of their versions: 1, 2, 3, …"""
    found: list[Migration] = []
    for path in (files("tickloom.store") / "migrations").iterdir():
        number, _, name = path.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(number), name, path.read_text()))
    return tuple(sorted(found, key=lambda migration: migration.version))


async def applied_migrations(connection: Connection) -> dict[int, str]:
    """Version to name of the migrations that were applied to the database; empty if there are none.

    Raises ``NotAllowed``, ``StoreUnavailable``.
    """
    if await connection.fetchval("SELECT to_regclass('tickloom.migrations') IS NULL"):
        return {}
    rows = await connection.fetch("SELECT version, name FROM tickloom.migrations")
    return {row["version"]: row["name"] for row in rows}


def refuse_newer(applied: Mapping[int, str], known: Sequence[Migration]) -> None:
    """Raise ``SchemaMismatch`` if another tickloom migrated the database further than ``known``, or differently."""
    newest = known[-1].version
    if (version := max(applied, default=0)) > newest:
        raise SchemaMismatch(
            f"the database was migrated by a newer tickloom (version {version}; this one knows {newest}): "
            f"install that tickloom or a newer one"
        )
    for migration in known:
        if (name := applied.get(migration.version, migration.name)) != migration.name:
            raise SchemaMismatch(
                f"version {migration.version} of the database is {name!r}, this tickloom's is {migration.name!r}: another build "
                f"migrated the database; install that build"
            )


def refuse_older(applied: Mapping[int, str], known: Sequence[Migration]) -> None:
    """Raise ``SchemaMismatch`` if the database lacks a migration of ``known``."""
    newest = known[-1].version
    if (version := max(applied, default=0)) < newest:
        raise SchemaMismatch(
            f"the database is at version {version}, this tickloom needs {newest}; run `tickloom migrate`"
        )


async def check_version(connection: Connection) -> None:
    """Raise ``SchemaMismatch`` if the database is not at the version that this tickloom needs; ``StoreUnavailable``."""
    applied = await applied_migrations(connection)
    refuse_newer(applied, known_migrations())
    refuse_older(applied, known_migrations())
