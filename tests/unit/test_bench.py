"""The bench's arithmetic: a figure that is computed wrongly is worse than none."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from tests.reference import Record, reason_of
from tickloom import bench
from tickloom.bench.child import Outcome, environment
from tickloom.bench.databases import at_database, database_of
from tickloom.bench.latency import Latency
from tickloom.bench.plan import LOG_HOURS, LogPlan, Plan, log_of, one_pair_each
from tickloom.bench.report import Found, document, percentiles, picture, ratio
from tickloom.bench.steady import Restart
from tickloom.bench.throughput import Shaped, Throughput
from tickloom.settings import Settings
from tickloom.shapes import SHAPES, reshaped
from tickloom.synthetic import Tick

END = datetime(2026, 3, 1, 12, tzinfo=UTC)


def settings(url: str = "postgresql://u:p@h/d") -> Settings:
    return Settings(database_url=url)  # type: ignore[arg-type]


def event(tick: Tick) -> datetime:
    found = re.search(rb'"timestamp":"([^"]+)"', tick.value or b"")
    assert found
    return datetime.fromisoformat(found[1].decode())


def test_a_ratio_is_taken_within_each_repetition() -> None:
    """Machines drift: the median of both, divided, may come from two different hours."""
    assert ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == 0.5
    assert ratio([1.0, 10.0, 2.0], [2.0, 10.0, 8.0]) == 0.5  # 0.5, 1.0, 0.25; of the medians it would be 0.25


def test_percentiles_are_values_that_were_seen() -> None:
    """An interpolated p99.9 is a latency that nobody had; of one slow message in a thousand, the maximum tells."""
    found = percentiles([0.001] * 990 + [0.1] * 9 + [5.0])
    assert found == {"p50_ms": 1.0, "p99_ms": 1.0, "p999_ms": 100.0, "max_ms": 5000.0}


def test_volumes_come_so_many_prices_behind() -> None:
    """A side that lags by 200,000 messages in the asking must lag by as many in the log, in record time too."""
    plain = list(log_of(LogPlan(messages=2_000, symbols=20), END))
    ticks = list(log_of(LogPlan(messages=2_000, symbols=20, volumes_behind=300), END))
    assert Counter((tick.topic_side, tick.value) for tick in ticks) == Counter(
        (tick.topic_side, tick.value) for tick in plain
    )
    prices, at = 0, {}
    behind = []
    for tick in ticks:
        if tick.topic_side == "prices":
            prices += 1
            at[tick.key, event(tick)] = prices
        else:
            behind.append(prices - at[tick.key, event(tick)])
    assert behind == [300] * 700 + list(range(299, -1, -1))
    assert [tick.timestamp_ms for tick in ticks] == sorted(tick.timestamp_ms for tick in ticks)


@pytest.mark.parametrize("log", [LogPlan(messages=4_000), LogPlan(messages=4_000, disorder=0.1, late_hours=0.05)])
def test_no_event_lies_outside_of_what_the_copy_floor_gets(log: LogPlan) -> None:
    """A floor that copies fewer rows than the daemon wrote is too fast; one that copies history cannot be loaded."""
    events = [event(tick) for tick in log_of(log, END)]
    assert len(events) == 4_000
    assert log.history_end(END) <= log.first_event(END) <= min(events)
    assert max(events) < END
    minutes = reshaped(log_of(log, END), SHAPES["iso-mixed"])
    verdicts = [reason_of(Record(t.topic_side, "", 0, 0, t.key, t.value, t.timestamp_ms)) for t in minutes]
    cut = [verdict["micros"] for verdict in verdicts if isinstance(verdict, dict)]
    assert log.first_event(END).timestamp() * 1_000_000 <= min(cut)
    late = sum(moment < END - timedelta(hours=LOG_HOURS) for moment in events)
    assert (late > 0) == (log.late_hours > 0)


def test_a_pair_for_each_symbol() -> None:
    """A restart is measured to the last symbol's row: one without a pair would be waited for until the time limit."""
    ticks = list(one_pair_each(["A", "B"], END))
    assert [(tick.topic_side, tick.key) for tick in ticks] == [
        ("prices", b"A"),
        ("volumes", b"A"),
        ("prices", b"B"),
        ("volumes", b"B"),
    ]
    assert {event(tick) for tick in ticks} == {END}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p%40@h:5/d?sslmode=require", "postgresql://u:p%40@h:5/x?sslmode=require"),
        ("postgresql://u@/d?host=/run/pg", "postgresql://u@/x?host=/run/pg"),
        ("postgresql:///d", "postgresql:///x"),
        ("postgresql://h", "postgresql://h/x"),
    ],
)
def test_another_database_of_the_same_server(url: str, expected: str) -> None:
    """A URL that loses its host or its options on the way would bench another server, or the user's own tables."""
    moved = at_database(settings(url), "x")
    assert moved.database_dsn() == expected
    assert database_of(moved) == "x"


