"""The tick generator: its ticks must be the same each time, and as the settings ask."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import pytest

from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode
from tickloom.core.model import Chunk, Reason, Side
from tickloom.core.timestamps import parse_text
from tickloom.synthetic import DAY, SIDES, Tick, TickSettings, TopicSide, bad_values, history, iso, live

END = datetime(2026, 3, 1, 12, tzinfo=UTC)
END_MS = int(END.timestamp()) * 1_000
HOSTILE = TickSettings(
    symbols=50,
    disorder_share=0.2,
    disorder_max_seconds=600,
    late_days_share=0.02,
    repeat_share=0.08,
    bad_share=0.04,
    one_sided_share=0.05,
)
PINNED_PRICE = Tick(
    "prices",
    b"SYM0001",
    b'{"symbol":"SYM0001","price":20.33,"timestamp":"2026-02-28T12:00:00.000000Z",'
    b'"open_price":20.32,"high_price":20.34,"low_price":20.31}',
    1772280000000,
)
PINNED_VOLUME = Tick(
    "volumes",
    b"SYM0001",
    b'{"symbol":"SYM0001","volume":1573,"timestamp":"2026-02-28T12:00:00.000000Z"}',
    1772280000000,
)
BOUNDS = EventBounds(max_ahead=DAY, max_age=31 * DAY)


class _NoHeaders:
    def key(self) -> None: ...
    def headers(self) -> None: ...


def reasons(side: TopicSide, values: Sequence[bytes], timestamp_ms: int) -> list[Reason]:
    """The reasons of the values that the daemon's own decoder rejects."""
    size = len(values)
    stamps = [timestamp_ms] * size
    chunk = Chunk(Side(side), side, [_NoHeaders()] * size, values, [0] * size, range(size), stamps)
    return [reject.reason for reject in decode(chunk, BOUNDS).rejects]


def fields(tick: Tick) -> dict[str, Any]:
    return json.loads(tick.value)


def near(share: float, expected: float) -> bool:
    """Within a fifth of the share asked for; the samples below are large enough for that."""
    return abs(share - expected) < 0.2 * expected


@pytest.mark.parametrize("settings", [TickSettings(), HOSTILE], ids=["calm", "hostile"])
def test_the_same_seed_gives_the_same_bytes(settings: TickSettings) -> None:
    """A failing run must be repeatable from its seed, and another seed must be another market."""
    once = list(history(settings, 500, 10, END))
    assert once == list(history(settings, 500, 10, END))
    assert list(islice(live(settings), 500)) == list(islice(live(settings), 500))
    other = TickSettings(symbols=settings.symbols, seed=2)
    assert once != list(history(other, 500, 10, END))


def test_the_bytes_never_change_between_versions() -> None:
    """A seed in a bug report must still mean the same ticks a year later."""
    assert list(history(TickSettings(symbols=3, seed=7), 1, 1, END)) == [
        PINNED_PRICE,
        PINNED_VOLUME,
    ]


def test_calm_history_is_whole_pairs_in_order_over_the_days_asked_for() -> None:
    """A benchmark of in-order pairs must get exactly these: as many as it asks for, each with both sides."""
    ticks = list(history(TickSettings(symbols=20), 1_000, 10, END))
    prices, volumes = ticks[::2], ticks[1::2]
    assert len(ticks) == 2_000
    assert {tick.topic_side for tick in prices} == {"prices"}
    assert [(t.key, fields(t)["timestamp"]) for t in prices] == [(t.key, fields(t)["timestamp"]) for t in volumes]
    assert prices[0].timestamp_ms == END_MS - 10 * 86_400_000
    assert all(before.timestamp_ms < after.timestamp_ms < END_MS for before, after in pairwise(prices))
    assert len({tick.key for tick in ticks}) == 20


def test_values_follow_the_input_contract() -> None:
    """The producer must send what the documents say the daemon reads: these fields, keyed by symbol."""
    for tick in history(TickSettings(symbols=20), 500, 1, END):
        value = fields(tick)
        assert tick.key == value["symbol"].encode()
        assert (parse_text(value["timestamp"]) or 0) // 1_000 == tick.timestamp_ms
        if tick.topic_side == "volumes":
            assert list(value) == ["symbol", "volume", "timestamp"]
            assert value["volume"] >= 0
        else:
            assert list(value) == ["symbol", "price", "timestamp", "open_price", "high_price", "low_price"]
            assert 0 < value["low_price"] <= min(value["price"], value["open_price"])
            assert value["high_price"] >= max(value["price"], value["open_price"])
        assert reasons(tick.topic_side, [tick.value], tick.timestamp_ms) == []


