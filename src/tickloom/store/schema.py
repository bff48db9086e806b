"""DDL of the output tables and the bookkeeping, made from the columns declared in ``model``; and its check."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tickloom.core.model import ANALYTICS, FEEDS, PRICES, TABLES, VOLUMES, Column, Table
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import LogLost, SchemaMismatch, WrongSource
from tickloom.settings import Partitioning, Settings
from tickloom.store.inspection import FoundColumn, FoundTable, faults
from tickloom.store.partitions import Partition, Partitioner, statement
from tickloom.store.postgres import Connection, sql


def _bookkeeping(name: str, columns: Mapping[str, str], *key: str) -> Table:
    return Table(f"tickloom.{name}", tuple(Column(*column) for column in columns.items()), key)


BOOKKEEPING = (
    _bookkeeping(
        "offsets",
        {
            "topic": "text NOT NULL",
            "partition": "int NOT NULL",
            "first_offset": "bigint NOT NULL",
            "next_offset": "bigint NOT NULL",
            "epoch": "bigint NOT NULL",
            "owner": "text",
            "stored": "bigint NOT NULL",
            "superseded": "bigint NOT NULL",
            "dead": "bigint NOT NULL",
            "skipped": "bigint NOT NULL",
            "missing": "bigint NOT NULL",
            "updated_at": "timestamptz NOT NULL",
            "newest_timestamp": "timestamptz",
        },
        *("topic", "partition"),
    ),
    _bookkeeping(
        "dead_letters",
        {
            "topic": "text NOT NULL",
            "partition": "int NOT NULL",
            "offset": "bigint NOT NULL",
            "key": "bytea",
            "value": "bytea",
            "headers": "jsonb NOT NULL",
            "record_timestamp": "timestamptz",
            "reason": "text NOT NULL",
            "detail": "text NOT NULL",
            "rejected_at": "timestamptz NOT NULL",
            "replayed_at": "timestamptz",
        },
        *("topic", "partition", "offset"),
    ),
    _bookkeeping(
        "gaps",
        {
            "topic": "text NOT NULL",
            "partition": "int NOT NULL",
            "from_offset": "bigint NOT NULL",
            "to_offset": "bigint NOT NULL",
            "noticed_at": "timestamptz NOT NULL",
            "policy": "text NOT NULL",
        },
        *("topic", "partition", "from_offset"),
    ),
    _bookkeeping(
        "symbols",
        {
            "symbol": 'text COLLATE "C" NOT NULL',
            "home": "int",
            "since": "timestamptz",
        },
        "symbol",
    ),
    _bookkeeping(
        "sharing",
        {
            "one": "boolean NOT NULL",
            "era": "bigint NOT NULL",
            "prices_partitions": "int NOT NULL",
            "volumes_partitions": "int NOT NULL",
            "raised": "boolean NOT NULL",
            "alone_since": "timestamptz",
            "torn": "text",
        },
        "one",
    ),
    _bookkeeping(
        "source",
        {
            "cluster_id": "text NOT NULL",
            "prices_topic": "text NOT NULL",
            "volumes_topic": "text NOT NULL",
            "window_rows": "int NOT NULL",
            "repairs": "bigint NOT NULL",
            "group_id": "text",
            "prices_topic_id": "text",
            "volumes_topic_id": "text",
        },
    ),
)
"""What ``sql/bookkeeping.sql`` makes, as ``check`` wants to find it."""


def partitioning(settings: Settings, table: Table) -> Partitioning:
    """How the settings want ``table`` partitioned."""
    wanted = {
        PRICES.name: settings.prices_partitioning,
        VOLUMES.name: settings.volumes_partitioning,
        ANALYTICS.name: settings.analytics_partitioning,
    }
    return wanted[table.name]


_SETTINGS = {
    PRICES.name: "TICKLOOM_PRICES_PARTITIONING",
    VOLUMES.name: "TICKLOOM_VOLUMES_PARTITIONING",
    ANALYTICS.name: "TICKLOOM_ANALYTICS_PARTITIONING",
}


def partitioner(settings: Settings) -> Partitioner:
    """One for the tables as the settings want them."""
    return Partitioner({table.name: partitioning(settings, table) for table in TABLES}, settings.partitions_ahead)


def table_ddl(table: Table, width: Partitioning) -> str:
    """``CREATE TABLE IF NOT EXISTS`` of an output table."""
    columns = ", ".join(f'"{column.name}" {column.sql}' for column in table.columns)
    tail = "" if width is Partitioning.NONE else ' PARTITION BY RANGE ("timestamp")'
    return f'CREATE TABLE IF NOT EXISTS {table.name} ({columns}, PRIMARY KEY (symbol, "timestamp")){tail}'


_WITHOUT_SYMBOLS = "SELECT to_regclass('tickloom.offsets') IS NOT NULL AND to_regclass('tickloom.symbols') IS NULL"


_HAS_SOURCE_TIMESTAMP = (
    "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'source_timestamp')"
)


async def migrate(connection: Connection, settings: Settings) -> None:
    """Create what is missing, in one transaction; safe among replicas. Raises ``Mistake``, ``StoreUnavailable``."""
    await _check_encoding(connection)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('tickloom.migrate'))")
        if await connection.fetchval(_WITHOUT_SYMBOLS):
            raise SchemaMismatch(
                "the tables were filled by a program older than the first release, which knew no tickloom.symbols; "
                "load the topics into an empty database"
            )
        await connection.execute(sql("bookkeeping"))
        for table in TABLES:
            await connection.execute(table_ddl(table, partitioning(settings, table)))
        for table in (feed.table for feed in FEEDS.values()):
            if not await connection.fetchval(_HAS_SOURCE_TIMESTAMP, table.name):
                await connection.execute(f"ALTER TABLE {table.name} ADD COLUMN source_timestamp timestamptz")
        await connection.execute(sql("owner"))
    await check(connection, settings)


async def check(connection: Connection, settings: Settings, *, writes: bool = True) -> None:
    """Whether the tables are what this version writes, and may be written (or only read).

    Raises ``SchemaMismatch`` with the mend.
    """
    await _check_encoding(connection)
    await _check_shape(connection)
    for table in TABLES:
        await _check_partitioning(connection, table, partitioning(settings, table))
    if await connection.fetchval("SELECT to_regprocedure('tickloom.make_partitions(regclass, text[])') IS NULL"):
        raise SchemaMismatch("schema tickloom is of an older version; run `tickloom migrate`")
    await _check_rights(connection, writes)


async def _check_encoding(connection: Connection) -> None:
    found = await connection.fetchval("SELECT current_setting('server_encoding')")
    if found != "UTF8":
        raise SchemaMismatch(
            f"the database's encoding is {found}, which cannot hold every symbol; make it anew: "
            f"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


async def _check_shape(connection: Connection) -> None:
    """Columns, types, keys, and what else would change, hide or refuse rows: see ``inspection``."""
    wanted = (*TABLES, *BOOKKEEPING)
    names = [table.name for table in wanted]
    columns: dict[str, dict[str, FoundColumn]] = {name: {} for name in names}
    for table, *column in await connection.fetch(sql("columns"), names):
        one = FoundColumn(*column)
        columns[table][one.name] = one
    role = await connection.fetchval("SELECT current_user::text")
    told_of: list[str] = []
    for table, (name, kind, *rest) in zip(wanted, await connection.fetch(sql("tables"), names), strict=True):
        if kind is None:
            told_of.append(f"table {name} does not exist{await _elsewhere(connection, name)}")
        else:
            told_of += faults(table, FoundTable(kind, *rest, columns=columns[name]), role)
    if told_of:
        raise SchemaMismatch("; ".join(told_of))


async def _elsewhere(connection: Connection, table: str) -> str:
    """Where a table that we do not see is, and what to do about that."""
    found = await connection.fetchval(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = $1 AND relkind IN ('r', 'p') LIMIT 1",
        table,
    )
    if found is None:
        return "; run `tickloom migrate`"
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return (
        f" for {role}, but there is {found}.{table}: GRANT USAGE ON SCHEMA {found} TO {role}; ALTER ROLE {role} SET search_path = {found}; "
        f"or, where it is another program's, `tickloom migrate`"
    )


async def _check_partitioning(connection: Connection, table: Table, width: Partitioning) -> None:
    kind = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", table.name)
    if (kind == "p") != (width is not Partitioning.NONE):
        is_so = "partitioned" if kind == "p" else "not partitioned"
        raise SchemaMismatch(
            f"table {table.name} is {is_so}, the settings say {width.value}; set {_SETTINGS[table.name]} to what it is, or make the table anew"
        )
    by = await connection.fetchval("SELECT pg_get_partkeydef(to_regclass($1))", table.name)
    if by not in (None, 'RANGE ("timestamp")'):
        raise SchemaMismatch(
            f'table {table.name} is partitioned by {by}; make it anew, PARTITION BY RANGE ("timestamp")'
        )


async def check_widths(connection: Connection, maker: Partitioner, now: datetime) -> None:
    """Whether the partitions from ``now`` on can be made as wide as the settings say.

    Older ones may have any width: what is missing beside them is made narrower. Where this role may make none, it is
    nothing to us how wide they are. Raises ``SchemaMismatch`` with the mend, ``StoreUnavailable``.
    """
    if not await connection.fetchval(_MAY_MAKE):
        return
    for table, width in maker.widths.items():
        holes = (await maker.layout(connection, table)).holes(width, micros_of(now))
        if holes and width is not Partitioning.NONE:
            parts = [Partition(table, moment(hole.start), moment(hole.stop), "") for hole in holes]
            fills = [statement(replace(part, name=f"{table}_from_{part.start:%Y%m%d%H%M}")) for part in parts]
            raise SchemaMismatch(
                f"{table} has partitions of another width than {width.value}, which have but a part of {parts[0].start:%Y-%m-%d}; "
                f"set {_SETTINGS[table]} to what they are, or, for {width.value} ones after them, make what is missing: "
                f"{'; '.join(fills[:4])}{'; …' if len(fills) > 4 else ''}"
            )


_MAY_MAKE = "SELECT has_function_privilege('tickloom.make_partitions(regclass, text[])', 'EXECUTE')"


async def _check_rights(connection: Connection, writes: bool) -> None:
    rights = ("SELECT", "INSERT", "UPDATE") if writes else ("SELECT",)
    missing: dict[str, list[str]] = {}
    for table in (*(table.name for table in TABLES), *(table.name for table in BOOKKEEPING)):
        lacks = [
            right
            for right in rights
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
            f"no right to make temporary tables; as the owner type: GRANT TEMPORARY ON DATABASE {database} TO {role}"
        )


async def claim_source(
    connection: Connection, settings: Settings, cluster_id: str, topic_ids: Mapping[str, str] | None = None
) -> None:
    """Note what the tables are made from, and by which group, or hold it against what was noted.

    Raises ``WrongSource``, ``LogLost``.

    ``topic_ids``: of each topic, where the brokers have such: one that was deleted and made anew has another.
    """
    mine = source_of(settings, cluster_id)
    ids = [(topic_ids or {}).get(topic) for topic in mine[1:3]]
    row = await connection.fetchrow("SELECT * FROM tickloom.source")
    if row is None or row["group_id"] is None or (row["prices_topic_id"], row["volumes_topic_id"]) != tuple(ids):
        async with connection.transaction():
            await connection.execute("LOCK TABLE tickloom.source IN SHARE ROW EXCLUSIVE MODE")
            row = await connection.fetchrow(sql("note_source"), *mine, *ids, settings.kafka_group_id)
    refuse_other_source(row, mine)
    refuse_other_topics(row, settings, topic_ids or {})
    refuse_other_group(row, settings)


def source_of(settings: Settings, cluster_id: str) -> tuple[str, str, str, int]:
    """What tables are made from, in the order of ``tickloom.source``."""
    return (cluster_id, settings.prices_topic, settings.volumes_topic, settings.window_rows)


def refuse_other_topics(noted: Any, settings: Settings, topic_ids: Mapping[str, str]) -> None:
    """Raise ``LogLost`` where a topic has another id than the one that the tables were made from."""
    for topic, before in (
        (settings.prices_topic, noted["prices_topic_id"]),
        (settings.volumes_topic, noted["volumes_topic_id"]),
    ):
        now = topic_ids.get(topic)
        if None not in (now, before) and now != before:
            raise LogLost(
                f"topic {topic} was deleted and made anew (its id is {now}, the tables were made from {before}): the "
                f"ledger's offsets mean other messages there; restore the topic, or start with an empty database for the new one"
            )


def refuse_other_group(noted: Any, settings: Settings) -> None:
    """Raise ``WrongSource`` where another group fills the tables."""
    group = settings.kafka_group_id
    if noted["group_id"] not in (None, group):
        raise WrongSource(
            f"the tables are filled by the group {noted['group_id']!r}, not {group!r}: two groups would take the partitions from "
            f"each other for ever; set TICKLOOM_KAFKA_GROUP_ID to {noted['group_id']!r}, or, to change it for good, stop all "
            f"daemons and run: UPDATE tickloom.source SET group_id = {_quoted(group)}"
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def refuse_other_source(noted: Any, mine: tuple[str, str, str, int]) -> None:
    """Raise ``WrongSource`` where the tables were made from something else than ``mine``."""
    names = ("cluster_id", "prices_topic", "volumes_topic", "window_rows")
    other = [
        f"{name} {noted[name]!r}, not {value!r}"
        for name, value in zip(names, mine, strict=True)
        if noted[name] != value
    ]
    if other:
        raise WrongSource(
            f"the tables were made from {'; '.join(other)}; point the settings back, or use another database for this source"
        )
