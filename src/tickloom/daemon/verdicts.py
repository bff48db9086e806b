"""Decides the step after a session: each error leads to one step of a closed set. Pure; ``sessions.py`` takes the steps.

===============================  ======================================================================================
the session raised               the next step
===============================  ======================================================================================
``Fenced``                       ``BackOff``, always: the group is about to report a new assignment
``TooWide``                      ``Restart`` with batches half as large
``Undecided``                    ``Restart`` with a batch that waits twice as long for more rows
``RowsVanished``                 ``BackOff``; ``GiveUp`` if it happens repeatedly without a commit in between
``RowsRefused``                  ``BackOff``, then a careful session, unless a table has been changed
any other ``StateSpoilt``        ``BackOff``, then a session that is no longer careful
``StandBy``                      ``StandAside`` until the other replica is done
``NotCopartitioned``             ``Insist`` if this replica was the only one so far, otherwise ``GiveUp``
``SourceUnavailable``            ``WaitForKafka``
any other error                  ``GiveUp``; the tables are checked first if a changed table may be the cause
===============================  ======================================================================================
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

from tickloom.daemon.mode import MAX_PATIENCE_SECONDS, Mode
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
"""Rows that vanish once were deleted by somebody. If rows keep vanishing, a trigger or a policy hides or holds them."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin the next session at once, in this mode. No wait is needed, because each such step is one of a bounded series."""

    mode: Mode
    message: str


@dataclass(frozen=True, slots=True)
class BackOff:
    """Begin the next session in this mode: at once if this one has committed a batch, otherwise after a growing wait.

    ``always``: wait in any case. ``check_tables``: first check whether the tables still fit this version.
    """

    mode: Mode
    message: str
    always: bool = False
    check_tables: bool = False


@dataclass(frozen=True, slots=True)
class WaitForKafka:
    """Begin the next session in the same mode, after a growing wait."""

    error: SourceUnavailable


@dataclass(frozen=True, slots=True)
class StandAside:
    """Read nothing until this reason no longer holds."""

    reason: StandBy


@dataclass(frozen=True, slots=True)
class Insist:
    """Begin a session that reads everything, although another replica joined. The two cannot share, so the other stands by."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the run with this error. ``check_tables``: first check the tables, because a changed table is the better
    explanation.
    """

    error: Exception
    check_tables: bool = False


Step: TypeAlias = Restart | BackOff | WaitForKafka | StandAside | Insist | GiveUp


def next_step(error: Exception, mode: Mode, *, vanished: int = 0, may_insist: bool = False) -> Step:
    """The step after a session of this ``mode`` that ended with ``error``.

    ``vanished``: how many sessions in a row, including this one, ended because rows had vanished, without a commit in
    between. ``may_insist``: whether this replica has read everything until now.
    """
    match error:
        case Fenced():
            return BackOff(mode, "fenced", always=True)
        case StateSpoilt():
            return _after_spoilt_state(error, mode, vanished)
        case StandBy():
            return StandAside(error)
        case NotCopartitioned() if may_insist:
            return Insist()
        case SourceUnavailable():
            return WaitForKafka(error)
        case DataRefused():
            detail = (
                "the refused row is not one of a batch: find what was added to the database, such as an event trigger"
            )
            return GiveUp(SchemaMismatch(f"{error}; {detail}"), check_tables=True)
        case TickloomError() if not isinstance(error, SchemaMismatch):
            return GiveUp(error)
        case _:  # a bug, or a table that was changed while we ran
            return GiveUp(error, check_tables=True)


def _after_spoilt_state(error: StateSpoilt, mode: Mode, vanished: int) -> Step:
    match error:
        case TooWide():
            return Restart(replace(mode, max_messages=max(1, error.messages // 2)), "smaller batches")
        case Undecided():
            patience = min(2 * mode.patience_seconds or 1, MAX_PATIENCE_SECONDS)
            return Restart(replace(mode, patience_seconds=patience), "waiting for more rows")
        case RowsVanished() if vanished > MAX_VANISHED:
            detail = "yet they can still be read: check the table's triggers and row-level security"
            return GiveUp(Mistake(f"{error}; {detail}"))
        case RowsVanished():
            return BackOff(mode, "rows have vanished: reading the tables again")
        case RowsRefused():
            return BackOff(replace(mode, careful=True), "looking for the refused rows", check_tables=True)
        case _:
            narrow = mode.max_messages if mode.careful else None
            return BackOff(Mode(max_messages=narrow), "reading the tables again")
