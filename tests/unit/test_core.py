"""Small promises of the pure parts: settings, partitions, gather, COPY bytes."""

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickloom import settings as settings_module
from tickloom.core.copy_binary import POSTGRES_EPOCH_MICROSECONDS, SIGNATURE, TRAILER, SymbolBytes, encode
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import Chunk, Decoded, EndOfPartition, Gap, Reason, Reject, Side, TopicPartition, rows_schema
from tickloom.core.quality import RefusalWatch, RejectLimits, RejectWatch, Verdict
from tickloom.errors import LogLost, SettingsError, TooManyRejects
from tickloom.settings import GapPolicy, Partitioning
from tickloom.source.reader import Reader, Room, find_gap
from tickloom.store.partitions import partition_at, partitions_for

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
WIDTHS = [Partitioning.HOURLY, Partitioning.DAILY, Partitioning.MONTHLY]
AT = TopicPartition("p", 0)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TICKLOOM_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("width", WIDTHS)
@given(moment=MOMENTS)
def test_partitions_are_half_open_and_contiguous(width: Partitioning, moment: datetime) -> None:
    """A row between two partitions could not be stored; one in two would stop their creation."""
    found = partition_at("t", width, moment)
    assert found.start <= moment < found.stop
    assert partition_at("t", width, found.start) == found
    after = partition_at("t", width, found.stop)
    assert after.start == found.stop
    assert after.name > found.name