def test_the_password_goes_with_the_url() -> None:
    """Where the password has its own setting, the bench's databases need it as well."""
    given = Settings(database_url="postgresql://u@h/d", database_password="a b")  # type: ignore[arg-type]
    assert at_database(given, "x").database_dsn() == "postgresql://u:a%20b@h/x"


def test_the_daemon_gets_the_bench_s_places_and_the_user_s_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forgotten variable, or its _FILE twin, and the measured daemon writes into the user's own tables."""
    mine = settings().model_copy(update={"kafka_group_id": "mine", "prices_topic": "p", "volumes_topic": "v"})
    monkeypatch.setenv("TICKLOOM_DATABASE_URL_FILE", "/somewhere")
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("TICKLOOM_KAFKA_GROUP_ID", "theirs")
    monkeypatch.setenv("TICKLOOM_BATCH_MAX_MESSAGES", "5")
    given = environment(mine)
    assert given["TICKLOOM_BATCH_MAX_MESSAGES"] == "5"
    assert given["TICKLOOM_KAFKA_GROUP_ID"] == "mine"
    assert (given["TICKLOOM_PRICES_TOPIC"], given["TICKLOOM_VOLUMES_TOPIC"]) == ("p", "v")
    assert given["TICKLOOM_DATABASE_URL"] == "postgresql://u:p@h/d"
    assert not {"TICKLOOM_DATABASE_URL_FILE", "TICKLOOM_DATABASE_PASSWORD"} & given.keys()


def test_the_document_and_its_picture() -> None:
    """Other programs read the document: each of its keys is explained in the package's docstring, and there are no others."""
    outcome = Outcome(2.0, 1.0, {"start": 0.25, "decode": 0.5, "other": 0.25}, 2**28)
    half_as_fast = Outcome(4.0, 3.0, {"start": 0.25, "decode": 2.5, "other": 0.25}, 2**28)
    plan = Plan(LogPlan(messages=1_000_000, symbols=7), rates=(10,), idle=True, restart=True)
    latency = Latency(10, 20, 200, looks=[0.005], late=[0.0], cpu_share=0.123)
    for seen in latency.by_table.values():
        seen.append(0.1)
    found = Found(
        Throughput(1_000_000, 1_500_000, [1.0], [1.5], [outcome], [outcome]),
        [Shaped(SHAPES["bad-1"], [half_as_fast], [outcome])],
        [latency],
        0.011,
        Restart(7, 168, 75, [1.25], [1.5]),
    )
    report = document(plan, settings(), found, END, {"python": "3", "kafka": None}, {"cpus": 2, "memory_bytes": 2**30})
    report["machine"]["system"] = "Linux"
    report["versions"] |= dict.fromkeys(("polars", "confluent_kafka", "librdkafka", "postgres"), "1")
    end_to_end = report["throughput"]["end_to_end"]
    assert end_to_end["messages_per_second"] == 500_000
    assert end_to_end["cpu_by_stage"] == outcome.cpu_by_stage
    assert report["throughput"]["copy_floor"]["rows_per_second"] == 1_000_000
    assert report["throughput"]["ratios"]["end_to_end_to_copy_floor"] == 0.75
    plain, bad = report["shapes"]
    assert (plain["shape"], plain["ratio_to_plain"], plain["decode_cpu_seconds_per_million"]) == ("plain", 1.0, 0.5)
    assert (bad["shape"], bad["ratio_to_plain"], bad["decode_cpu_seconds_per_million"]) == ("bad-1", 0.5, 2.5)
    assert (bad["messages_per_second"], bad["cpu_seconds_per_million"]) == (250_000, 3.0)
    for key in keys_of(report) - settings().shown().keys():
        assert re.search(rf"\b{key}\b", bench.__doc__ or ""), f"{key} is not report in the docstring"
    console = Console(width=120, file=StringIO())
    console.print(picture(report))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "read floor",
        "COPY floor",
        "plain log",
        "0.75 of it",
        "decode 0.50",
        "256 MiB",
        "bad-1",
        "250,000",
        "p99.9",
        "1.1% of a core",
        "CPU meanwhile: 12.3% of a core",
    ):
        assert part in shown


def keys_of(document: object) -> set[str]:
    """All keys of a document, at any depth."""
    if isinstance(document, list):
        return {key for value in document for key in keys_of(value)}
    if not isinstance(document, dict):
        return set()
    return set(document) | {key for value in document.values() for key in keys_of(value)}
