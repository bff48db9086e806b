"""The ways in which producers write a symbol, a time and a whole message, for the shapes in ``tickloom.shapes``. Pure."""

from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import NamedTuple, TypeAlias

from tickloom.synthetic import SECOND, iso, symbol_name

_MINUTE = 60 * SECOND


class Parts(NamedTuple):
    """A plain message, taken apart. ``symbol`` and ``time`` are JSON already; ``others`` begins with a comma or is empty."""

    number: int
    """The message's place in its log, from 0."""
    symbol: str
    name: str
    value: str
    time: str
    others: str


Written: TypeAlias = tuple[str, int]
"""A time as JSON, and its instant (µs since 1970)."""


# --- the symbol ---------------------------------------------------------------------------------------------


def ticker_of_digits(index: int) -> str:
    """Tickers as in Hong Kong, Tokyo and Shanghai, in turn."""
    return (f"{index:04d}.HK", f"{1_000 + index}.T", f"{600_000 + index}")[index % 3]


def currency_pair(index: int) -> str:
    return f"{symbol_name(index)}/USD"


def symbol_beyond_ascii(index: int) -> str:
    """Two, three and four bytes a character, in turn."""
    return (f"Ø{index:04d}", f"日経{index:04d}", f"𝕏{index:04d}")[index % 3]


def quoted(symbol: str) -> str:
    return f'"{symbol}"'


def escaped_slash(symbol: str) -> str:
    return f'"{symbol}"'.replace("/", "\\/")


def unicode_escaped(symbol: str) -> str:
    """Escapes each character beyond ASCII as ``\\u``, in UTF-16 as JSON asks, and the first digit, which does not need it."""
    units = symbol.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    first = next(place for place, code in enumerate(codes) if 0x30 <= code <= 0x39)
    escaped = (f"\\u{code:04x}" if code > 0x7E or place == first else chr(code) for place, code in enumerate(codes))
    return f'"{"".join(escaped)}"'


# --- the time -----------------------------------------------------------------------------------------------


def iso_microseconds(micros: int) -> Written:
    return f'"{iso(micros)}"', micros


def iso_milliseconds(micros: int) -> Written:
    return f'"{iso(micros)[:23]}Z"', micros - micros % 1_000


def iso_offset(micros: int) -> Written:
    return f'"{iso(micros + 330 * _MINUTE)[:-1]}+05:30"', micros


def iso_space(micros: int) -> Written:
    return f'"{iso(micros)[:-1].replace("T", " ")}"', micros


_MIXED = (
    ("T", 26, "Z", 0),
    ("T", 23, "Z", 0),
    (" ", 26, "", 0),
    ("T", 29, "Z", 0),
    ("T", 26, "+05:30", 330),
    ("T", 19, "Z", 0),
    (" ", 23, "+02", 120),
    ("T", 29, "-0500", -300),
    ("T", 26, "", 0),
    ("T", 21, "Z", 0),
    (" ", 19, "", 0),
    ("T", 23, "-08:00", -480),
    ("T", 22, "+0900", 540),
    (" ", 29, "Z", 0),
    ("T", 28, "+01", 60),
    ("T", 16, "Z", 0),
)
"""The separator, how much of YYYY-MM-DDTHH:MM:SS.fffffffff is written, and the zone, as text and in minutes."""
_CUT = {16: _MINUTE, 19: SECOND, 21: 100_000, 22: 10_000, 23: 1_000}
"""The microseconds to which a time of each width is cut."""


def iso_mixed(micros: int) -> Written:
    separator, width, zone, minutes = _MIXED[(micros * 2_654_435_761 >> 16) % len(_MIXED)]
    text = f"{iso(micros + minutes * _MINUTE)[:-1]}789"[:width].replace("T", separator)
    return f'"{text}{zone}"', micros - micros % _CUT.get(width, 1)


def epoch_seconds(micros: int) -> Written:
    return str(micros // SECOND), micros - micros % SECOND


def epoch_float(micros: int) -> Written:
    return f"{micros // SECOND}.{micros % SECOND:06d}", micros


def epoch_milliseconds(micros: int) -> Written:
    return str(micros // 1_000), micros - micros % 1_000


def epoch_microseconds(micros: int) -> Written:
    return str(micros), micros


def epoch_nanoseconds(micros: int) -> Written:
    return f"{micros}789", micros


def epoch_exponent(micros: int) -> Written:
    """Milliseconds as a program writes them if it keeps them as a float."""
    digits = str(micros // 1_000)
    return f"{digits[0]}.{digits[1:]}E{len(digits) - 1}", micros - micros % 1_000


# --- the message --------------------------------------------------------------------------------------------


def compact(parts: Parts) -> str:
    _, symbol, name, value, time, others = parts
    return f'{{"symbol":{symbol},"{name}":{value},"timestamp":{time}{others}}}'


def followed_by(more: Callable[[int], str]) -> Callable[[Parts], str]:
    """Compact, ending with the unknown fields that ``more`` gives for the message's number."""

    def write(parts: Parts) -> str:
        return f"{compact(parts)[:-1]},{more(parts.number)}}}"

    return write


def _fields(parts: Parts) -> list[str]:
    """Each field with its name, as in a compact message."""
    return compact(parts)[1:-1].split(",")


@cache
def _orders(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(permutations(range(size)))


def in_another_order(parts: Parts) -> str:
    fields = _fields(parts)
    orders = _orders(len(fields))
    return "{" + ",".join([fields[place] for place in orders[parts.number * 7 % len(orders)]]) + "}"


def indented(parts: Parts) -> str:
    return "{\n  " + ",\n  ".join([field.replace(":", ": ", 1) for field in _fields(parts)]) + "\n}"


_VENUES = ("XNYS", "XNAS", "XLON", "XTKS", "XHKG")
_HEADLINE = " ".join(["Shares were little changed in thin trading ahead of the holiday;"] * 8)[:500]
_WIDE = ",".join(
    f'"field_{index:02d}":{index * 1.25},"label_{index:02d}":"some text {index:02d}"' for index in range(45)
)


def venue(number: int) -> str:
    return f'"venue":"{_VENUES[number % len(_VENUES)]}"'


def sequence(number: int) -> str:
    return f'"sequence":{number}'


def venue_and_sequence(number: int) -> str:
    return f"{venue(number)},{sequence(number)}"


def nested(number: int) -> str:
    """Fields with known names deeper in the message, where they mean nothing."""
    return (
        f'"book":{{"bids":[{{"price":1.5,"size":100}},{{"price":1.25,"size":{number}}}],"asks":[],"symbol":null,'
        f'"crossed":false}},"flags":["T",null,true,[[1],[2,3]]],"source":{{"feed":{{"id":{number % 7},"name":"SIP"}}}},'
        f'"halted":false,"correction":null'
    )


def note_with_escapes(number: int) -> str:
    return f'"note":"a \\"firm\\" price\\nfrom C:\\\\feeds\\\\{number % 10}\\t, {{not}} [JSON]"'


def issuer_with_escapes(_: int) -> str:
    return '"issuer":"Soci\\u00e9t\\u00e9 \\ud83d\\ude00"'


def headline(_: int) -> str:
    return f'"headline":"{_HEADLINE}"'


def wide(_: int) -> str:
    return _WIDE
