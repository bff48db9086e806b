"""Checks that a table can take our rows, and finds the statement that fixes it if it cannot. Pure.

Users may add columns that take NULL or have a default, generated columns, indexes and triggers. Anything that would change,
hide or refuse good rows is a fault: another type, a missing key, a rule, a policy.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tickloom.core.model import FEEDS, Column, Table

_LONG_NAMES = {
    "bool": "boolean",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}
_TYPE = re.compile(r"([a-z0-9_ ]+?)(\(.*\))?(\[\])?")
"""A name, its modifiers, and whether it is an array."""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
_NEVER_NULL = {name for feed in FEEDS.values() for name in (feed.value, feed.average)}
"""Declared without NOT NULL, but no row of ours has a NULL there, so a NOT NULL that somebody added does no harm."""
_RESERVED = {"timestamp", "offset", "partition", "key", "value", "user", "order", "group", "table", "column"}


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as Postgres has it. ``required``: a row without a value for it is refused."""

    name: str
    type: str
    collation: str | None
    not_null: bool
    generated: str
    identity: bool
    required: bool


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table as Postgres has it: see ``sql/tables.sql``."""

    kind: str
    hides: bool
    rule: str | None
    unlogged: str | None
    filled: bool
    key_name: str | None
    key_good: bool
    key_columns: Sequence[str]
    columns: Mapping[str, FoundColumn]


def faults(table: Table, found: FoundTable, role: str) -> list[str]:
    """The faults that keep ``role`` from writing into ``table`` as it was ``found``, each with its fix."""
    name = table.name
    if found.kind not in ("r", "p"):
        return [f"{name} is {_KINDS.get(found.kind, 'not a table')}; rename or drop it, then run `tickloom migrate`"]
    if missing := sorted(set(table.names) - set(found.columns)):
        return [_missing_columns(name, missing)]
    listed = [
        fault for column in table.columns if (fault := _column(table, column, found.columns[column.name], found.kind))
    ]
    listed += [
        f"column {column.name} of {name} takes no NULL and has no default, so every row is refused: "
        f"ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} SET DEFAULT …, or "
        f"ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} DROP NOT NULL"
        for column in found.columns.values()
        if column.required and column.name not in table.names and not found.filled
    ]
    if table.key and not (found.key_good and tuple(found.key_columns) == table.key):
        key = f"PRIMARY KEY ({', '.join(map(quoted, table.key))})"
        drop = "" if found.key_name is None else f"DROP CONSTRAINT {quoted(found.key_name)}, "
        listed.append(f"table {name} lacks its {key}: ALTER TABLE {name} {drop}ADD {key}")
    if found.hides:
        listed.append(
            f"row-level security of {name} applies to role {role}: ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, or "
            f"ALTER ROLE {quoted(role)} BYPASSRLS"
        )
    if found.rule is not None:
        listed.append(f"a rule changes what is written into {name}: DROP RULE {quoted(found.rule)} ON {name}")
    if found.unlogged is not None:
        listed.append(
            f"{found.unlogged} is UNLOGGED, so a crash would empty it and the ledger would not know: "
            f"ALTER TABLE {found.unlogged} SET LOGGED"
        )
    return listed


def _missing_columns(table: str, missing: Sequence[str]) -> str:
    return (
        f"table {table} lacks {', '.join(missing)}; if a column was renamed, ALTER TABLE {table} RENAME COLUMN … TO {quoted(missing[0])}; "
        f"if it was dropped, restore the table from a backup; if another program made the table, rename or drop it, then run "
        f"`tickloom migrate`"
    )


def _column(table: Table, wanted: Column, found: FoundColumn, kind: str) -> str | None:
    """The fault of a column that we write, with its fix; None if it has none."""
    column, alter = (
        f"column {wanted.name} of {table.name}",
        f"ALTER TABLE {table.name} ALTER COLUMN {quoted(wanted.name)}",
    )
    plain, _, collation = wanted.type.partition(" COLLATE ")
    nullable = not (wanted.not_null or wanted.name in _NEVER_NULL or wanted.name in table.key)
    if found.type != _long(plain):
        return f"{column} is {found.type}, not {plain}: {_retyped(wanted, plain, found, alter, kind)}"
    if collation and found.collation != collation.strip('"'):
        return f'{column} has collation "{found.collation}", not {collation}: {alter} TYPE {wanted.type}'
    if found.generated == "v":
        instead = f"DROP COLUMN {quoted(wanted.name)}, ADD COLUMN {quoted(wanted.name)} {wanted.sql}"
        return f"{column} is generated, but we write it: ALTER TABLE {table.name} {instead}, then run `tickloom verify --repair`"
    if found.generated:
        return f"{column} is generated, but we write it: {alter} DROP EXPRESSION"
    if found.identity:
        return f"{column} is an identity, but we write it: {alter} DROP IDENTITY"
    if wanted.not_null and not found.not_null:
        return f"{column} may be NULL: {alter} SET NOT NULL"
    if nullable and found.not_null:
        return f"{column} takes no NULL, but a message may lack the value: {alter} DROP NOT NULL"
    return None


def _long(plain: str) -> str:
    """A type as ``format_type`` writes it."""
    parts = _TYPE.fullmatch(plain.lower())
    if parts is None:
        return plain
    return f"{_LONG_NAMES.get(parts[1], parts[1])}{(parts[2] or '').replace(' ', '')}{parts[3] or ''}"


def _retyped(wanted: Column, plain: str, found: FoundColumn, alter: str, kind: str) -> str:
    if kind == "p" and wanted.name == "timestamp":
        return "it is the partition key, so rename or drop the table, then run `tickloom migrate`"
    value = quoted(wanted.name)
    zoned = plain == "timestamptz" and "without time zone" in found.type
    how = f"{value} AT TIME ZONE 'UTC'" if zoned else f"{value}::{plain}"
    return f"{alter} TYPE {wanted.type} USING {how}"


def quoted(name: str) -> str:
    """An identifier for a statement: in quotes where it needs them."""
    plain = name.isascii() and name.isidentifier() and name.islower() and name not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'
