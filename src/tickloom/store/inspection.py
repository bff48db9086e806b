"""Whether a table is what we write into, and the statement that mends it. Pure.

What a user adds is welcome: columns that take NULL or have a default, generated ones, indexes, triggers. What is
refused is what would change, hide or refuse rows that are good: another type, a key that is gone, a rule, a policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tickloom.core.model import FEEDS, Column, Table

_LONG_NAMES = {
    "float8": "double precision",
    "int": "integer",
    "timestamptz": "timestamp with time zone",
}
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
_NEVER_NULL = {name for feed in FEEDS.values() for name in (feed.value, feed.average)}
"""Declared so that they may be, but no row of ours has a NULL there: NOT NULL does no harm."""
_RESERVED = {"timestamp", "offset", "partition", "key", "value", "user", "order", "group", "table", "column"}


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as it is. ``required``: who does not write it is refused."""

    name: str
    type: str
    collation: str | None
    not_null: bool
    generated: str
    identity: bool
    required: bool


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table as it is: see ``sql/tables.sql``."""

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
    """What of ``table`` keeps us from writing into it, each with its mend; ``role``: who we are there."""
    name = table.name
    if found.kind not in ("r", "p"):
        return [f"{name} is {_KINDS.get(found.kind, 'no table')}; rename or drop it, then `tickloom migrate`"]
    if missing := sorted(set(table.names) - set(found.columns)):
        return [_lacks(name, missing)]
    told = [
        fault for column in table.columns if (fault := _column(table, column, found.columns[column.name], found.kind))
    ]
    told += [
        f"column {column.name} of {name} takes no NULL and has no default, so every row is refused: "
        f"ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} SET DEFAULT …, or "
        f"ALTER TABLE {name} ALTER COLUMN {quoted(column.name)} DROP NOT NULL"
        for column in found.columns.values()
        if column.required and column.name not in table.names and not found.filled
    ]
    if table.key and not (found.key_good and tuple(found.key_columns) == table.key):
        key = f"PRIMARY KEY ({', '.join(map(quoted, table.key))})"
        drop = "" if found.key_name is None else f"DROP CONSTRAINT {quoted(found.key_name)}, "
        told.append(f"table {name} lacks its {key}: ALTER TABLE {name} {drop}ADD {key}")
    if found.hides:
        told.append(
            f"row-level security of {name} holds for role {role}: ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, or "
            f"ALTER ROLE {quoted(role)} BYPASSRLS"
        )
    if found.rule is not None:
        told.append(f"a rule changes what is written into {name}: DROP RULE {quoted(found.rule)} ON {name}")
    if found.unlogged is not None:
        told.append(
            f"{found.unlogged} is UNLOGGED: a crash would empty it behind the ledger's back: "
            f"ALTER TABLE {found.unlogged} SET LOGGED"
        )
    return told


def _lacks(table: str, missing: Sequence[str]) -> str:
    lacks = f"table {table} lacks {', '.join(missing)}; run `tickloom migrate`, which adds what an older version lacked"
    renamed = f"if a column was renamed, ALTER TABLE {table} RENAME COLUMN … TO {quoted(missing[0])}"
    return f"{lacks}; {renamed}; if another program made the table, rename or drop it before"


def _column(table: Table, wanted: Column, found: FoundColumn, kind: str) -> str | None:
    """What is wrong with a column that we write."""
    column, alter = (
        f"column {wanted.name} of {table.name}",
        f"ALTER TABLE {table.name} ALTER COLUMN {quoted(wanted.name)}",
    )
    plain, _, collation = wanted.type.partition(" COLLATE ")
    nullable = not (wanted.not_null or wanted.name in _NEVER_NULL or wanted.name in table.key)
    if found.type != _LONG_NAMES.get(plain, plain):
        return f"{column} is {found.type}, not {plain}: {_retyped(wanted, plain, found, alter, kind)}"
    if collation and found.collation != collation.strip('"'):
        return f'{column} has collation "{found.collation}", not {collation}: {alter} TYPE {wanted.type}'
    if found.generated == "v":
        anew = f"DROP COLUMN {quoted(wanted.name)}, ADD COLUMN {quoted(wanted.name)} {wanted.sql}"
        return (
            f"{column} is generated, but we write it: ALTER TABLE {table.name} {anew}, then `tickloom verify --repair`"
        )
    if found.generated:
        return f"{column} is generated, but we write it: {alter} DROP EXPRESSION"
    if found.identity:
        return f"{column} is an identity, but we write it: {alter} DROP IDENTITY"
    if wanted.not_null and not found.not_null:
        return f"{column} may be NULL: {alter} SET NOT NULL"
    if nullable and found.not_null:
        return f"{column} takes no NULL, which messages may leave there: {alter} DROP NOT NULL"
    return None


def _retyped(wanted: Column, plain: str, found: FoundColumn, alter: str, kind: str) -> str:
    if kind == "p" and wanted.name == "timestamp":
        return "it is the partition key, so rename or drop the table, then `tickloom migrate`"
    value = quoted(wanted.name)
    zoned = plain == "timestamptz" and "without time zone" in found.type
    how = f"{value} AT TIME ZONE 'UTC'" if zoned else f"{value}::{plain}"
    return f"{alter} TYPE {wanted.type} USING {how}"


def quoted(name: str) -> str:
    """An identifier as a statement has it."""
    plain = name.isascii() and name.isidentifier() and name.islower() and name not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'
