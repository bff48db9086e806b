"""What the end of a session means: each error leads to one step of a closed set. Pure; ``sessions.py`` takes the steps.

===============================  ======================================================================================
the session raised               the next step
===============================  ======================================================================================
``Fenced``                       ``BackOff``, always: the group is about to tell us what changed
``TooWide``                      ``Restart`` with batches half as large
``Undecided``                    ``Restart`` with a batch that waits twice as long for more rows
``RowsVanished``                 ``BackOff``; ``GiveUp`` when it happens again and again without a commit in between
``RowsRefused``                  ``BackOff``, then a careful session, unless a table has been changed
any other ``StateSpoilt``        ``BackOff``, then a session that is no longer careful
``StandBy``                      ``StandAside`` until the other replica is done
``NotCopartitioned``             ``Insist`` where this replica was the only one so far, else ``GiveUp``
``SourceUnavailable``            ``WaitForKafka``
any other error                  ``GiveUp``; before what may come from a table that was changed, the tables are checked
===============================  ======================================================================================
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

from tickloom.daemon.manner import MOST_PATIENCE_SECONDS, Manner
from tickloom.errors import (
    DataRefused,
    Fenced,
    Mistake,
    NotCopartitioned,
    RowsRefused,
    RowsVanished,
    SchemaMismatch,
    SourceUnavailable,
    StandBy,
    StateSpoilt,
    TickloomError,
    TooWide,
    Undecided,
)

MAX_VANISHED = 3
"""Rows that vanish once were deleted by somebody. If it goes on like this, something hides or keeps them all the time."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin the next session at once, in this manner: each of these brings the end nearer by itself."""

    manner: Manner
    message: str


@dataclass(frozen=True, slots=True)
class BackOff:
    """Begin the next session in this manner: at once if this one has committed something, else after a wait that grows.

    ``always`` waits in any case. ``check_tables`` first checks whether a table is still what we write into.
    """

    manner: Manner
    message: str
    always: bool = False
    check_tables: bool = False


@dataclass(frozen=True, slots=True)
class WaitForKafka:
    """Begin the next session, in the same manner, after a wait that grows."""

    error: SourceUnavailable


@dataclass(frozen=True, slots=True)
class StandAside:
    """Read nothing until this reason no longer holds."""

    reason: StandBy


@dataclass(frozen=True, slots=True)
class Insist:
    """Begin a session that reads everything, although another replica came: it cannot share, and so has to stand by."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the run with this error. ``check_tables`` first: a table that has been changed explains it better."""

    error: Exception
    check_tables: bool = False


Step: TypeAlias = Restart | BackOff | WaitForKafka | StandAside | Insist | GiveUp


def next_step(error: Exception, manner: Manner, *, vanished: int = 0, may_insist: bool = False) -> Step:
    """The step after a session of this ``manner`` that ended with ``error``.

    ``vanished``: how many sessions in a row, this one included, ended because rows had vanished, without a commit in
    between. ``may_insist``: whether this replica has read everything until now.
    """
    match error:
        case Fenced():
            return BackOff(manner, "fenced", always=True)
        case StateSpoilt():
            return _after_spoilt_state(error, manner, vanished)
        case StandBy():
            return StandAside(error)
        case NotCopartitioned() if may_insist:
            return Insist()
        case SourceUnavailable():
            return WaitForKafka(error)
        case DataRefused():
            detail = "this is not a row of a batch: see what was added to the database (an event trigger?)"
            return GiveUp(SchemaMismatch(f"{error}; {detail}"), check_tables=True)
        case TickloomError() if not isinstance(error, SchemaMismatch):
            return GiveUp(error)
        case _:  # a bug, or a table that was changed under us
            return GiveUp(error, check_tables=True)


def _after_spoilt_state(error: StateSpoilt, manner: Manner, vanished: int) -> Step:
    match error:
        case TooWide():
            return Restart(replace(manner, max_messages=max(1, error.messages // 2)), "smaller batches")
        case Undecided():
            patience = min(2 * manner.patience_seconds or 1, MOST_PATIENCE_SECONDS)
            return Restart(replace(manner, patience_seconds=patience), "waiting for more rows")
        case RowsVanished() if vanished > MAX_VANISHED:
            detail = "yet they can still be read: see the table's triggers and row-level security"
            return GiveUp(Mistake(f"{error}; {detail}"))
        case RowsVanished():
            return BackOff(manner, "rows have vanished: the tables are read again")
        case RowsRefused():
            return BackOff(replace(manner, careful=True), "looking for the refused rows", check_tables=True)
        case _:
            narrow = manner.max_messages if manner.careful else None
            return BackOff(Manner(max_messages=narrow), "the tables are read again")
