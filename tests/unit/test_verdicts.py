"""What the end of a session leads to, error by error."""

import pytest

from tickloom import errors
from tickloom.daemon.mode import Mode
from tickloom.daemon.verdicts import (
    MAX_VANISHED,
    BackOff,
    GiveUp,
    Insist,
    Restart,
    StandAside,
    WaitForKafka,
    next_step,
)
from tickloom.errors import (
    AwayFromHome,
    DataRefused,
    Fenced,
    Mistake,
    NotCopartitioned,
    RowsRefused,
    RowsVanished,
    SchemaMismatch,
    SourceRefuses,
    SourceUnavailable,
    StandBy,
    StateSpoilt,
    TickloomError,
    TooWide,
    Undecided,
)

USUAL = Mode()
CAREFUL = Mode(careful=True, patience_seconds=4, max_messages=50)


@pytest.mark.parametrize("mode", [USUAL, CAREFUL])
def test_a_fenced_session_always_waits(mode: Mode) -> None:
    """Two owners of one partition would take it from each other without end, committing a batch each time."""
    assert next_step(Fenced("x"), mode) == BackOff(mode, "fenced", always=True)


@pytest.mark.parametrize(("messages", "most"), [(1_000, 500), (3, 1), (1, 1)])
def test_batches_get_narrower(messages: int, most: int) -> None:
    """A batch that needs more locks than the server has would be tried for ever."""
    step = next_step(TooWide(messages), USUAL)
    assert isinstance(step, Restart)
    assert step.mode == Mode(max_messages=most)


@pytest.mark.parametrize(("patience", "then"), [(0, 1), (1, 2), (4, 8), (8, 8)])
def test_patience_grows_up_to_a_limit(patience: float, then: float) -> None:
    """It would take minutes to tell a table that refuses everything from a bad row."""
    step = next_step(Undecided("x"), Mode(careful=True, patience_seconds=patience))
    assert isinstance(step, Restart)
    assert step.mode == Mode(careful=True, patience_seconds=then)


def test_rows_that_vanish_again_and_again_are_a_mistake() -> None:
    """A row-level policy that hides rows would keep the daemon reading the same batch for ever."""
    assert isinstance(next_step(RowsVanished("x"), USUAL, vanished=MAX_VANISHED), BackOff)
    step = next_step(RowsVanished("x"), USUAL, vanished=MAX_VANISHED + 1)
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, Mistake)
    assert "row-level security" in str(step.error)


def test_a_refused_row_is_looked_for_with_care() -> None:
    """One row that Postgres refuses would stop the whole stream."""
    step = next_step(RowsRefused("x"), Mode(max_messages=50))
    assert isinstance(step, BackOff)
    assert step.mode == Mode(careful=True, max_messages=50)
    assert step.check_tables, "a table that was changed refuses rows, too"


@pytest.mark.parametrize("error", [StateSpoilt("x"), AwayFromHome("x")])
@pytest.mark.parametrize(
    ("mode", "then"), [(USUAL, USUAL), (CAREFUL, Mode(max_messages=50)), (Mode(max_messages=50), USUAL)]
)
def test_spoilt_state_is_thrown_away(error: StateSpoilt, mode: Mode, then: Mode) -> None:
    """The daemon would stay careful, and slow, long after the last bad row."""
    step = next_step(error, mode)
    assert isinstance(step, BackOff)
    assert (step.mode, step.always, step.check_tables) == (then, False, False)


def test_replicas_that_cannot_share() -> None:
    """A second replica would end the first one, which has read everything so far."""
    error = NotCopartitioned("x")
    assert next_step(error, USUAL, may_insist=True) == Insist()
    assert next_step(error, USUAL) == GiveUp(error)
    aside = StandBy(3)
    assert next_step(aside, USUAL) == StandAside(aside)


@pytest.mark.parametrize("error", [SourceUnavailable("x"), SourceRefuses("x")])
def test_kafka_is_waited_for(error: SourceUnavailable) -> None:
    """A broker's restart would end the daemon."""
    assert next_step(error, USUAL) == WaitForKafka(error)


@pytest.mark.parametrize(
    ("error", "check_tables"),
    [(Mistake("x"), False), (errors.LogLost("x"), False), (SchemaMismatch("x"), True), (ValueError("x"), True)],
)
def test_what_ends_the_run(error: Exception, check_tables: bool) -> None:
    """A mistake would be tried again without end, or a changed table would look like a bug."""
    assert next_step(error, USUAL) == GiveUp(error, check_tables=check_tables)


def test_refused_data_that_belongs_to_no_batch() -> None:
    """An event trigger that raises an error would be waited out as if it were a row."""
    step = next_step(DataRefused("x"), USUAL)
    assert isinstance(step, GiveUp)
    assert isinstance(step.error, SchemaMismatch)
    assert step.check_tables


def test_every_error_has_a_step() -> None:
    """A new kind of error would end a session without any next step."""

    def all_of(kind: type[TickloomError]) -> list[type[TickloomError]]:
        return [kind, *(one for below in kind.__subclasses__() for one in all_of(below))]

    for kind in all_of(TickloomError):
        error = kind(1) if kind in (TooWide, StandBy) else kind("x")  # type: ignore[arg-type]
        step = next_step(error, USUAL)
        assert isinstance(step, GiveUp) is not isinstance(error, (Fenced, StateSpoilt, StandBy, SourceUnavailable))
