"""The newest rows of each cached symbol: an exact image of the tables, as they will be after the batches in flight.

There is a ring per side and symbol, with its newest C rows by event time. A row's *logical index* counts the symbol's rows since
the ring began; the row is stored at ``index % C``. A ring answers for event times from its *floor* on. The floor is its oldest
row once it has held C rows; until then it is how far back the tables were read, which may be the whole history.

C shrinks, for good, as the number of symbols grows, so that all rings together stay within a number of bytes. With few symbols a
batch holds many rows of each, and one side may be that many rows ahead of the other.

Only the task that joins touches an instance, except for ``committed``, a single number that the loading task sets.
Pure: no I/O, no clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.arrays import Ints
from tickloom.core.model import Side

NO_FLOOR, FOREVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_FIRST_SLOTS = 16
_LOADED_ROWS = 64
"""Most rows to load of one tail. More are seldom needed, and each may come from a table partition of its own. Tails then
grow with the batches."""
_ROW = np.dtype(
    [("ts", np.int64), ("value", np.float64), ("logged", np.int64), ("offset", np.int64), ("partition", np.int32)]
)
KEPT = ("ts", "value", "partition", "offset", "logged")
"""The columns of a row that a tail keeps."""
_FRAME_TYPES = {"value": pl.Float64, "partition": pl.Int32}
_WHOLE = np.dtype((np.void, _ROW.itemsize))
ROW_BYTES = _ROW.itemsize
"""The size of one row of one side."""


@dataclass(frozen=True, slots=True)
class Events:
    """Rows as columns of equal length: code (index into a list of symbols), ts, value, partition, offset, logged."""

    code: Ints
    ts: Ints
    value: NDArray[np.float64]
    partition: NDArray[np.int32]
    offset: Ints
    logged: Ints


@dataclass(frozen=True, slots=True)
class Context:
    """Rows of the tails around a batch: for each code its rows from ``since`` on, and the W-1 rows before them.

    ``rows``: ordered by code, then ts.
    ``base``: per code the logical index of its first row in ``rows``, or of its next row where it has none.
    ``floor``: per code the oldest ts that the tail answers for; ``NO_FLOOR`` where it holds the whole history, or where the whole
    batch is newer than the tail.
    ``deep_until``: per code the last ts whose window may reach below the floor; ``NO_FLOOR`` where no window of the batch does.
    """

    rows: Events
    base: Ints
    floor: Ints
    deep_until: Ints


@dataclass(frozen=True, slots=True)
class Points:
    """Distinct event times of symbols: code (index into a list of symbols) and ts, ordered by both."""

    code: Ints
    ts: Ints

    @classmethod
    def of(cls, code: Ints, ts: Ints) -> "Points":
        """The distinct points among these, in order."""
        first = distinct(code, ts)
        return cls(code[first], ts[first])

    def which(self, mask: NDArray[np.bool_]) -> "Points":
        """Those that ``mask`` selects."""
        return Points(self.code[mask], self.ts[mask])


def distinct(code: Ints, ts: Ints) -> Ints:
    """The index of the first of each (code, ts), ordered by these."""
    order = np.lexsort((ts, code))  # stable: the first stays first
    code, ts = code[order], ts[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (code[1:] != code[:-1]) | (ts[1:] != ts[:-1])
    return order[new]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One side's newest rows of some symbols, as read from the tables.

    ``rows``: code (index into the symbols), ts, value, partition, offset, logged, ordered by code and ts.
    ``floor``: per symbol the ts from which on ``rows`` is complete; ``NO_FLOOR`` where no older rows exist.
    ``since``: per symbol a ts that no row of either side precedes; ``FOREVER`` where it has no row, ``NO_FLOOR`` where that is
    not known.
    """

    rows: pl.DataFrame
    floor: Ints
    since: Ints

    @classmethod
    def nothing(cls, symbols: int) -> "Loaded":
        """The answer for a number of symbols without any row."""
        rows = pl.DataFrame(schema={"code": pl.UInt32, **{name: _FRAME_TYPES.get(name, pl.Int64) for name in KEPT}})
        return cls(rows, np.full(symbols, NO_FLOOR), np.full(symbols, FOREVER))