def test_live_is_endless_and_steps_by_the_settings() -> None:
    """A rate of 50 pairs a second must be a pair every 20 ms, from the given start."""
    ticks = list(islice(live(TickSettings(step_seconds=0.02), END), 200))
    assert [tick.timestamp_ms for tick in ticks[::2]] == [END_MS + 20 * index for index in range(100)]


def test_shares_are_as_asked() -> None:
    """ "4% bad" in a test's name must be 4% in its data, and the same holds for the other troubles."""
    records = 20_000
    ticks = list(history(HOSTILE, records, 10, END))
    bad = [tick for tick in ticks if reasons(tick.topic_side, [tick.value], tick.timestamp_ms)]
    rejected = {id(tick) for tick in bad}
    good = [tick for tick in ticks if id(tick) not in rejected]
    times = Counter((tick.topic_side, tick.key, fields(tick)["timestamp"]) for tick in good)
    sent = records * (2 - HOSTILE.one_sided_share)
    delays = [tick.timestamp_ms - (parse_text(fields(tick)["timestamp"]) or 0) / 1_000 for tick in good]
    assert near(len(bad) / sent, HOSTILE.bad_share)
    assert near((len(good) - len(times)) / len(times), HOSTILE.repeat_share)
    assert near(sum(delay > 86_400_000 for delay in delays) / len(delays), HOSTILE.late_days_share)
    # a repeat is late as well
    late = HOSTILE.disorder_share + HOSTILE.repeat_share
    assert near(sum(1 < delay <= 600_000 for delay in delays) / len(delays), late / (1 + HOSTILE.repeat_share))


def test_one_sided_pairs_lack_one_side_only() -> None:
    """The data must have rows of both sides whose other half never comes."""
    ticks = list(history(TickSettings(one_sided_share=0.1), 10_000, 10, END))
    sides = Counter(tick.topic_side for tick in ticks)
    assert near(1 - len(ticks) / 20_000, 0.05)
    assert all(near(1 - sides[side] / 10_000, 0.05) for side in SIDES)


def test_half_of_the_repeats_are_corrections() -> None:
    """Duplicates and corrections are different things to the daemon, so both must occur."""
    seen: dict[tuple[str, bytes, str], set[bytes]] = {}
    for tick in history(TickSettings(symbols=50, repeat_share=0.2), 5_000, 10, END):
        seen.setdefault((tick.topic_side, tick.key, fields(tick)["timestamp"]), set()).add(tick.value)
    corrected = sum(len(values) == 2 for values in seen.values())
    assert near(corrected / len(seen), 0.1)


def test_the_time_of_sending_never_goes_back() -> None:
    """Record timestamps must rise as in a real log, whatever the event times do."""
    ticks = list(history(HOSTILE, 2_000, 1, END))
    assert all(before.timestamp_ms <= after.timestamp_ms for before, after in pairwise(ticks))
    assert ticks[-1].timestamp_ms <= END_MS


@pytest.mark.parametrize("side", SIDES)
def test_each_bad_value_is_rejected_for_its_own_reason(side: TopicSide) -> None:
    """The generator must know the order of reasons, so that a test gets the one that it asks for."""
    now_ms = END_MS
    for reason, values in bad_values(side, "SYM0001", now_ms * 1_000).items():
        assert reasons(side, values, now_ms) == [Reason(reason)] * len(values)


def test_every_reject_reason_appears() -> None:
    """A reason that the generator never makes would go untested."""
    seen = {
        reason
        for tick in history(TickSettings(symbols=50, bad_share=0.2), 2_000, 1, END)
        for reason in reasons(tick.topic_side, [tick.value], tick.timestamp_ms)
    }
    assert seen == set(Reason) - {Reason.EXPIRED, Reason.REFUSED}  # only the tables decide these


@pytest.mark.parametrize(
    "wrong", [{"symbols": 0}, {"bad_share": 1.5}, {"disorder_share": -0.1}, {"step_seconds": 0}], ids=str
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    """A percentage in the place of a share must be an error, not a market of garbage."""
    with pytest.raises(ValueError, match=r"symbols|share|step_seconds"):
        TickSettings(**wrong)  # type: ignore[arg-type]


def test_iso_is_utc_to_the_microsecond() -> None:
    """The daemon must read the text back exactly."""
    assert iso(1) == "1970-01-01T00:00:00.000001Z"
    assert parse_text(iso(1_772_366_400_123_456)) == 1_772_366_400_123_456
