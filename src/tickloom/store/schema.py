"""The tables that this version writes: the output tables, declared in ``core.model``, and the bookkeeping, declared here.

``migrate`` creates them, and ``check`` compares the existing tables with these declarations.
"""

from collections.abc import Mapping

from tickloom.core.model import ANALYTICS, PRICES, VOLUMES, Column, Table
from tickloom.settings import Partitioning, Settings
from tickloom.store.outputs import declared, tables
from tickloom.store.partitions import Partitioner


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
    _bookkeeping("outputs", {"name": "text NOT NULL", "definition": "text NOT NULL"}, "name"),
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
"""The tables that ``migrations/`` creates in the schema ``tickloom``, as ``check`` expects to find them: columns and key."""

_PARTITIONING_SETTINGS = {
    PRICES.name: "TICKLOOM_PRICES_PARTITIONING",
    VOLUMES.name: "TICKLOOM_VOLUMES_PARTITIONING",
    ANALYTICS.name: "TICKLOOM_ANALYTICS_PARTITIONING",
}


def partitioning_setting(table: str) -> str:
    """The setting, or the declaration, that decides how wide the partitions of a table are; for messages."""
    return _PARTITIONING_SETTINGS.get(table, f"partitioning in the declaration of {table}")


def partitioning(settings: Settings, table: Table) -> Partitioning:
    """The width of an output table's partitions, by the settings or its declaration."""
    wanted = {
        PRICES.name: settings.prices_partitioning,
        VOLUMES.name: settings.volumes_partitioning,
        ANALYTICS.name: settings.analytics_partitioning,
        **{output.name: output.partitioning for output in declared()},
    }
    return wanted[table.name]


def partitioner(settings: Settings) -> Partitioner:
    """A partitioner for all output tables, with the widths that ``partitioning`` gives them."""
    return Partitioner({table.name: partitioning(settings, table) for table in tables()}, settings.partitions_ahead)


def table_ddl(table: Table, width: Partitioning) -> str:
    """``CREATE TABLE`` of an output table."""
    columns = ", ".join(f'"{column.name}" {column.sql}' for column in table.columns)
    key = ", ".join(f'"{name}"' for name in table.key)
    tail = "" if width is Partitioning.NONE else ' PARTITION BY RANGE ("timestamp")'
    return f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({key})){tail}"