class _Ring:
    """One side's rings, for all slots. A row is one record, since with many symbols the cost of a row is one access to memory
    that no cache holds.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.total = np.zeros(0, dtype=np.int64)  # rows ever appended, so the next logical index
        self.loaded_from = np.zeros(0, dtype=np.int64)  # the floor until the ring has held its full number of rows
        self._held = np.zeros(0, dtype=_WHOLE)  # slot after slot, each of ``rows`` rows

    def resize(self, slots: int, rows: int) -> None:
        """Make room for more slots of as many rows or fewer; each ring keeps its newest rows."""
        old, self._held = self._held, np.zeros(slots * rows, dtype=_WHOLE)
        if rows == self.rows:
            self._held[: len(old)] = old
        else:
            index = self.total[:, None] - np.arange(1, rows + 1)
            slot, age = np.nonzero(index >= 0)
            index = index[slot, age]
            self._held[slot * rows + index % rows] = old[slot * self.rows + index % self.rows]
        more = slots - len(self.total)
        self.total = np.concatenate([self.total, np.zeros(more, dtype=np.int64)])
        self.loaded_from = np.concatenate([self.loaded_from, np.zeros(more, dtype=np.int64)])
        self.rows = rows

    def context(self, slots: Ints, since: Ints, before: int) -> Context:
        total = self.total[slots]
        first = np.maximum(total - self.rows, 0)
        newer = self._newer(slots, total, since)
        base = np.maximum(total - newer - before, first)
        counts = total - base
        codes = np.repeat(np.arange(len(slots)), counts)
        held = self._at(slots[codes], _numbers(base, counts))
        rows = Events(codes, *(np.ascontiguousarray(held[name]) for name in KEPT))
        floor, deep_until = np.full(len(slots), NO_FLOOR), np.full(len(slots), NO_FLOOR)
        # For all others the batch is newer than the tail, and the tail holds enough rows: to check them would cost an access to memory.
        near = np.flatnonzero((newer > 0) | (total - first < max(before, 1)))
        slots, total, first = slots[near], total[near], first[near]
        floor[near] = lowest = np.where(total >= self.rows, self._at(slots, first)["ts"], self.loaded_from[slots])
        # A ts has ``before`` rows of the ring before it if it comes after the last of the first ``before`` rows.
        last_before = self._at(slots, first + before - 1)["ts"] if before else lowest - 1
        deep_until[near] = np.where(
            lowest == NO_FLOOR, NO_FLOOR, np.where(total - first < before, FOREVER, last_before)
        )
        return Context(rows, base, floor, deep_until)

    def absorb(self, slots: Ints, base: Ints, rows: Events, moved: NDArray[np.bool_]) -> None:
        """``rows`` (ordered by code, ts) replace each code's rows from its logical index ``base`` on.

        ``moved`` is false for rows that stay unchanged at their place.
        """
        counts = np.bincount(rows.code, minlength=len(slots))
        ends = base + counts
        index = _numbers(base, counts)
        kept = np.flatnonzero(moved & (index >= (ends - self.rows)[rows.code]))
        records = np.empty(len(kept), dtype=_ROW)
        for name in _ROW.names or ():
            records[name] = getattr(rows, name)[kept]
        self._held[slots[rows.code[kept]] * self.rows + index[kept] % self.rows] = records.view(_WHOLE)
        self.total[slots] = ends

    def _at(self, slots: Ints, index: Ints) -> NDArray[Any]:
        """The rows of ``slots`` at these logical indexes."""
        return np.take(self._held, slots * self.rows + index % self.rows).view(_ROW)

    def _newer(self, slots: Ints, total: Ints, since: Ints) -> Ints:
        """Per slot the number of rows at ``since`` or after it. For most slots that is 0, which the newest row alone shows."""
        newer = np.zeros(len(slots), dtype=np.int64)
        late = np.flatnonzero((total > 0) & (self._at(slots, total - 1)["ts"] >= since))
        slots, since, high = slots[late], since[late], total[late]
        low = np.maximum(high - self.rows, 0)
        for _ in range(self.rows.bit_length()):  # binary search for the first such row, in all rings at once
            middle = (low + high) // 2
            older = (low < high) & (self._at(slots, middle)["ts"] < since)
            low, high = np.where(older, middle + 1, low), np.where(older, high, middle)
        newer[late] = total[late] - low
        return newer


def events(frame: pl.DataFrame) -> Events:
    """The columns of ``frame`` that the tails keep."""
    return Events(
        frame["code"].to_numpy().astype(np.int64),
        *(frame[name].to_numpy() for name in KEPT),
    )


def _numbers(starts: Ints, counts: Ints) -> Ints:
    """For each start, ``count`` consecutive numbers from it on, all in one array."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


