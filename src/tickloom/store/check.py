"""Checks that this version can write the tables: version, columns, keys, partitioning, rights. Changes nothing."""

from dataclasses import replace
from datetime import datetime

from tickloom.core.model import Table
from tickloom.core.partitioning import Partition
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import SchemaMismatch
from tickloom.settings import Partitioning, Settings
from tickloom.store import derived_check, outputs
from tickloom.store.inspection import FoundColumn, FoundTable, faults
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, sql
from tickloom.store.schema import BOOKKEEPING, partitioning, partitioning_setting
from tickloom.store.versions import check_version

_MAY_MAKE = "SELECT has_function_privilege('tickloom.make_partitions(regclass, text[])', 'EXECUTE')"


async def check_schema(connection: Connection, settings: Settings, *, writes: bool = True) -> None:
    """Check that the database is at the version that this tickloom needs, and passes ``check_tables``.

    Raises ``SchemaMismatch`` with the fix, ``StoreUnavailable``.
    """
    await check_encoding(connection)
    await check_version(connection)
    await check_tables(connection, settings, writes=writes)


async def check_tables(connection: Connection, settings: Settings, *, writes: bool = True) -> None:
    """Check that this role may read the tables and, if it ``writes``, write them, and that they have the right shape.

    A running daemon checks this and not the version: a newer tickloom may migrate beside it (see ``migrate``).
    Raises ``SchemaMismatch`` with the fix, ``StoreUnavailable``.
    """
    await _check_shape(connection)
    await outputs.refuse_others(connection)
    for table in outputs.tables():
        await _check_partitioning(connection, table, partitioning(settings, table))
    await _check_rights(connection, writes)
    await derived_check.try_selects(connection)


async def check_encoding(connection: Connection) -> None:
    """Check that the database can hold every symbol. Raises ``SchemaMismatch``."""
    found = await connection.fetchval("SELECT current_setting('server_encoding')")
    if found != "UTF8":
        raise SchemaMismatch(
            f"the database's encoding is {found}, which cannot hold every symbol; create it again: "
            f"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def _check_shape(connection: Connection) -> None:
    """Check columns, types, keys, and everything else that would change, hide or refuse rows: see ``inspection``."""
    wanted = (*outputs.tables(), *BOOKKEEPING)
    names = [table.name for table in wanted]
    columns: dict[str, dict[str, FoundColumn]] = {name: {} for name in names}
    for table, *column in await connection.fetch(sql("columns"), names):
        one = FoundColumn(*column)
        columns[table][one.name] = one
    role = await connection.fetchval("SELECT current_user::text")
    found: list[str] = []
    for table, (name, kind, *rest) in zip(wanted, await connection.fetch(sql("tables"), names), strict=True):
        if kind is not None:
            found += faults(table, FoundTable(kind, *rest, columns=columns[name]), role)
        elif table in BOOKKEEPING:
            found.append(
                f"table {name} does not exist, although its migration was applied: somebody dropped it; restore it from a backup, or "
                f"load the topics into an empty database"
            )
        else:
            found.append(f"table {name} does not exist{await _elsewhere(connection, name)}")
    if found:
        raise SchemaMismatch("; ".join(found))


async def _elsewhere(connection: Connection, table: str) -> str:
    """The end of the message about a missing table: the other schema that has such a table, and the fix."""
    found = await connection.fetchval(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = $1 AND relkind IN ('r', 'p') LIMIT 1",
        table,
    )
    if found is None:
        return "; run `tickloom migrate`"
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return (
        f" for {role}, but {found}.{table} does: GRANT USAGE ON SCHEMA {found} TO {role}; ALTER ROLE {role} SET search_path = {found}; "
        f"or, if that is another program's table, run `tickloom migrate`"
    )


async def _check_partitioning(connection: Connection, table: Table, width: Partitioning) -> None:
    kind = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", table.name)
    if (kind == "p") != (width is not Partitioning.NONE):
        state = "partitioned" if kind == "p" else "not partitioned"
        raise SchemaMismatch(
            f"table {table.name} is {state}, the settings say {width.value}; set {partitioning_setting(table.name)} to what the "
            f"table is, or load the topics into an empty database"
        )
    by = await connection.fetchval("SELECT pg_get_partkeydef(to_regclass($1))", table.name)
    if by not in (None, 'RANGE ("timestamp")'):
        raise SchemaMismatch(
            f'table {table.name} is partitioned by {by}, not by RANGE ("timestamp"); rename or drop it, then run `tickloom migrate`'
        )


async def check_widths(connection: Connection, maker: Partitioner, now: datetime) -> None:
    """Check that the partitions from ``now`` on can be created as wide as the settings say.

    Older partitions may have any width: narrower ones are created beside them. The check does not concern a role that may not
    create partitions. Raises ``SchemaMismatch`` with the fix, ``StoreUnavailable``.
    """
    if not await connection.fetchval(_MAY_MAKE):
        return
    for table, width in maker.widths.items():
        holes = (await maker.layout(connection, table)).holes(width, micros_of(now))
        if holes and width is not Partitioning.NONE:
            parts = [Partition(table, moment(hole.start), moment(hole.stop), "") for hole in holes]
            fills = [replace(part, name=f"{table}_from_{part.start:%Y%m%d%H%M}").ddl for part in parts]
            raise SchemaMismatch(
                f"{table} has partitions of another width than {width.value}, which cover only a part of {parts[0].start:%Y-%m-%d}; "
                f"set {partitioning_setting(table)} to what they are, or, to have {width.value} ones after them, create what is missing: "
                f"{'; '.join(fills[:4])}{'; …' if len(fills) > 4 else ''}"
            )


async def _check_rights(connection: Connection, writes: bool) -> None:
    missing: dict[str, list[str]] = {}
    for table, needed in outputs.rights(table.name for table in BOOKKEEPING).items():
        lacks = [
            right
            for right in (needed if writes else ("SELECT",))
            if not await connection.fetchval("SELECT has_table_privilege($1, $2)", table, right)
        ]
        if lacks:
            missing.setdefault(", ".join(lacks), []).append(table)
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    if missing:
        grants = [f"GRANT {lacks} ON {', '.join(tables)} TO {role}" for lacks, tables in missing.items()]
        raise SchemaMismatch(
            f"no right to {next(iter(missing))} on {next(iter(missing.values()))[0]}; as the owner type: {'; '.join(grants)}"
        )
    if writes and not await connection.fetchval("SELECT has_database_privilege(current_database(), 'TEMP')"):
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        raise SchemaMismatch(
            f"no right to create temporary tables; as the owner type: GRANT TEMPORARY ON DATABASE {database} TO {role}"
        )
