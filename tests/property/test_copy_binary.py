"""The bytes of COPY are those of Postgres's binary format."""

import struct

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tickloom.core.copy_binary import POSTGRES_EPOCH_MICROSECONDS, SIGNATURE, TRAILER, SymbolBytes, encode


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-(2**50), 2**50), st.none() | st.floats(allow_nan=False)), max_size=8
    )
)
def test_copy_bytes(rows: list[tuple[int, int, float | None]]) -> None:
    """One byte out of place and Postgres refuses the batch, or worse, takes it."""
    symbols = pl.Series(["a", "ünï", "zzzzzzzz"])
    frame = pl.DataFrame(rows, schema={"code": pl.UInt32, "ts": pl.Int64, "value": pl.Float64}, orient="row")
    stream = encode(frame, SymbolBytes.of(symbols))
    assert stream.startswith(SIGNATURE)
    assert stream.endswith(TRAILER)
    body, at, found = stream[len(SIGNATURE) : -len(TRAILER)], 0, []
    while at < len(body):
        fields = []
        at += 2
        for _ in range(3):
            (size,) = struct.unpack_from("!i", body, at)
            fields.append(None if size < 0 else body[at + 4 : at + 4 + size])
            at += 4 + max(size, 0)
        found.append(fields)
    wanted = [
        [
            symbols[code].encode(),
            struct.pack("!q", ts - POSTGRES_EPOCH_MICROSECONDS),
            None if value is None else struct.pack("!d", value),
        ]
        for code, ts, value in rows
    ]
    assert found == wanted
