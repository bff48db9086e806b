"""Tries everything that ``run`` does to the database, rolls it back, and names the GRANTs that the role lacks."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tickloom.core.model import TABLES
from tickloom.core.partitioning import partition_at
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import NotAllowed, SchemaMismatch, StoreUnavailable, TickloomError
from tickloom.settings import Partitioning, Settings
from tickloom.store import ledger
from tickloom.store.loader import stage
from tickloom.store.outputs import declared
from tickloom.store.partitions import Partitioner, why_not
from tickloom.store.postgres import Connection, connect
from tickloom.store.schema import BOOKKEEPING

_WHERE = """
    SELECT quote_ident(current_user) AS role, quote_ident(current_database()) AS database,
           coalesce(
               (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('stock_prices')),
               (SELECT relnamespace FROM pg_class WHERE relname = 'stock_prices' AND relkind IN ('r', 'p') ORDER BY oid LIMIT 1)
           )::regnamespace::text AS schema
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """A statement that needs the same rights as one of ``run``'s but changes nothing, and the GRANT that allows it."""

    statement: str
    grant: str


def trials(columns: Mapping[str, Sequence[str]]) -> list[Trial]:
    """The trials for the tables (name to columns) that ``run`` writes, and for others that it reads or locks. Pure."""
    found: list[Trial] = []
    for table, names in columns.items():
        listed = ", ".join(f'"{name}"' for name in names)
        grant = f"GRANT SELECT, INSERT, UPDATE ON {table}"
        found.append(Trial(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {table} WHERE false", grant))
        found.append(Trial(f'UPDATE {table} SET "{names[-1]}" = "{names[-1]}" WHERE false', grant))
    found.append(Trial("SELECT FROM tickloom.migrations WHERE false", "GRANT SELECT ON tickloom.migrations"))
    found.append(
        Trial(
            "LOCK TABLE tickloom.source IN SHARE ROW EXCLUSIVE MODE", "GRANT SELECT, INSERT, UPDATE ON tickloom.source"
        )
    )
    return found


def derived_trials(columns: Mapping[str, Sequence[str]]) -> list[Trial]:
    """The trials for derived outputs (name to columns), whose rows ``run`` may also delete. Pure."""
    found: list[Trial] = []
    for table, names in columns.items():
        grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table}"
        found += [replace(trial, grant=grant) for trial in trials({table: names})[:2]]
        found.append(Trial(f"DELETE FROM {table} WHERE false", grant))
    return found


async def rehearse(connection: Connection, settings: Settings) -> str:
    """Try everything that ``run`` does, except for partitions, and roll it back. Returns a line for ``check``.

    Raises ``TickloomError`` with the GRANTs to type, ``StoreUnavailable``.
    """
    where = await connection.fetchrow(_WHERE)
    role, schema = where["role"], where["schema"]
    grants: dict[str, None] = {}
    refusal = ""
    try:
        await stage(connection)
    except NotAllowed as error:
        refusal = str(error)
        grants[f"GRANT TEMPORARY ON DATABASE {where['database']}"] = None
    except SchemaMismatch:  # this role does not see the tables
        pass
    columns = {f"{schema or 'public'}.{table.name}": table.names for table in TABLES}
    books = {table.name: table.names for table in BOOKKEEPING if table.name != "tickloom.outputs"}
    derived = {f"{schema or 'public'}.{output.name}": output.table.names for output in declared()}
    for trial in [*trials({**columns, **books}), *derived_trials(derived)]:
        try:
            async with connection.transaction(rehearsal=True):
                await connection.execute(trial.statement)
        except NotAllowed as error:
            refusal = refusal or str(error)
            grants[trial.grant] = None
    if grants:
        usage = f"GRANT USAGE ON SCHEMA tickloom, {schema or 'public'}"
        typed = "; ".join(f"{grant} TO {role}" for grant in (usage, *_together(grants)))
        raise TickloomError(f"{refusal.partition('; ')[0]}; as the tables' owner type: {typed}")
    await _rehearse_ending_sessions(connection, settings)
    return f"{role} may do all that run does; it was tried and rolled back"


def _together(grants: dict[str, None]) -> list[str]:
    """One GRANT for the same right on several tables."""
    rights: dict[str, list[str]] = {}
    for grant in grants:
        right, _, table = grant.partition(" ON ")
        rights.setdefault(right, []).append(table)
    return [f"{right} ON {', '.join(tables)}" for right, tables in rights.items()]


async def rehearse_partitions(connection: Connection, maker: Partitioner, now: datetime) -> str:
    """Create each table's next partition, and roll it back. Returns a line for ``check``, with the fix if this role may not.

    Raises ``TickloomError`` if a table has no partition for ``now`` and this role may not create one; ``StoreUnavailable``,
    ``Mistake``.
    """
    lines: list[str] = []
    for table, width in maker.widths.items():
        if width is Partitioning.NONE:
            continue
        until = (await maker.layout(connection, table)).contiguous_until(micros_of(now))
        coming = partition_at(table, width, moment(until))
        try:
            async with connection.transaction(rehearsal=True):
                await connection.fetchval(
                    "SELECT tickloom.make_partitions($1::text::regclass, $2)", table, [coming.stamp]
                )
        except NotAllowed as error:
            refusal = await why_not(connection, error)
            if until <= micros_of(now):
                raise TickloomError(
                    f"{table} has no partition for now, and this role may not create one, so another role must, ahead of time: {refusal}"
                ) from error
            lines.append(
                f"{table} has partitions until {moment(until):%Y-%m-%dT%H:%MZ}; this role may not create the next ones, so another role must: {refusal}"
            )
    return ". ".join(lines) or "the next ones can be created: it was tried and rolled back"


async def _rehearse_ending_sessions(connection: Connection, settings: Settings) -> None:
    """Try to end a session of this role, as a take-over does with the sessions of a sleeping predecessor."""
    owner = f"check-{uuid.uuid4().hex}"
    sleeper = await connect(settings, ledger.session_name(owner))
    try:
        await ledger.end_sessions(connection, [owner])
        await sleeper.fetchval("SELECT 1")
    except StoreUnavailable:
        return
    finally:
        await sleeper.close()
    raise TickloomError(
        "this role cannot end its own sessions, so a replica that sleeps delays its successor by a minute; let all replicas log in "
        "as the same role"
    )
