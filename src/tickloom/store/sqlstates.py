"""Turns an error of Postgres into the project's own, by its SQLSTATE.

Classes (PostgreSQL documentation, appendix A): 22, 23, P0 and those that Postgres itself never uses (a user's trigger
raises them) are bad data; 08, 25, 40, 53, 55, 57, 58 and XX are bad days, which the retry loop waits out; the rest (no
table, no right, no such database) are mistakes that a person must fix.
"""

from typing import Any

from tickloom.errors import (
    DataRefused,
    Garbled,
    LockHeld,
    LocksExhausted,
    NotAllowed,
    SchemaMismatch,
    SettingsError,
    StoreUnavailable,
    TickloomError,
)

_BAD_DAY = ("08", "25", "40", "53", "55", "57", "58", "XX")
_OTHERS = (
    *("00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24", "26", "27", "28", "2B"),
    *("2D", "2F", "34", "38", "39", "3B", "3D", "3F", "42", "44", "54", "F0", "HV"),
)
_NOT_OUR_COLUMNS = ("22P03", "22P04")
"""Postgres cannot read a COPY, which is right for our columns: somebody has changed a column's type."""
NO_REFUSALS = (*_BAD_DAY, *_OTHERS, *_NOT_OUR_COLUMNS)
"""SQLSTATEs, or classes of them, that are not about a row."""
SESSION_MODE = (
    "give this database session mode (pgbouncer: pool_mode = session for it, or for the user), or point TICKLOOM_DATABASE_URL "
    "past the pooler"
)
"""The fix for a pooler that gives one client several servers."""


def first_line(message: str) -> str:
    """The first line of a message of Postgres, or of a user's trigger, which may be empty."""
    return next(iter(message.splitlines()), "")


def classify(error: Any, source: str = "TICKLOOM_DATABASE_URL") -> TickloomError:
    """The project's error for an asyncpg error, by its SQLSTATE. ``source``: where the database's address was found."""
    state = str(getattr(error, "sqlstate", None) or "XX000")
    message = f"{first_line(str(error))} (SQLSTATE {state})"
    if state == "23514" and not error.constraint_name and error.table_name:  # without a table: raised by a trigger
        return StoreUnavailable(
            f"{message}; the partition was dropped, or this session does not see it yet; it is made again"
        )
    if state in {"08P01", "XX000"}:
        return Garbled(message)
    if state == "55P03":
        return LockHeld(message)
    if state == "53200" and "max_locks_per_transaction" in str(getattr(error, "hint", "")):
        return LocksExhausted(
            f"{message}: the server's table of locks is full; raise max_locks_per_transaction in postgresql.conf and restart "
            f"the server, or keep fewer partitions: `tickloom check` says how many fit"
        )
    if state in _NOT_OUR_COLUMNS:
        return SchemaMismatch(
            f"{message}; the column's type was changed: `tickloom check` prints the statement that fixes it"
        )
    if not state.startswith(NO_REFUSALS):
        return DataRefused(message)
    if state == "25006":
        return StoreUnavailable(
            f"{message}: this is a standby, or default_transaction_read_only is on for the role or the database "
            f"(ALTER ROLE … or ALTER DATABASE … RESET default_transaction_read_only)"
        )
    if state.startswith(_BAD_DAY):
        return StoreUnavailable(message)
    return _mistake(state, message, source)


def _mistake(state: str, message: str, source: str) -> TickloomError:
    """The error for an SQLSTATE that a person must act on."""
    if state in {"26000", "42P05"}:  # a statement that was prepared in another session
        return SettingsError(f"{message}: a pooler in transaction mode stands in between; {SESSION_MODE}")
    if state in {"42P01", "42703", "3F000", "42883", "42804"}:
        return SchemaMismatch(f"{message}; run `tickloom migrate`")
    if state == "42501":
        return NotAllowed(f"{message}; grant the role its rights: `tickloom check` prints what to type")
    if state.startswith("28"):
        return SettingsError(f"{message}; fix user and password in {source}")
    if state == "3D000":
        return SettingsError(f"{message}; create the database, or name another one in {source}")
    return SchemaMismatch(
        f"{message}; trying again will not help: look the SQLSTATE up in PostgreSQL's documentation, and fix its cause"
    )
