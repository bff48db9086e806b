"""The pure parts of the Dagster integration."""

import base64
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from tickloom.errors import SettingsError
from tickloom.integrations.dagster import pictures
from tickloom.integrations.dagster.looks import Sides, hours_of, spans_of
from tickloom.integrations.dagster.resource import DagsterSettings, read_knobs
from tickloom.settings import unknown_variables
from tickloom.store.slices import Span

TEN = datetime(2026, 11, 24, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_symbol_breaks_no_table() -> None:
    """A symbol with a bar or a tag in it would shift all columns, or put its own markup on the page."""
    text = pictures.table(("symbol", "price"), [("a|b<i>\n", 1.5), ("*S*", None)])
    lines = text.splitlines()
    assert lines[0] == "| symbol | price |"
    assert len(lines) == 4
    assert all(line.count("|") == 3 for line in lines)
    assert "<" not in text
    assert "*" not in text
    assert pictures.table(("symbol",), []) == "No row in this range."


def test_the_chart_is_a_picture() -> None:
    """The page would show a broken image, or bars that are not the counts."""
    last = TEN + timedelta(minutes=30, seconds=12)
    minutes = {TEN + timedelta(minutes=minute): minute for minute in range(31)}
    (encoded,) = re.findall(r"base64,([^)]+)\)", pictures.chart(minutes, last))
    root = ET.fromstring(base64.b64decode(encoded))
    bars = [float(bar.attrib["height"]) for bar in root.findall("{*}g/{*}rect")]
    assert len(bars) == 60
    assert bars[:30] == [0.0] * 30  # the half hour before
    assert bars[-1] == max(bars) == 64
    assert bars[-16] == 32
    assert "30 rows a minute at most" in "".join(root.itertext())


def test_the_sparkline_is_an_hour() -> None:
    """A minute with one row would look like one with none."""
    line = pictures.sparkline({TEN: 1_000, TEN - timedelta(minutes=59): 1}, TEN)
    assert len(line) == 60
    assert (line[0], line[1], line[-1]) == ("▁", " ", "█")
    assert pictures.sparkline({}, TEN) == " " * 60


def test_touched_hours_become_few_spans() -> None:
    """Each hour would be verified by itself, or hours in between that nobody touched."""
    hours = [TEN + 5 * HOUR, TEN, TEN + HOUR, TEN - 100 * HOUR]
    assert spans_of(hours, 3) == [Span(TEN, TEN + 2 * HOUR), Span(TEN + 5 * HOUR, TEN + 6 * HOUR)]
    assert spans_of([], 3) == []
    assert hours_of(Span(TEN, TEN + 2 * HOUR)) == [TEN, TEN + HOUR]


@pytest.mark.parametrize(("sides", "share"), [(Sides(), 0.0), (Sides(3, 1, 0), 0.25), (Sides(0, 1, 1), 1.0)])
def test_the_share_of_lonely_keys(sides: Sides, share: float) -> None:
    """An empty range would divide by nothing."""
    assert sides.share == share


def test_where_the_hours_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late hours that tickloom still takes would have no partition."""
    now = datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
    assert DagsterSettings().first_hour(now) == datetime(2026, 1, 1, tzinfo=UTC)  # type: ignore[call-arg]
    monkeypatch.setenv("TICKLOOM_DAGSTER_HOURS_FROM", "2026-02-03T04:05:06+01:00")
    assert DagsterSettings().first_hour(now) == datetime(2026, 2, 3, 3, tzinfo=UTC)  # type: ignore[call-arg]


def test_check_does_not_complain_of_the_integration() -> None:
    """``tickloom check`` would ask to remove variables that are in use."""
    assert unknown_variables(["TICKLOOM_DAGSTER_ALERT_URL"]) == {}


def test_a_misspelt_knob_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs would take a hundred seconds, whatever was meant, and no word of it."""
    for name in ("TICKLOOM_DAGSTER_SERVICE_HOST", "TICKLOOM_DAGSTER_PORT_3000_TCP", "TICKLOOM_WINDOW_ROW"):
        monkeypatch.setenv(name, "x")  # Kubernetes', and the daemon's own affair
    read_knobs()
    monkeypatch.setenv("TICKLOOM_DAGSTER_MAX_SECOND", "20")
    with pytest.raises(SettingsError, match="did you mean TICKLOOM_DAGSTER_MAX_SECONDS"):
        read_knobs()
