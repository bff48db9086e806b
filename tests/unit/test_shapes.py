"""The message shapes: each is written as its name says, and means what the plain message means."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from benchmarks import core
from tests.reference import Record, reason_of
from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode
from tickloom.core.model import Chunk, Side
from tickloom.shapes import PLAIN, SHAPES, Reshaper, Shape, reshaped, shape_named
from tickloom.synthetic import DAY, SIDES, Tick, TickSettings, history

END = datetime(2026, 3, 1, 12, tzinfo=UTC)
MESSAGES = 1_000
BOUNDS = EventBounds(max_ahead=DAY, max_age=31 * DAY)
TICKS = list(history(TickSettings(symbols=50), MESSAGES // 2, 0.5, END))
ONE_PRICE = b'{"symbol":"SYM0001","price":20.33,"timestamp":"2026-02-28T12:00:00.123456Z","open_price":20.32}'
PINNED = {
    "realistic": '{"symbol":"SYM0001","price":20.33,"timestamp":"2026-02-28T12:00:00.123Z","open_price":20.32,'
    '"venue":"XNYS","sequence":0}',
    "escaped-slash": '{"symbol":"SYM0001\\/USD","price":20.33,"timestamp":"2026-02-28T12:00:00.123456Z","open_price":20.32}',
    "unicode-escapes": '{"symbol":"\\u65e5\\u7d4c\\u0030001","price":20.33,"timestamp":"2026-02-28T12:00:00.123456Z",'
    '"open_price":20.32,"issuer":"Soci\\u00e9t\\u00e9 \\ud83d\\ude00"}',
    "digits": '{"symbol":"1001.T","price":20.33,"timestamp":"2026-02-28T12:00:00.123456Z","open_price":20.32}',
    "pretty": '{\n  "symbol": "SYM0001",\n  "price": 20.33,\n  "timestamp": "2026-02-28T12:00:00.123456Z",\n'
    '  "open_price": 20.32\n}',
    "iso-offset": '{"symbol":"SYM0001","price":20.33,"timestamp":"2026-02-28T17:30:00.123456+05:30","open_price":20.32}',
    "iso-space": '{"symbol":"SYM0001","price":20.33,"timestamp":"2026-02-28 12:00:00.123456","open_price":20.32}',
    "epoch-float": '{"symbol":"SYM0001","price":20.33,"timestamp":1772280000.123456,"open_price":20.32}',
    "epoch-exponent": '{"symbol":"SYM0001","price":20.33,"timestamp":1.772280000123E12,"open_price":20.32}',
    "epoch-nanoseconds": '{"symbol":"SYM0001","price":20.33,"timestamp":1772280000123456789,"open_price":20.32}',
}

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)


class _NoHeaders:
    def key(self) -> None: ...
    def headers(self) -> None: ...


def record(tick: Tick, offset: int = 0) -> Record:
    return Record(tick.topic_side, tick.topic_side, 0, offset, tick.key, tick.value, tick.timestamp_ms)


@every_shape
def test_the_pairs_still_meet_under_a_key_of_their_symbol(shape: Shape) -> None:
    """A shape whose pairs did not join would be measured as fast, because it would write fewer rows."""
    verdicts = [reason_of(record(tick)) for tick in reshaped(TICKS, shape)]
    for price, volume in zip(verdicts[::2], verdicts[1::2], strict=True):
        if isinstance(price, dict) and isinstance(volume, dict):
            assert (price["symbol"], price["micros"]) == (volume["symbol"], volume["micros"])
    for tick, verdict in zip(reshaped(TICKS, shape), verdicts, strict=True):
        assert not isinstance(verdict, dict) or tick.key == verdict["symbol"].encode()
    symbols = {verdict["symbol"] for verdict in verdicts if isinstance(verdict, dict)}
    assert len(symbols) == 50


@every_shape
def test_as_many_are_bad_as_the_shape_says(shape: Shape) -> None:
    """A rate with 1% of bad messages must be one with exactly 1%, and the bench must know how many they are."""
    reshaper = Reshaper(shape)
    ticks = [reshaper.rewrite(tick) for tick in TICKS]
    reasons = [reason for tick in ticks if isinstance(reason := reason_of(record(tick)), str)]
    assert len(reasons) == reshaper.bad == round(MESSAGES * (shape.bad_share + shape.tombstone_share))
    if shape.tombstone_share:
        assert all(tick.value is None for tick in ticks if not tick.value)
        assert set(reasons) == {"empty"}
    elif shape.bad_share >= 0.1:
        assert len(set(reasons)) > 4


@every_shape
def test_the_bench_knows_what_a_log_becomes(shape: Shape) -> None:
    """Where times are cut, two pairs may become one: the bench must know exactly how many messages are superseded."""
    reshaper = Reshaper(shape)
    keys: Counter[object] = Counter()
    for tick in TICKS + TICKS[:100] if shape.cuts_times else TICKS:
        verdict = reason_of(record(reshaper.rewrite(tick)))
        if isinstance(verdict, dict):
            keys[reshaper.key] += 1
            assert reshaper.key == (tick.topic_side, verdict["symbol"], verdict["micros"])
        else:
            assert reshaper.key is None
    assert reshaper.messages == reshaper.bad + reshaper.superseded + len(keys)


@every_shape
def test_the_same_ticks_give_the_same_bytes(shape: Shape) -> None:
    """Two runs of the bench, or two peers, must be measured on one log."""
    once = list(reshaped(TICKS, shape))
    assert once == list(reshaped(TICKS, shape))
    differ = sum(one.value != tick.value for one, tick in zip(once, TICKS, strict=True))
    if shape.bad_share and shape.name != "realistic":
        assert once != list(reshaped(TICKS, shape, seed=2))
    else:
        assert differ in {PLAIN: (0,), SHAPES["tombstones-1"]: (MESSAGES // 100,)}.get(
            shape, range(MESSAGES // 2, MESSAGES + 1)
        )


@every_shape
def test_the_decoder_reads_each_shape_as_the_reference_does(shape: Shape) -> None:
    """Speed is measured on these messages, so it must be the speed of reading them correctly."""
    for side in SIDES:
        ticks = [tick for tick in reshaped(TICKS, shape) if tick.topic_side == side]
        verdicts = [reason_of(record(tick)) for tick in ticks]
        size = len(ticks)
        chunk = Chunk(
            Side(side),
            side,
            [_NoHeaders()] * size,
            [tick.value for tick in ticks],
            [0] * size,
            range(size),
            [tick.timestamp_ms for tick in ticks],
        )
        decoded = decode(chunk, BOUNDS)
        wanted = [(v["symbol"], v["micros"], v["value"]) for v in verdicts if isinstance(v, dict)]
        assert decoded.rows.select("symbol", "ts", "value").rows() == wanted
        assert [reject.reason.value for reject in decoded.rejects] == [v for v in verdicts if isinstance(v, str)]


@pytest.mark.parametrize("name", PINNED)
def test_a_shape_is_what_its_description_says(name: str) -> None:
    """Two versions of tickloom must be compared on the same bytes."""
    tick = Tick("prices", b"SYM0001", ONE_PRICE, 1_772_280_000_123)
    assert (Reshaper(SHAPES[name]).rewrite(tick).value or b"").decode() == PINNED[name]


def test_sizes_and_orders() -> None:
    """`wide` must be 2 kB, and `key-order` must be many orders, not one."""
    wide = [len(tick.value or b"") for tick in reshaped(TICKS, SHAPES["wide"])]
    assert 1_900 < min(wide) <= max(wide) < 2_200
    firsts = Counter((tick.value or b"")[:6] for tick in reshaped(TICKS, SHAPES["key-order"]))
    assert len(firsts) == 7  # each known field, of both sides


def test_anything_but_a_plain_message_stays_as_it_is() -> None:
    """A producer that is asked for bad messages and a shape must still send bad ones."""
    bad = list(history(TickSettings(symbols=50, bad_share=1), 500, 0.5, END))
    for before, after in zip(bad, reshaped(bad, SHAPES["epoch-float"]), strict=True):
        was, is_now = reason_of(record(before)), reason_of(record(after))
        assert isinstance(was, str)
        assert was == is_now


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    """Nobody should have to search the code for a name."""
    with pytest.raises(ValueError, match="no shape is called nonsense; use one of plain, realistic, unknown-number"):
        shape_named("nonsense")


def test_the_cost_of_decode_is_reported_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a change makes a shape faster must show in one command, also for a shape with bad messages."""
    monkeypatch.setattr(core, "CHUNK_MESSAGES", 500)
    found = core.by_shape([PLAIN, SHAPES["bad-10"], SHAPES["tombstones-1"]], 1, 50)
    assert list(found) == ["plain", "bad-10", "tombstones-1"]
    assert all(0 < main <= cpu * 1.1 for cpu, main in found.values())


def test_each_shape_is_described_in_a_line() -> None:
    """People who have not seen the code read the table of the bench."""
    assert all(0 < len(shape.summary) <= 80 and "\n" not in shape.summary for shape in SHAPES.values())
