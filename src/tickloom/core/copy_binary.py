"""Frames to the bytes of ``COPY … WITH (FORMAT binary)`` and back, vectorised. Pure.

Format: PostgreSQL documentation, COPY, "Binary Format". Rows differ in size by their symbol and by their NULLs, which
have a length but no bytes. The columns between these are the same in all rows: they are laid out as numpy records, and each
record is copied to its place in its row. So every byte is written only once.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
"""2000-01-01 UTC, where Postgres's timestamps begin, in microseconds since 1970."""

_TIMES = {"ts", "logged", "processed_at"}
_WIRE: dict[type[pl.DataType], str] = {pl.Float64: ">f8", pl.Int64: ">i8", pl.Int32: ">i4", pl.UInt32: ">i4"}
_NATIVE: dict[type[pl.DataType], Any] = {
    pl.Float64: np.float64,
    pl.Int64: np.int64,
    pl.Int32: np.int32,
    pl.UInt32: np.uint32,
}
_NULL = -1


@dataclass(frozen=True, slots=True)
class SymbolBytes:
    """The distinct symbols of a batch as UTF-8, padded to the longest; indexed by code."""

    padded: NDArray[np.bytes_]
    lengths: NDArray[np.int32]

    @classmethod
    def of(cls, symbols: pl.Series) -> "SymbolBytes":
        encoded = [symbol.encode() for symbol in symbols.to_list()]
        longest = max(map(len, encoded), default=1)
        lengths = np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded))
        return cls(np.array(encoded, dtype=f"S{longest}"), lengths)


def encode(frame: pl.DataFrame, symbols: SymbolBytes) -> bytearray:
    """The COPY stream of ``frame``. The first column, code, becomes text; ts, logged and processed_at become timestamptz; the
    dtype decides for the others.
    """
    rows = _Rows(len(frame))
    codes, columns = frame["code"].to_numpy(), frame.get_columns()[1:]
    lengths = symbols.lengths[codes]
    for length in np.unique(lengths).tolist():
        which = np.flatnonzero(lengths == length)
        count, text = np.int16(1 + len(columns)), symbols.padded[codes[which]]
        rows.add({"columns": (">i2", count), "length": (">i4", length), "text": (f"S{length}", text)}, which)
    run: dict[str, tuple[str, Any]] = {}
    for column in columns:
        wire = _WIRE[column.dtype.base_type()]
        size = np.dtype(wire).itemsize
        if not column.null_count():
            run |= {f"{column.name} length": (">i4", size), column.name: (wire, _values(column))}
            continue
        present = column.is_not_null().to_numpy()
        rows.add(run | {f"{column.name} length": (">i4", np.where(present, size, _NULL))})
        rows.add({column.name: (wire, _values(column.drop_nulls()))}, np.flatnonzero(present))
        run = {}
    rows.add(run)
    return rows.stream()


def decode(stream: bytes, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """The rows of a COPY stream that holds these columns (int4, int8, float8, timestamptz) and no NULL.

    ``ts``, ``logged`` and ``processed_at`` are timestamptz on the wire and microseconds since 1970 here.
    """
    parts = [part for name, kind in columns.items() for part in ((f"{name} length", ">i4"), (name, _WIRE[kind]))]
    found = np.frombuffer(
        stream, np.dtype([("columns", ">i2"), *parts]), offset=len(SIGNATURE), count=_rows_in(stream, parts)
    )
    frame: dict[str, NDArray[Any]] = {}
    for name, kind in columns.items():
        values = found[name].astype(_NATIVE[kind])
        frame[name] = values + POSTGRES_EPOCH_MICROSECONDS if name in _TIMES else values
    return pl.DataFrame(frame)


def _rows_in(stream: bytes, parts: list[tuple[str, str]]) -> int:
    row_bytes = 2 + sum(int(wire[-1]) for _, wire in parts)
    return (len(stream) - len(SIGNATURE) - len(TRAILER)) // row_bytes if stream else 0


def _values(column: pl.Series) -> NDArray[Any]:
    values = column.to_numpy()
    return values - POSTGRES_EPOCH_MICROSECONDS if column.name in _TIMES else values


class _Rows:
    """Rows under construction: pieces are added from left to right and put together at the end."""

    def __init__(self, count: int) -> None:
        self._sizes = np.zeros(count, dtype=np.int64)
        self._pieces: list[
            tuple[NDArray[np.void], Any, NDArray[np.int64]]
        ] = []  # records, their rows, their place in the row

    def add(self, fields: Mapping[str, tuple[str, Any]], which: Any = slice(None)) -> None:
        """Add fields (name to type and values) to the rows ``which``; the other rows do not get them."""
        before = self._sizes[which]
        if not fields or not len(before):
            return
        records = np.empty(len(before), dtype=[(name, wire) for name, (wire, _) in fields.items()])
        for name, (_, values) in fields.items():
            records[name] = values
        self._pieces.append((records, which, before.copy()))
        self._sizes[which] += records.itemsize

    def stream(self) -> bytearray:
        ends = len(SIGNATURE) + np.cumsum(self._sizes)
        starts = ends - self._sizes
        size = int(ends[-1]) if len(ends) else len(SIGNATURE)
        stream = bytearray(size + len(TRAILER))
        stream[: len(SIGNATURE)], stream[size:] = SIGNATURE, TRAILER
        for records, which, before in self._pieces:
            whole = np.dtype((np.void, records.itemsize))
            anywhere = np.ndarray(len(stream) - whole.itemsize + 1, dtype=whole, buffer=stream, strides=(1,))
            anywhere[starts[which] + before] = records.view(whole)
        return stream
