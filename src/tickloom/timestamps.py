"""Event times: ISO-8601 text or epoch numbers to microseconds since 1970 UTC. Pure, exact, no clock.

Two parsers of one grammar: ``parse_text`` for a single value and ``parse_column`` for a whole column at
once, which answers only where every row is plainly well formed. Tests hold them equal.

    YYYY-MM-DD ("T" | " ") HH:MM [":" SS ["." digits]] ["Z" | ("+"|"-") HH [":"] MM | ("+"|"-") HH]
"""

import re
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

MICROSECONDS = 1_000_000
DAY_MICROSECONDS = 86_400 * MICROSECONDS
UNREACHABLE = 2**63 - 1
"""Stands for an epoch number that no 64-bit count of microseconds can hold: always out of bounds."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
EARLIEST = (date(2, 1, 1).toordinal() - _EPOCH_DAY) * DAY_MICROSECONDS
LATEST = (date(9999, 1, 1).toordinal() - _EPOCH_DAY) * DAY_MICROSECONDS
"""The years 2 to 9998, half open: what ``datetime`` can hold, with the end of the last partition and without the first
instant, which asyncpg takes for minus infinity."""

_TEXT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:Z|([+-])(\d\d)(?::?(\d\d))?)?", re.ASCII
)
_NUMBER = re.compile(r"(-)?(\d+)(?:\.(\d+))?(?:[eE]([+-]?)0*(\d+))?", re.ASCII)
_MAX_POWER_DIGITS = 7
_MAX_MICROS_DIGITS = 18  # some 31,000 years; all that fits into 64 bits
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int32)
# What the column parser looks at: "YYYY-MM-DDTHH:MM:SS", then up to nine digits and "+00:00".
_DIGIT_PLACES = [place for place, char in enumerate("YYYY-MM-DDThh:mm:ss") if char not in "-T:"]
_SECONDS_END = 19
_MAX_PLACES = 9
_MAX_WIDTH = _SECONDS_END + 1 + _MAX_PLACES + 6


def parse_text(text: str) -> int | None:
    """Microseconds since 1970 UTC, digits past the microsecond cut off; None where ``text`` is no such time."""
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
    # All on the digits as they were written: no float rounds them, and no length or power makes it slow.
    shift = int(f"{power_sign}{power}") if power else 0
    size = len(digits) - len(fraction or "") + shift  # how many digits stand before the point
    scale = next((scale for limit, scale in ((11, 6), (14, 3), (17, 0)) if size <= limit), -3)
    kept = size + scale
    if kept > _MAX_MICROS_DIGITS:
        return UNREACHABLE
    micros = int(digits[:kept].ljust(kept, "0")) if kept > 0 else 0
    return -micros if sign else micros


def parse_column(texts: pl.Series) -> NDArray[np.int64] | None:
    """The same for a whole column of texts, or None where any row is not plainly well formed.

    Only zones ``Z``, ``+00:00`` and none, and up to nine digits of fraction: all else is left to ``parse_text``.
    """
    if not len(texts):
        return None
    text = pl.col("text")
    column = texts.to_frame("text")
    shortest, width, joined = column.select(
        shortest=text.str.len_bytes().min(), longest=text.str.len_bytes().max(), joined=text.str.join("")
    ).row(0)
    if shortest < _SECONDS_END or width > _MAX_WIDTH:
        return None
    lengths = np.full(1, width)
    if shortest < width:
        lengths = texts.str.len_bytes().to_numpy()
        joined = texts.str.pad_end(width, " ").str.join("").item()
    encoded = joined.encode()
    if len(encoded) != width * len(texts):  # not all of it is ASCII
        return None
    # By character, then by row: what stands at one place of all texts lies together, one byte each.
    chars = np.ascontiguousarray(np.frombuffer(encoded, dtype=np.uint8).reshape(-1, width).T)
    seconds = _whole_seconds(chars)
    if seconds is None:
        return None
    micros = seconds * MICROSECONDS
    for length in np.unique(lengths).tolist():
        rows = slice(None) if shortest == width else np.flatnonzero(lengths == length)
        fraction = _fraction(chars[_SECONDS_END:length, rows])
        if fraction is None:
            return None
        micros[rows] += fraction
    return micros


def _whole_seconds(chars: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    for place, allowed in ((4, b"-"), (7, b"-"), (10, b"T "), (13, b":"), (16, b":")):
        present = chars[place]
        if not np.logical_or.reduce([present == letter for letter in allowed]).all():
            return None
    digits = chars[_DIGIT_PLACES] - np.uint8(48)  # wraps around for what lies below "0"
    if (digits > 9).any():
        return None
    pairs = (digits[0::2] * np.uint8(10) + digits[1::2]).astype(np.int32)
    century, year, month, day, hour, minute, second = pairs
    year = century * 100 + year
    highest = pairs.max(axis=1).tolist()
    if year.min() < 1 or month.min() < 1 or day.min() < 1 or highest[2] > 12:
        return None
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    if (day > _DAYS_IN_MONTH[month] + (leap & (month == 2))).any():
        return None
    if highest[4] > 23 or highest[5] > 59 or highest[6] > 59:
        return None
    of_day = hour * 3_600 + minute * 60 + second
    return _days_from_civil(year, month, day).astype(np.int64) * 86_400 + of_day


def _days_from_civil(year: NDArray[np.int32], month: NDArray[np.int32], day: NDArray[np.int32]) -> NDArray[np.int32]:
    """Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil)."""
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def _fraction(chars: NDArray[np.uint8]) -> NDArray[np.int32] | int | None:
    """Microseconds of the part after the seconds; the rows share a length, and must share their shape."""
    first = chars[:, 0].tobytes()
    zone = b"Z" if first.endswith(b"Z") else b"+00:00" if first.endswith(b"+00:00") else b""
    places = len(first) - len(zone) - 1
    if zone and not (chars[places + 1 :] == np.frombuffer(zone, dtype=np.uint8)[:, None]).all():
        return None
    if places < 0:
        return 0
    if places == 0 or places > _MAX_PLACES or not (chars[0] == ord(".")).all():
        return None
    digits = chars[1 : places + 1] - np.uint8(48)
    if (digits > 9).any():
        return None
    value = np.zeros(chars.shape[1], dtype=np.int32)
    for digit in digits[:6]:
        value = value * 10 + digit
    return value * 10 ** max(0, 6 - places)
