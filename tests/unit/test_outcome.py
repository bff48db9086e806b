"""The bounds of a drain, what it counts, and its summary."""

import json
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import structlog
from typer.testing import CliRunner

import tickloom
from tests.commits import batch_of, committed, event_of
from tests.readers import RECORD_MS, chunk
from tickloom.cli import app
from tickloom.core.model import Side
from tickloom.errors import SettingsError
from tickloom.logs import Logger
from tickloom.observe.outcome import Bounds, Ended, Outcome, Tally
from tickloom.store.loader import Loaded


def outcome() -> Outcome:
    tally = Tally()
    tally.add(committed())
    late = batch_of("2026-09-20T09:30:00Z")
    late.gaps.clear()
    tally.add(event_of(late, Loaded(1, 0, 0, Counter())))
    return replace(Outcome.of(tally, Ended.MAX_MESSAGES, 1.25), lag={"topic": 3})


def test_what_a_drain_says_adds_up() -> None:
    """An orchestrator would show rows that are not there, or an hour that nobody touched."""
    found = outcome()
    assert found.messages == found.stored + found.superseded + found.rejected == 5
    assert not found.drained
    assert found.hours == {
        datetime(2026, 9, 20, 9, tzinfo=UTC): 1,
        datetime(2026, 9, 21, 13, tzinfo=UTC): 1,
        datetime(2026, 9, 21, 14, tzinfo=UTC): 2,
    }
    assert sum(found.hours.values()) == found.messages - found.rejected
    assert (found.first_event, found.last_event) == (
        datetime(2026, 9, 20, 9, 30, tzinfo=UTC),
        datetime(2026, 9, 21, 14, 5, tzinfo=UTC),
    )


def test_the_summary_is_json_and_text() -> None:
    """A script could not read it, or a person would not see why it ended and what is left."""
    document = json.loads(json.dumps(outcome().as_dict()))
    assert document["ended"] == "max_messages"
    assert document["rejects"] == {"not_json": 1}
    assert document["gaps"] == [{"topic": "topic", "partition": 1, "from_offset": 7, "to_offset": 9}]
    assert document["lag"] == {"topic": 3}
    assert document["topics"]["topic"] == {"messages": 5, "rejected": 1}
    assert outcome().lines() == [
        "ended by max-messages after 1.2 s: 5 messages, 3 rows stored, 1 superseded, 1 rejected",
        "events from 2026-09-20T09:30:00+00:00 to 2026-09-21T14:05:00+00:00",
        "rejects: not_json 1",
        "gap: topic partition 1 lost the offsets 7 to 8 to retention",
        "lag: topic 3",
    ]


def test_a_drain_of_nothing_says_so() -> None:
    """The first run on an empty topic would end with an error about times that are not there."""
    found = Outcome.of(Tally(), Ended.DRAINED, 0.0)
    assert found.lines() == ["drained after 0.0 s: 0 messages, 0 rows stored, 0 superseded, 0 rejected"]
    assert found.as_dict()["first_event"] is None
    assert found.as_dict()["lag"] is None


@pytest.mark.parametrize("bound", [{"max_seconds": 0.0}, {"max_seconds": float("nan")}, {"max_messages": -1}])
def test_a_bound_that_lets_nothing_be_read_is_refused(bound: dict[str, float]) -> None:
    """A cron job with a zero in it would end well every time, and load nothing for ever."""
    with pytest.raises(SettingsError, match="use more than 0"):
        Bounds(**bound)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [("--max-seconds", "5"), ("--max-messages", "5"), ("--output", "json")])
def test_bounds_without_once_are_refused(option: tuple[str, str]) -> None:
    """A daemon would run for ever though somebody gave it an end."""
    done = CliRunner().invoke(app, ["run", *option])
    assert isinstance(done.exception, SettingsError)
    assert "add --once" in str(done.exception)


def test_a_part_of_a_chunk_is_a_chunk() -> None:
    """A drain that may load five more messages would load six, or give one the offset of another."""
    whole = chunk(Side.PRICES, [b"a", None, b"ccc", b"dd"])
    part = whole.part(1, 3)
    assert part.values == [None, b"ccc"]
    assert part.offsets.tolist() == [1, 2]
    assert part.timestamps_ms.tolist() == [RECORD_MS] * 2
    assert part.value_bytes == 3
    assert len(part.messages) == 2


def test_a_host_without_structlog_hears_us_by_logging(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library would print into its host's standard output, and be silent in its logs."""
    structlog.reset_defaults()
    with caplog.at_level(logging.INFO, "tickloom"):
        Logger("tickloom.daemon").info("took over", partitions=4)
        Logger("tickloom.daemon").debug("too fine")
    assert caplog.messages == ["took over partitions=4"]
    assert capsys.readouterr().out == ""


def test_the_library_has_its_names() -> None:
    """``from tickloom import drain`` is what the documentation says."""
    for name in tickloom.__all__:
        assert getattr(tickloom, name) is not None
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = tickloom.no_such_thing
