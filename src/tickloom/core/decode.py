"""decode: raw bytes become typed rows or rejects. Pure: no I/O, no clock, and no input makes it raise.

A codec turns the values of a chunk into columns, and the domain's checks run on these. The reasons for a reject have
an order, and the first that applies counts: ``empty`` is found here, then come the codec's faults, then those of
``core.checks``.
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import methodcaller
from typing import cast

import numpy as np
import polars as pl

from tickloom.core.arrays import Bools
from tickloom.core.checks import EventBounds, fault_of, suspects
from tickloom.core.codecs.codec import Codec, Columns, Fault
from tickloom.core.codecs.json import JSON
from tickloom.core.model import FEEDS, Chunk, Decoded, Feed, RawMessage, Reason, Reject, TopicPartition

_EMPTY = Fault(Reason.EMPTY, "the message has no value")
_GET_HEADERS = methodcaller("headers")


def decode(chunk: Chunk, bounds: EventBounds, codec: Codec = JSON) -> Decoded:
    """Rows (columns of ``rows_schema``) and rejects of a chunk, both in the chunk's order. Never raises."""
    feed = FEEDS[chunk.side]
    columns = _read(chunk, feed, codec)
    faults, good = dict(columns.faults), np.ones(len(columns.positions), dtype=np.bool_)
    records_ms = chunk.timestamps_ms[columns.positions]
    for row in np.flatnonzero(suspects(feed, columns, records_ms, bounds)).tolist():
        fault = fault_of(feed, columns.fields(row), int(records_ms[row]), bounds)
        if fault is not None:
            faults[int(columns.positions[row])] = fault
            good[row] = False
    rows = _rows(chunk, feed, columns)
    rejects = [reject(chunk, position, *faults[position]) for position in sorted(faults)]
    return Decoded(chunk, rows if good.all() else rows.filter(good), rejects)


def _read(chunk: Chunk, feed: Feed, codec: Codec) -> Columns:
    """The columns that the codec reads from the chunk's values; ``empty`` is a fault in every format."""
    if all(chunk.values):
        return codec.read(feed, cast("Sequence[bytes]", chunk.values))
    filled = np.fromiter(map(bool, chunk.values), np.bool_, len(chunk.values))
    columns = codec.read(feed, list(filter(None, chunk.values))).moved(np.flatnonzero(filled))
    return replace(columns, faults=columns.faults | dict.fromkeys(np.flatnonzero(~filled).tolist(), _EMPTY))


def _rows(chunk: Chunk, feed: Feed, columns: Columns) -> pl.DataFrame:
    numbers = zip(("value", *feed.optional), feed.numbers, strict=True)
    return pl.DataFrame(
        [
            pl.Series("symbol", columns.symbols, pl.String),
            pl.Series("ts", columns.micros),
            *(pl.Series(name, columns.numbers[field], nan_to_null=True) for name, field in numbers),
            pl.Series("partition", chunk.partitions[columns.positions].astype(np.int32)),
            pl.Series("offset", chunk.offsets[columns.positions]),
            pl.Series("logged", chunk.logged[columns.positions]),
        ]
    )


def without(decoded: Decoded, gone: Bools, reason: Reason, detail: str) -> Decoded:
    """``decoded``, with the rows that ``gone`` marks moved to the rejects."""
    dead = {(letter.source.partition, letter.offset): letter for letter in decoded.rejects}
    chunk, rejects, row = decoded.chunk, list[Reject](), 0
    for position, source in enumerate(zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)):
        if source in dead:
            rejects.append(dead[source])
            continue
        if gone[row]:
            rejects.append(reject(chunk, position, reason, detail))
        row += 1
    return Decoded(chunk, decoded.rows.filter(~gone), rejects)


def reject(chunk: Chunk, position: int, reason: Reason, detail: str) -> Reject:
    """The dead letter of the chunk's message at ``position``."""
    message: RawMessage = chunk.messages[position]
    headers, lost = _headers(message)
    return Reject(
        source=TopicPartition(chunk.topic, int(chunk.partitions[position])),
        offset=int(chunk.offsets[position]),
        key=message.key(),
        value=chunk.values[position],
        headers=headers,
        timestamp_ms=int(chunk.timestamps_ms[position]),
        reason=reason,
        detail=detail + lost,
    )


def _headers(message: RawMessage) -> tuple[tuple[tuple[str, bytes | None], ...], str]:
    """A message's headers and no text; or no headers and an explanation, if the client cannot read one of their names.

    If a name is not UTF-8, confluent-kafka leaves a hole in its list and returns the list together with an exception.
    A call from bytecode may let both pass and fail later, somewhere else; a call from C, as here, does not. Nothing
    may touch the list again: reading the hole ends the process.
    """
    try:
        return tuple(_GET_HEADERS(message) or ()), ""
    except (SystemError, UnicodeDecodeError):
        message.set_headers([])
        return (), "; its headers are lost, since one of their names is not UTF-8"
