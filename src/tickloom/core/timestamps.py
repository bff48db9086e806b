"""Event times: ISO-8601 text or epoch numbers to microseconds since 1970 UTC. Pure, exact, no clock.

Two parsers of one grammar: ``parse_text`` and ``parse_number`` take a single value; ``parse_alike`` takes many JSON
literals at once and parses those that are written like many others. Tests hold them equal.
``parse_literal`` and ``parse_literals`` combine them, for the codecs of text formats.

    YYYY-MM-DD ("T" | " ") HH:MM [":" SS ["." digits]] ["Z" | ("+"|"-") HH [":"] MM | ("+"|"-") HH]
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tickloom.core.arrays import Bools, Ints

MICROSECONDS = 1_000_000
DAY_MICROSECONDS = 86_400 * MICROSECONDS
UNREACHABLE = 2**63 - 1
"""In place of an epoch number that exceeds a 64-bit count of microseconds: always out of bounds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
EARLIEST = (date(2, 1, 1).toordinal() - _EPOCH_DAY) * DAY_MICROSECONDS
LATEST = (date(9999, 1, 1).toordinal() - _EPOCH_DAY) * DAY_MICROSECONDS
"""The years 2 to 9998, half open: ``datetime`` can hold all of them and the end of the last partition. The year 1 is
left out because asyncpg takes its first instant for minus infinity."""

_TEXT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:Z|([+-])(\d\d)(?::?(\d\d))?)?", re.ASCII
)
_NUMBER = re.compile(r"(-)?(\d+)(?:\.(\d+))?(?:[eE]([+-]?)0*(\d+))?", re.ASCII)
_STRING = msgspec.json.Decoder(str)
_MAX_POWER_DIGITS = 7
_MAX_MICROS_DIGITS = 18  # some 31,000 years; more digits may not fit into 64 bits
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int32)
_MAX_LITERAL_BYTES = 80  # longer ones are parsed one by one
_ALIKE = 16
"""Fewer literals of one form are parsed faster one by one."""
_MOST_FORMS = 8
"""Forms of one length that are tried; literals of any further form are parsed one by one."""

Chars = NDArray[np.uint8]


def moment(micros: int) -> datetime:
    """The instant, in UTC. Raises ``OverflowError`` outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=micros)


def micros_of(time: datetime) -> int:
    """Microseconds since 1970 UTC; ``time`` must have a zone."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * MICROSECONDS + since.microseconds


