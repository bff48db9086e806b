"""encode: a joined batch becomes COPY streams, ready to send, with the facts that a load needs. Pure, CPU only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.arrays import Ints
from tickloom.core.copy_binary import SymbolBytes, encode
from tickloom.core.join import Joined
from tickloom.core.model import ANALYTICS, FEEDS, TABLES, Batch, Side
from tickloom.core.partitioning import Range, ranges_of, runs_of
from tickloom.core.streams import STREAMS
from tickloom.core.touched import Recomputed, Touched, recomputed
from tickloom.settings import Partitioning


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a batch's valid messages of one partition brought a new key, and how many met an existing one."""

    stored: int = 0
    superseded: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A joined batch as COPY streams. The first three are keyed by the name of a stream (``STREAMS``) that has rows.

    ``copies``: the bytes. ``rows``: the number of rows. ``updates``: for a staged stream, the runs of partitions that hold its
    keys. ``needed``: by table, the event times (µs) whose partitions must exist. ``touched``: by table, the partitions of all
    its rows. ``counts``: by side and Kafka partition. ``collapsed``: superseded rows whose value differs from their successor's.
    ``derived``: the rows of derived outputs to recompute. ``older``: symbols that have no row as old as the batch's oldest, in
    order, and the event times (µs) of those oldest rows.
    """

    copies: Mapping[str, bytearray]
    rows: Mapping[str, int]
    updates: Mapping[str, Sequence[Range]]
    needed: Mapping[str, Ints]
    touched: Mapping[str, Sequence[Range]]
    counts: Mapping[tuple[Side, int], Counts]
    collapsed: int
    older: tuple[list[str], list[int]]
    derived: Sequence[Recomputed] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way into the tables. ``encoded``: None where the join is left to the writer (``store/careful.py``).

    ``averages_read``: whether the join used averages read from the tables, as they were after ``repairs`` repairs.
    """

    batch: Batch
    encoded: Encoded | None
    averages_read: bool = False
    repairs: int | None = None


def encode_batch(
    joined: Joined, now_micros: int, widths: Mapping[str, Partitioning], keys: Sequence[Touched] = ()
) -> Encoded:
    """The streams of ``joined``. ``now_micros`` becomes ``processed_at``; ``widths``: partitioning by table; ``keys``: of derived
    outputs.
    """
    symbols = SymbolBytes.of(joined.symbols)
    frames = frames_of(joined, now_micros)
    updates: dict[str, list[Range]] = {}
    touched: dict[str, set[Range]] = {table.name: set() for table in TABLES}
    for name, frame in frames.items():
        stream = STREAMS[name]
        ranges = ranges_of(frame["ts"].to_numpy(), widths[stream.table.name])
        touched[stream.table.name].update(ranges)
        if stream.staged:
            updates[name] = runs_of(ranges)
    derived = [recomputed(one, symbols, widths) for one in keys]
    for one in derived:
        for table, ranges in one.touched.items():
            touched.setdefault(table, set()).update(ranges)
    return Encoded(
        copies={name: encode(frame, symbols) for name, frame in frames.items()},
        rows={name: len(frame) for name, frame in frames.items()},
        updates=updates,
        needed={
            **{name: frame["ts"].to_numpy() for name, frame in frames.items() if not STREAMS[name].staged},
            **{one.output.name: one.needed for one in derived},
        },
        touched={table: sorted(ranges) for table, ranges in touched.items()},
        counts={
            (side, partition): Counts(rows.stored.get(partition, 0), rows.superseded.get(partition, 0))
            for side, rows in joined.sides.items()
            for partition in rows.stored.keys() | rows.superseded.keys()
        },
        collapsed=sum(rows.collapsed for rows in joined.sides.values()),
        older=(joined.symbols.gather(joined.older["code"]).to_list(), joined.older["ts"].to_list()),
        derived=derived,
    )


def without_expired(joined: Joined, expired: NDArray[np.bool_]) -> Joined:
    """``joined`` without those of its new ``pairs`` whose partition was detached."""
    return replace(joined, pairs=joined.pairs.filter(~expired)) if expired.any() else joined


def frames_of(joined: Joined, now_micros: int) -> dict[str, pl.DataFrame]:
    """The rows of each stream that has any, with the stream's columns in its order: code, ts and the rest."""
    frames = {
        ANALYTICS.name: _stamped(joined.pairs, now_micros),
        "rejoined": _stamped(joined.changed_pairs, now_micros),
    }
    for side, rows in joined.sides.items():
        table = FEEDS[side].table
        columns = [_FRAME_COLUMN.get(name, name) for name in table.names]
        frames[table.name] = rows.new[columns]
        frames[f"corrected_{side}"] = rows.corrected[columns]
        frames[f"revised_{side}"] = rows.revised
    return {name: frames[name] for name in STREAMS if len(frames[name])}


def _stamped(pairs: pl.DataFrame, now_micros: int) -> pl.DataFrame:
    return pairs.hstack([pl.Series("processed_at", np.full(len(pairs), now_micros))])


_FRAME_COLUMN = {
    "symbol": "code",
    "timestamp": "ts",
    **{feed.value: "value" for feed in FEEDS.values()},
    **{feed.average: "average" for feed in FEEDS.values()},
    "source_partition": "partition",
    "source_offset": "offset",
    "source_timestamp": "logged",
}
"""The name of a raw table's column in the frames of ``join``, where it differs."""
