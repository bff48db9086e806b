"""The codec protocol: the values of a chunk go in, columns and faults come out.

A codec knows one format and nothing of the domain. It finds a feed's fields in each value, or says why it cannot: the
bytes are not in its format, or a field is missing or has the wrong type. Whether a symbol, a number or a time is
acceptable is decided by ``core.checks`` afterwards, in the same way for every format. This keeps the order of reasons:
a codec's fault always comes first, because a value with such a fault never reaches the checks.

A new format is one module with one class. ``read_each`` turns a function that reads one value into a codec; a format
with a faster way to read many values fills ``Columns`` itself, as ``core.codecs.json`` does.

What later formats need has a place here:

- Field names, nested fields and numbers written as text are declared in the ``Feed``; only codecs read them.
- Nanoseconds, row ids and extra columns become further columns in ``Columns``, each with its check in ``core.checks``.
- A codec that needs schemas from a registry is an object that holds them. It says which ones a chunk needs, and its
  driver supplies them before ``read``, as it does with the tails. A registry that cannot be reached is an
  outage, which the driver waits out. ``read`` itself fetches nothing and never raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from tickloom.core.arrays import Floats, Ints
from tickloom.core.model import Feed, Reason
from tickloom.core.timestamps import UNREACHABLE


class Fault(NamedTuple):
    """Why a value becomes no row, for machines and for people."""

    reason: Reason
    detail: str


class Fields(NamedTuple):
    """The fields of one value. ``time``: µs since 1970 UTC, or the text that is not a time. ``numbers``: those that the value has."""

    symbol: str
    time: int | str
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields of the values that a codec could read, in the order of the values; the columns run in parallel.

    ``positions``: which value each row comes from, ascending. ``micros``: µs since 1970 UTC, and ``UNREACHABLE`` for
    a row without a time. ``numbers``: by the names of ``Feed.numbers``; NaN where an optional number is absent, so a
    format that can hold a NaN of its own must replace it by infinity, which the checks refuse.
    ``not_times``: by position, the text that stands where a time should be. ``faults``: by position, the values that
    the codec could not read. Every value is in ``positions`` or in ``faults``.
    """

    positions: Ints
    symbols: list[str]
    micros: Ints
    numbers: dict[str, Floats]
    not_times: dict[int, str]
    faults: dict[int, Fault]

    def fields(self, row: int) -> Fields:
        """One row, as the codec would give it alone."""
        numbers = {name: float(column[row]) for name, column in self.numbers.items() if not np.isnan(column[row])}
        time = self.not_times.get(int(self.positions[row]), int(self.micros[row]))
        return Fields(self.symbols[row], time, numbers)

    def moved(self, positions: Ints) -> "Columns":
        """The same columns, where value ``i`` gets the position ``positions[i]``."""
        return replace(
            self,
            positions=positions[self.positions],
            not_times={int(positions[at]): text for at, text in self.not_times.items()},
            faults={int(positions[at]): fault for at, fault in self.faults.items()},
        )


class Codec(Protocol):
    """A format of message values. One object serves all chunks, one at a time."""

    def read(self, feed: Feed, values: Sequence[bytes]) -> Columns:
        """The fields of some values, none of which is empty. Pure and synchronous; no value makes it raise.

        The reason of its faults is ``schema``, or one of the format's own, such as ``not_json``.
        """
        ...


def read_each(feed: Feed, values: Sequence[bytes], read: Callable[[Feed, bytes], Fields | Fault]) -> Columns:
    """The columns of a format that is read one value after the other, by ``read``, which must not raise."""
    good: list[Fields] = []
    positions: list[int] = []
    faults: dict[int, Fault] = {}
    for position, value in enumerate(values):
        found = read(feed, value)
        if isinstance(found, Fault):
            faults[position] = found
        else:
            good.append(found)
            positions.append(position)
    return Columns(
        positions=np.array(positions, dtype=np.int64),
        symbols=[fields.symbol for fields in good],
        micros=np.array([UNREACHABLE if isinstance(f.time, str) else f.time for f in good], dtype=np.int64),
        numbers={name: np.array([f.numbers.get(name) for f in good], dtype=np.float64) for name in feed.numbers},
        not_times={at: f.time for at, f in zip(positions, good, strict=True) if isinstance(f.time, str)},
        faults=faults,
    )
