"""Small promises of the pure parts: settings, gather, COPY bytes."""

import struct
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickloom import settings as settings_module
from tickloom.core.copy_binary import POSTGRES_EPOCH_MICROSECONDS, SIGNATURE, TRAILER, SymbolBytes, encode
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import Chunk, Decoded, EndOfPartition, Gap, Reason, Reject, Side, TopicPartition, rows_schema
from tickloom.core.quality import RefusalWatch, RejectLimits, RejectWatch, Verdict
from tickloom.errors import SettingsError, TooManyRejects
from tickloom.settings import GapPolicy

AT = TopicPartition("p", 0)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TICKLOOM_"):
            monkeypatch.delenv(name)


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
