"""Event times: both parsers read one grammar, and agree with the standard library."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.readers import MANY, among_others
from tickloom.core.timestamps import UNREACHABLE, parse_alike, parse_number, parse_text

EPOCH = datetime(1970, 1, 1)

ZONES = st.one_of(
    st.sampled_from(["", "Z", "+00:00", "-00:00", "+0000", "+00", "z", "+24:00", "+05:60", "+5:30", " Z", "UTC"]),
    st.builds(
        lambda sign, hour, colon, minute: f"{sign}{hour:02}{colon}{minute:02}",
        st.sampled_from("+-"),
        st.integers(0, 24),
        st.sampled_from(["", ":"]),
        st.integers(0, 60),
    ),
    st.builds(lambda sign, hour: f"{sign}{hour:02}", st.sampled_from("+-"), st.integers(0, 24)),
)
FRACTIONS = st.one_of(st.just(""), st.just("."), st.integers(0, 10**12).map(lambda n: f".{n}"), st.just(",5"))
CLOCKS = st.builds(
    lambda hour, minute, second: f"{hour:02}:{minute:02}" + ("" if second is None else f":{second:02}"),
    st.integers(0, 24),
    st.integers(0, 60),
    st.one_of(st.none(), st.integers(0, 61)),
)
DAYS = st.one_of(
    st.dates(date(1, 1, 1), date(9999, 12, 31)).map(date.isoformat),
    st.builds(
        lambda year, month, day: f"{year:04}-{month:02}-{day:02}",
        st.sampled_from([0, 1, 4, 100, 400, 1900, 1970, 2000, 2023, 2024, 2100, 9999]),
        st.integers(0, 13),
        st.integers(0, 32),
    ),
)
TEXTS = st.one_of(
    st.builds(lambda *parts: "".join(parts), DAYS, st.sampled_from("T tT "), CLOCKS, FRACTIONS, ZONES),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.text(alphabet="0123456789-+:.TZ ", max_size=30),
    st.sampled_from(["", "２０２４-01-01T00:00:00", "2024-01-01T00:00:00\n", "2024-01-01T00:00:00Ü", "now"]),
)
PLAIN = st.builds(
    lambda moment, separator, fraction, zone: (
        moment.replace(microsecond=0).isoformat(sep=separator) + (fraction and f".{fraction}") + zone
    ),
    st.datetimes(),
    st.sampled_from("T "),
    st.text(alphabet="0123456789", max_size=9),
    st.sampled_from(["", "Z", "+00:00"]),
)


NUMBERS = st.one_of(
    st.integers(-(10**19), 10**19).map(str),
    st.integers(10**9, 2 * 10**9).map(str),
    st.builds("{}.{}".format, st.integers(10**8, 10**13), st.text("0123456789", min_size=1, max_size=12)),
    st.builds(
        "{}.{}{}{}".format, st.integers(0, 9), st.integers(0, 10**9), st.sampled_from("eE"), st.integers(-20, 20)
    ),
    st.builds("{}e{}{}".format, st.integers(-99, 99), st.sampled_from(["", "+", "-", "0"]), st.integers(0, 10**8)),
)


def one_by_one(literal: str) -> int | None:
    return parse_text(literal[1:-1]) if literal.startswith('"') else parse_number(literal)


@given(
    drawn=st.lists(st.one_of(*(some.map('"{}"'.format) for some in (PLAIN, TEXTS)), NUMBERS), min_size=1, max_size=6)
)
@example(['"2024-01-01T00:00:00.1+00:00"', '"2024-01-01T00:00:00.12345Z"'])  # same length, other form
@example(['"2024-01-01T00:00:00.12345Z"', '"2024-01-01T00:00:00.1+00:00"'])
@example(['"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00 "'])
@example(["1790000000", "0000000001", "1.7900e+03"])
@settings(max_examples=400, deadline=None)
def test_many_literals_say_what_each_says(drawn: list[str]) -> None:
    """Otherwise a time would depend on the messages that happen to arrive with it."""
    micros, known = parse_alike([literal.encode() for literal in drawn] * MANY)
    for at, literal in enumerate(drawn * MANY):
        assert not known[at] or micros[at] == one_by_one(literal), literal


@given(text=PLAIN, number=NUMBERS, others=st.lists(st.one_of(PLAIN.map('"{}"'.format), NUMBERS), max_size=3))
@settings(max_examples=200, deadline=None)
def test_what_comes_often_is_read_at_once(text: str, number: str, others: list[str]) -> None:
    """Otherwise an ordinary stream's times would be parsed one by one, and decode would cost several times as much."""
    assert among_others(f'"{text}"', *others) == reference._iso(text)
    if number[0] in "123456789" and "e" not in number:
        assert among_others(number, *others) == parse_number(number)


@given(text=st.one_of(TEXTS, PLAIN))
@settings(max_examples=600, deadline=None)
def test_a_text_is_read_as_the_judge_reads_it(text: str) -> None:
    """Otherwise a row would get another time than its sender meant, or be rejected without a reason."""
    assert parse_text(text) == reference._iso(text)