def parse_text(text: str) -> int | None:
    """Microseconds since 1970 UTC, digits past the microsecond cut off; None if ``text`` is not a time."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hour, off_minute = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    h, m, s = int(hour), int(minute), int(second or 0)
    oh, om = int(off_hour or 0), int(off_minute or 0)
    if h > 23 or m > 59 or s > 59 or oh > 23 or om > 59:
        return None
    offset = (oh * 60 + om) * (-1 if sign == "-" else 1)
    seconds = days * 86_400 + h * 3_600 + (m - offset) * 60 + s
    return seconds * MICROSECONDS + int((fraction or "")[:6].ljust(6, "0"))


def parse_number(literal: str) -> int:
    """Microseconds since 1970 of a JSON number: seconds, ms, µs or ns by its magnitude, cut to the microsecond.

    Magnitudes beyond 64 bits give ``UNREACHABLE`` (never an exception, never a long calculation).
    """
    match = _NUMBER.fullmatch(literal)
    if match is None:
        raise ValueError(f"not a JSON number: {literal[:80]}")
    sign, whole, fraction, power_sign, power = match.groups()
    digits = f"{whole}{fraction or ''}".lstrip("0")
    if not digits:
        return 0
    if power and len(power) > _MAX_POWER_DIGITS:
        return 0 if power_sign == "-" else UNREACHABLE
    # This works on the digits as they were written: no float rounds them, and no length or power makes it slow.
    shift = int(f"{power_sign}{power}") if power else 0
    size = len(digits) - len(fraction or "") + shift  # the number of digits before the point
    kept = size + _scale(size)
    if kept > _MAX_MICROS_DIGITS:
        return UNREACHABLE
    micros = int(digits[:kept].ljust(kept, "0")) if kept > 0 else 0
    return -micros if sign else micros


def _scale(size: int) -> int:
    """The power of ten that turns a number with ``size`` digits before its point into microseconds."""
    return next((scale for limit, scale in ((11, 6), (14, 3), (17, 0)) if size <= limit), -3)


def parse_literal(literal: bytes) -> int | None:
    """Microseconds of a JSON literal: a text in its quotes, with any escapes, or a number; None if it is not a time."""
    try:
        return parse_text(_STRING.decode(literal)) if literal[:1] == b'"' else parse_number(literal.decode())
    except ValueError:  # msgspec's errors are a subclass
        return None


def parse_literals(literals: Sequence[Any]) -> tuple[Ints, Bools]:
    """Many JSON literals at once (any buffers): microseconds, and which of them are times."""
    micros, known = parse_alike(literals)
    if not known.all():
        for row in np.flatnonzero(~known).tolist():
            found = parse_literal(bytes(literals[row]))
            if found is not None:
                micros[row], known[row] = found, True
    return micros, known


def parse_alike(literals: Sequence[Any]) -> tuple[Ints, Bools]:
    """Parse those of many JSON literals that are written like many others. Returns microseconds, and which ones are known.

    Literals of one length are compared with the form of the first one: where its digits are, and what is between
    them. All that share this form are parsed together; then comes the form of the first literal that is left. Rare
    forms, escapes, and everything that is not a time remain unknown.
    """
    count = len(literals)
    micros, known = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    if count < _ALIKE:
        return micros, known
    lengths = np.fromiter(map(len, literals), np.int64, count)
    raw = np.frombuffer(b"".join(literals), dtype=np.uint8)
    for length, rows in _by_length(lengths):
        if len(rows) == count:
            chars = raw.reshape(count, length).T
        else:
            starts = (np.cumsum(lengths) - lengths)[rows]
            chars = raw[starts + np.arange(length)[:, None]]
        # By character, then by row, so that the characters at one place of all literals are adjacent in memory.
        _read_forms(np.ascontiguousarray(chars), rows, micros, known)
    return micros, known


def _by_length(lengths: Ints) -> Iterator[tuple[int, Ints]]:
    """Each length that many literals have, with the indexes of these."""
    counts = np.bincount(np.minimum(lengths, _MAX_LITERAL_BYTES + 1), minlength=_MAX_LITERAL_BYTES + 2)
    for length in np.flatnonzero(counts[: _MAX_LITERAL_BYTES + 1] >= _ALIKE).tolist():
        yield length, np.flatnonzero(lengths == length)


def _read_forms(chars: Chars, rows: Ints, micros: Ints, known: Bools) -> None:
    """Fill in the times of the literals at ``rows``, whose characters are the columns of ``chars``."""
    for _ in range(_MOST_FORMS):
        form = _form_of(chars[:, 0].tobytes())
        alike = form.matches(chars) if form is not None else np.arange(chars.shape[1]) == 0
        if form is not None:
            these = slice(None) if alike.all() else alike
            found, good = form.read(chars[:, these])
            micros[rows[these]], known[rows[these]] = found, good
        chars, rows = chars[:, ~alike], rows[~alike]
        if len(rows) < _ALIKE:
            return


@dataclass(frozen=True, slots=True)
class _Form:
    """How some literals are written: any digits at ``places``, and elsewhere the same characters as in ``literal``."""

    literal: bytes
    places: list[int]

    def matches(self, chars: Chars) -> Bools:
        fixed = [place for place in range(len(self.literal)) if place not in self.places]
        wanted = np.frombuffer(self.literal, dtype=np.uint8)[fixed, None]
        return (chars[fixed] == wanted).all(axis=0) & (_digits(chars, self.places) <= 9).all(axis=0)


@dataclass(frozen=True, slots=True)
class _TextForm(_Form):
    """ISO-8601 with one offset for all, ``offset_minutes``. ``fraction``: the places of its digits."""

    has_seconds: bool
    fraction: list[int]
    offset_minutes: int

    def read(self, chars: Chars) -> tuple[Ints, Bools]:
        whole = _digits(chars, self.places[: 14 if self.has_seconds else 12])
        pairs = (whole[0::2] * np.uint8(10) + whole[1::2]).astype(np.int32)
        century, year, month, day, hour, minute = pairs[:6]
        second = pairs[6] if self.has_seconds else np.int32(0)
        year = century * 100 + year
        leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
        last_day = _DAYS_IN_MONTH[np.minimum(month, 12)] + (leap & (month == 2))
        good = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= last_day)
        good &= (hour <= 23) & (minute <= 59) & (second <= 59)
        of_day = hour * 3_600 + (minute - self.offset_minutes) * 60 + second
        seconds = _days_from_civil(year, month, day).astype(np.int64) * 86_400 + of_day
        places = self.fraction[:6]
        fraction = _number(_digits(chars, places)) * 10 ** (6 - len(places))
        return seconds * MICROSECONDS + fraction, good


@dataclass(frozen=True, slots=True)
class _NumberForm(_Form):
    """An epoch number that does not begin with 0. ``kept``: how many of its digits are before the point in µs."""

    kept: int
    negative: bool

    def read(self, chars: Chars) -> tuple[Ints, Bools]:
        digits = _digits(chars, self.places)
        good = digits[0] != 0
        if self.kept > _MAX_MICROS_DIGITS:
            return np.full(chars.shape[1], UNREACHABLE), good
        used = max(0, min(self.kept, len(digits)))
        micros = _number(digits[:used]) * 10 ** (max(0, self.kept) - used)
        return -micros if self.negative else micros, good


def _form_of(literal: bytes) -> _TextForm | _NumberForm | None:
    try:
        text = literal.decode("ascii")
    except UnicodeDecodeError:
        return None
    if match := _TEXT.fullmatch(text, 1, len(text) - 1) if text[:1] == text[-1:] == '"' else None:
        *_, second, fraction, sign, hours, minutes = match.groups()
        spans = [match.span(group) for group in range(1, 8) if match[group] is not None]
        offset = (int(hours or 0) * 60 + int(minutes or 0)) * (-1 if sign == "-" else 1)
        if int(hours or 0) > 23 or int(minutes or 0) > 59:
            return None
        places = [place for span in spans for place in range(*span)]
        return _TextForm(literal, places, second is not None, list(range(*match.span(7))) if fraction else [], offset)
    if (match := _NUMBER.fullmatch(text)) and len(match[5] or "") <= _MAX_POWER_DIGITS:
        places = [place for group in (2, 3) if match[group] for place in range(*match.span(group))]
        size = len(match[2]) + int(f"{match[4] or ''}{match[5] or 0}")
        return _NumberForm(literal, places, size + _scale(size), match[1] is not None)
    return None


def _digits(chars: Chars, places: Sequence[int]) -> Chars:
    return chars[places] - np.uint8(ord("0"))  # wraps around for what lies below "0"


def _number(digits: Chars) -> Ints:
    """The numbers that have these digits, the highest first."""
    value = np.zeros(digits.shape[1], dtype=np.int64)
    for digit in digits:
        value = value * 10 + digit
    return value


def _days_from_civil(year: NDArray[np.int32], month: NDArray[np.int32], day: NDArray[np.int32]) -> NDArray[np.int32]:
    """Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil)."""
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