class Tails:
    """The cache of both sides' tails. ``max_symbols`` bounds it, apart from the symbols of batches in flight.

    ``tail_rows`` (C) is the number of rows that each tail holds now. It is halved as the number of symbols grows, down to two
    windows, to keep the rings within ``max_bytes``; where that is not enough, fewer symbols are cached.
    """

    def __init__(self, window_rows: int, tail_rows: int, max_symbols: int, max_bytes: int) -> None:
        self.window_rows = window_rows
        self.tail_rows = tail_rows
        self._least_rows = min(tail_rows, 2 * window_rows + 6)
        self._max_rows = max_bytes // (len(Side) * ROW_BYTES)  # over all tails
        self.max_symbols = max(1, min(max_symbols, self._max_rows // self._least_rows))
        self.committed = 0
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._names: list[str | None] = []
        self._touched = np.zeros(0, dtype=np.int64)  # per slot the number of the last batch that touched it
        self._since = np.zeros(0, dtype=np.int64)  # per slot, as in ``Loaded``
        self._rings = {side: _Ring(tail_rows) for side in Side}

    def __len__(self) -> int:
        return len(self._slots)

    def missing(self, symbols: Sequence[str]) -> list[str]:
        """The ``symbols`` that are not cached, in the same order: ``insert`` them before ``context``."""
        return [symbol for symbol in symbols if symbol not in self._slots]

    def reserve(self, coming: int) -> int:
        """Make room for ``coming`` more symbols, which may shrink C. Returns the number of rows to load of each."""
        if coming > len(self._free):
            self._grow(len(self._slots) + coming)
        return min(self.tail_rows, max(self._least_rows, _LOADED_ROWS))

    def insert(self, symbols: Sequence[str], loaded: Mapping[Side, "Loaded"]) -> None:
        """Cache new symbols with their newest rows, no more of each than ``reserve`` said."""
        slots = np.array([self._take(symbol) for symbol in symbols], dtype=np.int64)
        nothing = np.zeros(len(slots), dtype=np.int64)
        for side, ring in self._rings.items():
            rows = loaded[side].rows
            ring.absorb(slots, nothing, events(rows), np.ones(len(rows), dtype=np.bool_))
            ring.loaded_from[slots] = loaded[side].floor
            self._since[slots] = loaded[side].since

    def slots(self, symbols: Sequence[str], batch: int) -> Ints:
        """The slots of cached ``symbols``; batch number ``batch`` (from 1) touches them."""
        slots = np.fromiter(map(self._slots.__getitem__, symbols), dtype=np.int64, count=len(symbols))
        self._touched[slots] = batch
        return slots

    def since(self, slots: Ints) -> Ints:
        """Per slot a ts that no row of the symbol precedes, as in ``Loaded``."""
        return self._since[slots]

    def reach_back(self, slots: Ints, oldest: Ints) -> None:
        """Note that a batch brings rows as old as ``oldest``."""
        self._since[slots] = np.minimum(self._since[slots], oldest)

    def context(self, side: Side, slots: Ints, since: Ints) -> Context:
        """The rows that a batch needs; ``since``: its earliest event time per slot, over both sides."""
        return self._rings[side].context(slots, since, self.window_rows - 1)

    def absorb(self, side: Side, slots: Ints, base: Ints, rows: Events, moved: NDArray[np.bool_]) -> None:
        """Take in the rows of a joined batch: context and batch merged, ordered by code and ts.

        ``moved`` is false for rows of the context that stay unchanged at their place.
        """
        self._rings[side].absorb(slots, base, rows, moved)

    def evict(self, coming: int = 0) -> int:
        """Make room for ``coming`` symbols: drop the least recently touched ones over the bound. Returns their number.

        A symbol of an uncommitted batch is never dropped, so such symbols may exceed the bound.
        """
        over = len(self._slots) + coming - self.max_symbols
        if over <= 0:
            return 0
        used = np.array([slot for slot, name in enumerate(self._names) if name is not None], dtype=np.int64)
        touched = self._touched[used]
        order = used[np.argsort(touched, kind="stable")][:over]
        victims = order[self._touched[order] <= self.committed]
        for slot in victims.tolist():
            name = self._names[slot]
            if name is not None:
                del self._slots[name]
            self._names[slot] = None
            self._free.append(slot)
        for ring in self._rings.values():
            ring.total[victims] = 0
        return len(victims)

    def _take(self, symbol: str) -> int:
        slot = self._free.pop()
        self._slots[symbol] = slot
        self._names[slot] = symbol
        return slot

    def _grow(self, least: int) -> None:
        old = len(self._names)
        new = max(_FIRST_SLOTS, old)
        while new < least:
            new *= 2
        self._names.extend([None] * (new - old))
        self._free.extend(range(new - 1, old - 1, -1))
        self._touched = np.concatenate([self._touched, np.zeros(new - old, dtype=np.int64)])
        self._since = np.concatenate([self._since, np.zeros(new - old, dtype=np.int64)])
        while new * self.tail_rows > self._max_rows and self.tail_rows > self._least_rows:
            self.tail_rows = max(self._least_rows, self.tail_rows // 2)
        for ring in self._rings.values():
            ring.resize(new, self.tail_rows)
