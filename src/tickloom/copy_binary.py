"""Frames to the bytes of ``COPY … WITH (FORMAT binary)``, vectorised. Pure.

Format: PostgreSQL documentation, COPY, "Binary Format". A row is laid out once for all rows as a numpy record
with the symbol padded to the longest; then the bytes that a row does not have (padding, values that are NULL)
are masked out in one step.
"""

import struct
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
"""2000-01-01 UTC, from which Postgres counts, in microseconds since 1970."""

_TIMES = {"ts", "processed_at"}
_WIRE: dict[type[pl.DataType], str] = {pl.Float64: ">f8", pl.Int64: ">i8", pl.Int32: ">i4"}


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


def encode(frame: pl.DataFrame, symbols: SymbolBytes) -> bytes:
    """The COPY stream of ``frame``: code becomes text, ts and processed_at timestamptz, the rest goes by its dtype."""
    if not len(frame):
        return SIGNATURE + TRAILER
    width = symbols.padded.dtype.itemsize
    fields: list[tuple[str, str]] = [("columns", ">i2")]
    for name in frame.columns:
        wire = f"S{width}" if name == "code" else _WIRE[frame.schema[name].base_type()]
        fields += [(f"{name} length", ">i4"), (name, wire)]
    record = np.dtype(fields)
    rows = np.empty(len(frame), dtype=record)
    rows["columns"] = len(frame.columns)
    starts = {name: int(place[1]) for name, place in (record.fields or {}).items()}
    absent: list[tuple[int, int, NDArray[np.bool_]]] = []  # (start, bytes, which rows or row × byte)
    for name in frame.columns:
        column = frame[name]
        start = starts[name]
        if name == "code":
            codes = column.to_numpy()
            lengths = symbols.lengths[codes]
            rows[name] = symbols.padded[codes]
            rows[f"{name} length"] = lengths
            if symbols.lengths.min() < width:
                absent.append((start, width, np.arange(width) >= lengths[:, None]))
            continue
        size = record[name].itemsize
        rows[f"{name} length"] = size
        if column.null_count():
            null = column.is_null().to_numpy()
            rows[f"{name} length"][null] = -1
            absent.append((start, size, np.broadcast_to(null[:, None], (len(null), size))))
            column = column.fill_null(0)
        rows[name] = column.to_numpy() - POSTGRES_EPOCH_MICROSECONDS if name in _TIMES else column.to_numpy()
    return b"".join((SIGNATURE, _masked(rows, absent), TRAILER))


def _masked(rows: NDArray[np.void], absent: list[tuple[int, int, NDArray[np.bool_]]]) -> bytes:
    if not absent:
        return rows.tobytes()
    flat = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    present = np.ones(flat.shape, dtype=np.bool_)
    for start, size, gone in absent:
        present[:, start : start + size] = ~gone
    return flat[present].tobytes()