@given(moment=st.datetimes(timezones=st.just(UTC)), hours=st.integers(-23, 23), minutes=st.integers(0, 59))
def test_an_offset_names_the_same_instant(moment: datetime, hours: int, minutes: int) -> None:
    """Otherwise producers in two time zones would write one event under two keys."""
    naive = moment.replace(tzinfo=None)
    micros = (naive - EPOCH) // timedelta(microseconds=1)
    offset = (abs(hours) * 60 + minutes) * (-1 if hours < 0 else 1)
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    written = f"{naive.isoformat(timespec='microseconds')}{zone}"
    assert parse_text(written) == micros - offset * 60_000_000
    assert parse_text(written[:-6] + "Z") == parse_text(written[:-6]) == micros


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2024-02-29T00:00:00Z", True),
        ("2000-02-29T00:00:00Z", True),
        ("2023-02-29T00:00:00Z", False),
        ("1900-02-29T00:00:00Z", False),
        ("2100-02-29T00:00:00Z", False),
        ("2026-01-31T23:59:59.999999Z", True),
        ("2026-04-31T00:00:00Z", False),
        ("2026-06-00T00:00:00Z", False),
        ("2026-00-10T00:00:00Z", False),
        ("2026-13-10T00:00:00Z", False),
        ("2026-12-31T23:59:60Z", False),
        ("2026-12-31T24:00:00Z", False),
        ("2026-12-31T23:60:00Z", False),
        ("2026-12-31T23:59: 9Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("0001-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59.999999999Z", True),
        ("2026-12-31T23:59:59.Z", False),
        ("2026-12-31t23:59:59Z", False),
    ],
)
def test_the_calendars_edges(text: str, good: bool) -> None:
    """Otherwise a day that does not exist would silently become another one."""
    assert (parse_text(text) is not None) == good
    assert (among_others(f'"{text}"') is not None) == good
    assert parse_text(text) == reference._iso(text)


def test_every_months_end_follows_its_last_second() -> None:
    """Otherwise rows around midnight on a month's last day would fall into the wrong partition."""
    for year in (1, 4, 100, 400, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9998):
        for month in range(1, 13):
            first = datetime(year + month // 12, month % 12 + 1, 1)
            last = first - timedelta(microseconds=1)
            texts = [last.isoformat(), first.isoformat(timespec="microseconds")]
            before, after = (among_others(f'"{text}"') for text in texts)
            assert (before, after) == (parse_text(texts[0]), parse_text(texts[1]))
            assert before is not None
            assert before + 1 == after == (first - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00.0000009Z", 0),
        ("1970-01-01T00:00:00.1234569Z", 123_456),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1970-01-01 00:00", 0),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01T05:30:00+0530", 0),
        ("1970-01-01T05:00:00+05", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("0001-01-01T00:00:00+23:59", -62_135_596_800_000_000 - 86_340_000_000),
        ("9999-12-31T23:59:59.999999-23:59", 253_402_300_799_999_999 + 86_340_000_000),
    ],
)
def test_texts_by_hand(text: str, micros: int) -> None:
    """Otherwise the parsers and their judge could be wrong together."""
    assert parse_text(text) == micros == reference._iso(text) == among_others(f'"{text}"')


@given(
    number=st.one_of(
        st.integers(-(10**19), 10**19).map(Decimal),
        st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False, places=9),
        st.builds(
            lambda limit, away: Decimal(10) ** limit + away, st.sampled_from([11, 14, 17]), st.integers(-1001, 1001)
        ),
        st.floats(-1e17, 1e17).map(lambda number: Decimal(repr(number))),
    ),
    style=st.sampled_from(["f", "e", "E"]),
)
@settings(max_examples=500, deadline=None)
def test_an_epoch_number_is_read_as_the_judge_reads_it(number: Decimal, style: str) -> None:
    """Otherwise seconds could be taken for milliseconds, or digits past the microsecond rounded instead of cut off."""
    literal = f"{number:{style}}"
    wanted = reference._epoch(literal)
    assert parse_number(literal) == (wanted if abs(wanted) < 10**18 else UNREACHABLE)


@pytest.mark.parametrize(
    ("literal", "micros"),
    [
        ("0", 0),
        ("-0.0", 0),
        ("0e999999999999", 0),
        ("0.0000001", 0),
        ("-0.0000019", -1),
        ("-1.5", -1_500_000),
        ("179e7", 1_790_000_000_000_000),
        ("1790000000.1234569" + "9" * 50, 1_790_000_000_123_456),
        ("1790000000123.4569", 1_790_000_000_123_456),
        ("1790000000123456.9", 1_790_000_000_123_456),
        ("1790000000123456789", 1_790_000_000_123_456),
        ("99999999999", 99_999_999_999_000_000),
        ("100000000000", 100_000_000_000_000),
        ("99999999999999", 99_999_999_999_999_000),
        ("100000000000000", 100_000_000_000_000),
        ("99999999999999999", 99_999_999_999_999_999),
        ("100000000000000000", 100_000_000_000_000),
        ("9" * 100_000, UNREACHABLE),
        ("1e400790000000000000001", UNREACHABLE),
        ("1e-400790000000000000001", 0),
    ],
)
def test_epoch_numbers_by_hand(literal: str, micros: int) -> None:
    """Otherwise one number with a huge power would stop the daemon, or the unit would change at the wrong magnitude."""
    assert parse_number(literal) == micros
    assert among_others(literal) in (None, micros)
