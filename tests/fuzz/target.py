"""What is fuzzed: bytes become a chunk of messages or event times, and every reader must agree with the judge.

first byte    the kind of the rest: messages of one or the other side, texts of event times, or epoch numbers
second byte   the record time of the messages
the rest      values, with 0x1E between them
"""

from collections.abc import Sequence
from enum import IntEnum

from tests import reference
from tests.readers import JSON_NUMBER, RECORD_MS, disagreements, number_disagreements, time_disagreements
from tickloom.core.model import Side

BETWEEN = b"\x1e"
RECORD_TIMES = (
    *(RECORD_MS, -1, 0, 2**63 - 1, -(2**63), 2**51, 999_999_999_999_999, 9_223_372_036_854_775),
    *(reference.FIRST // 1_000, reference.LAST // 1_000 - 1),
)


class Kind(IntEnum):
    """The kind of an input."""

    PRICES = 0
    VOLUMES = 1
    TEXTS = 2
    NUMBERS = 3


def pack(kind: Kind, values: Sequence[bytes], record_time: int = 0) -> bytes:
    """An input; ``record_time`` is an index into ``RECORD_TIMES``."""
    return bytes((kind, record_time)) + BETWEEN.join(values)


def one_input(data: bytes) -> None:
    """Raises ``AssertionError`` if a reader differs from the judge, and anything that a reader raises by mistake."""
    if len(data) < 2:
        return
    kind, record_ms, values = Kind(data[0] % 4), RECORD_TIMES[data[1] % len(RECORD_TIMES)], data[2:].split(BETWEEN)
    match kind:
        case Kind.PRICES | Kind.VOLUMES:
            side = Side.PRICES if kind is Kind.PRICES else Side.VOLUMES
            wrong = disagreements(side, values, [record_ms] * len(values))
        case Kind.TEXTS:
            wrong = time_disagreements([value.decode(errors="replace") for value in values])
        case Kind.NUMBERS:
            literals = (value.decode(errors="replace") for value in values)
            wrong = [
                line for literal in literals if JSON_NUMBER.fullmatch(literal) for line in number_disagreements(literal)
            ]
    assert not wrong, "\n".join(wrong)