@pytest.mark.parametrize(
    ("width", "name", "stop"),
    [
        (Partitioning.HOURLY, "stock_prices_2026123123", datetime(2027, 1, 1, tzinfo=UTC)),
        (Partitioning.DAILY, "stock_prices_20261231", datetime(2027, 1, 1, tzinfo=UTC)),
        (Partitioning.MONTHLY, "stock_prices_202612", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_partition_names(width: Partitioning, name: str, stop: datetime) -> None:
    """Operators find and drop partitions by name."""
    found = partition_at("stock_prices", width, datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert (found.name, found.stop) == (name, stop)


@pytest.mark.parametrize("width", WIDTHS)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=20))
def test_partitions_for_rows(width: Partitioning, moments: list[datetime]) -> None:
    """A partition that is not made is a batch that is refused."""
    micros = np.array([(m - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for m in moments])
    assert partitions_for("t", width, micros) == sorted({partition_at("t", width, m) for m in moments})


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    takes=st.lists(st.booleans(), max_size=80),
    max_chunks=st.integers(1, 4),
    max_bytes=st.integers(1, 40),
)
def test_room_is_bounded(sizes: list[int], takes: list[bool], max_chunks: int, max_bytes: int) -> None:
    """Messages of a megabyte, read faster than Postgres takes them, would fill the memory; or nothing would move."""
    room, inside = Room(max_chunks, max_bytes), list[int]()
    for size, take in zip(sizes, takes, strict=False):
        if take and inside:
            room.leave()
            inside.pop(0)
        fits = not inside or (len(inside) < max_chunks and sum(inside) + size <= max_bytes)
        assert room.enter(size, 0) is fits
        inside += [size] if fits else []


@pytest.mark.parametrize("busy", list(Side))
def test_a_busy_side_does_not_keep_the_other_waiting(busy: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that arrive would be seen only when the other topic pauses for breath: seconds late, or never."""
    reader = Reader(settings_module.Settings(), frozenset())
    reader._newest_ms[busy] = {0: 2}  # and both sides' logs are read to their ends
    asked: list[Side] = []

    def read(side: Side, _: float) -> bool:
        asked.append(side)
        if len(asked) == 40:
            reader._stop.set()
        return side is busy

    monkeypatch.setattr(reader, "_read", read)
    reader._run()
    reader.stop()
    assert asked.count(busy.other) == 20


def test_a_dead_letter_counts_whole() -> None:
    """Bad messages whose keys and headers are large would fill the memory, for only their values were counted."""
    gatherer = Gatherer(BatchLimits(10**9, 1_000, 1), {AT: 0})
    headers = (("trace", b"x" * 500), ("none", None))
    letter = Reject(AT, 0, b"k" * 500, b"?", headers, 0, Reason.NOT_JSON, "")
    chunk = Chunk(Side.PRICES, "p", [], [b"?"], [0], [0], [0])
    gatherer.add(Decoded(chunk, pl.DataFrame(schema=rows_schema(Side.PRICES)), [letter]), 0)
    assert gatherer.full()


def test_defaults() -> None:
    """Other programs and the documentation rely on them."""
    found = settings_module.load()
    assert (found.kafka_bootstrap_servers, found.kafka_group_id) == ("localhost:9092", "tickloom")
    assert (found.prices_topic, found.volumes_topic, found.window_rows) == ("stock_prices", "stock_volumes", 5)
    assert found.database_dsn() == "postgresql://myuser:mypassword@localhost:5432/mydatabase"
    assert (found.http_host, found.http_port, found.gap_policy) == ("127.0.0.1", 9464, GapPolicy.HALT)
    assert (found.event_max_ahead_seconds, found.event_max_age_seconds) == (86_400, 31 * 86_400)


def test_secrets_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A password in the environment is a password in every crash report."""
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    monkeypatch.setenv("TICKLOOM_DATABASE_URL", "postgresql://me@db:5432/x")
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(secret))
    found = settings_module.load()
    assert found.database_dsn() == "postgresql://me:p%40ss%2Fword@db:5432/x"
    assert "p@ss" not in repr(found)
    assert "p@ss" not in str(found.shown())
    monkeypatch.setenv("TICKLOOM_DATABASE_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="TICKLOOM_DATABASE_PASSWORD_FILE"):
        settings_module.load()


def test_secrets_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Container platforms mount secrets as files named like the setting."""
    (tmp_path / "tickloom_database_password").write_text("quiet")
    monkeypatch.setenv("TICKLOOM_SECRETS_DIR", str(tmp_path))
    assert ":quiet@" in settings_module.load().database_dsn()


@pytest.mark.parametrize(
    ("name", "value"), [("WINDOW_ROWS", "x"), ("HTTP_PORT", "70000"), ("KAFKA_OPTIONS", "{"), ("GAP_POLICY", "no")]
)
def test_wrong_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A message that does not say which variable sends people guessing."""
    monkeypatch.setenv(f"TICKLOOM_{name}", value)
    with pytest.raises(SettingsError, match=f"TICKLOOM_{name}: "):
        settings_module.load()


def decoded(offsets: list[int], bad: int = 0) -> Decoded:
    size = len(offsets)
    chunk = Chunk(Side.PRICES, "p", [], [b"x"] * size, [0] * size, offsets, [1_000] * size)
    rejects = [Reject(AT, offset, None, b"x", (), 1_000, Reason.SCHEMA, "") for offset in offsets[:bad]]
    return Decoded(chunk, pl.DataFrame(schema=rows_schema(Side.PRICES)), rejects)


def test_gather_counts_every_offset() -> None:
    """An offset that is counted nowhere is a message that nobody misses."""
    gatherer = Gatherer(BatchLimits(100, 10_000, 1), {AT: 10})
    gatherer.add(decoded([10, 11, 14], bad=1), 0)
    gatherer.add(Gap(AT, 15, 20), 0)
    gatherer.add(EndOfPartition(AT, 22), 0)
    gatherer.add(EndOfPartition(AT, 22), 0)
    step = gatherer.close().progress[AT]
    assert (step.expected, step.next_offset) == (10, 22)
    assert (step.messages, step.dead, step.skipped, step.missing) == (3, 1, 4, 5)
    assert step.next_offset - step.expected == step.messages + step.skipped + step.missing
    assert gatherer.empty
    assert gatherer.positions == {AT: 22}


def test_flood_of_rejects() -> None:
    """The wrong topic would fill the dead letters."""
    watch = RejectWatch(RejectLimits(0.5, 10))
    watch.see(decoded(list(range(9)), bad=9))
    with pytest.raises(TooManyRejects, match="schema 10"):
        watch.see(decoded([9], bad=1))


def test_a_side_of_rejects() -> None:
    """Of both topics together a bad one is exactly half: it would be copied into the dead letters for ever."""
    watch = RejectWatch(RejectLimits(0.5, 10))
    good = decoded(list(range(20)), bad=0)
    watch.see(replace(good, chunk=replace(good.chunk, side=good.chunk.side.other)))
    with pytest.raises(TooManyRejects, match="schema 10"):
        watch.see(decoded(list(range(10)), bad=10))


def test_whose_fault_a_refusal_is() -> None:
    """A table that refuses everything would turn a whole feed into dead letters; an odd row would stop it."""
    watch = RefusalWatch(RejectLimits(0.5, 1_000))
    assert watch.judge("t", tried=1, refused=1) is Verdict.UNCLEAR
    assert watch.judge("t", tried=10, refused=10) is Verdict.TABLE
    assert watch.judge("t", tried=10, refused=9) is Verdict.DATA
    assert watch.judge("t", tried=2_000, refused=1_000) is Verdict.DATA
    assert watch.judge("t", tried=2_000, refused=1_001) is Verdict.TABLE
    watch.note({"t": 6}, {"t": 6})
    assert watch.judge("other", tried=6, refused=6) is Verdict.UNCLEAR
    assert watch.judge("t", tried=6, refused=6) is Verdict.TABLE, "those before count, too"
    watch.note({"t": 1}, {})
    assert watch.judge("t", tried=6, refused=6) is Verdict.UNCLEAR, "it takes rows"
    whatever = RefusalWatch(RejectLimits(1, 1_000))
    assert whatever.judge("t", tried=5_000, refused=5_000) is Verdict.DATA


def test_gaps() -> None:
    """Offsets lost to retention must never be skipped in silence."""
    assert find_gap(AT, 5, 0, 9, GapPolicy.HALT) is None
    assert find_gap(AT, 5, 7, 9, GapPolicy.CONTINUE) == Gap(AT, 5, 7)
    with pytest.raises(LogLost, match="TICKLOOM_GAP_POLICY=continue"):
        find_gap(AT, 5, 7, 9, GapPolicy.HALT)
    with pytest.raises(LogLost, match="made anew"):
        find_gap(AT, 10, 0, 9, GapPolicy.CONTINUE)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-(2**50), 2**50), st.none() | st.floats(allow_nan=False)), max_size=8
    )
)
def test_copy_bytes(rows: list[tuple[int, int, float | None]]) -> None:
    """One byte out of place and Postgres refuses the batch, or worse, takes it."""
    symbols = pl.Series(["a", "ünï", "zzzzzzzz"])
    frame = pl.DataFrame(rows, schema={"code": pl.UInt32, "ts": pl.Int64, "value": pl.Float64}, orient="row")
    stream = encode(frame, SymbolBytes.of(symbols))
    assert stream.startswith(SIGNATURE)
    assert stream.endswith(TRAILER)
    body, at, found = stream[len(SIGNATURE) : -len(TRAILER)], 0, []
    while at < len(body):
        fields = []
        at += 2
        for _ in range(3):
            (size,) = struct.unpack_from("!i", body, at)
            fields.append(None if size < 0 else body[at + 4 : at + 4 + size])
            at += 4 + max(size, 0)
        found.append(fields)
    wanted = [
        [
            symbols[code].encode(),
            struct.pack("!q", ts - POSTGRES_EPOCH_MICROSECONDS),
            None if value is None else struct.pack("!d", value),
        ]
        for code, ts, value in rows
    ]
    assert found == wanted
