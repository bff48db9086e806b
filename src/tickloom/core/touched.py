"""Which keys of derived outputs a batch touches: the symbol and bucket of each row that it writes into one of their sources. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from tickloom.core.arrays import Ints
from tickloom.core.copy_binary import SymbolBytes, encode
from tickloom.core.join import Joined
from tickloom.core.model import ANALYTICS, FEEDS
from tickloom.core.outputs import Output
from tickloom.core.partitioning import ALWAYS, Range, ranges_of, runs_of, starts_of, step_of
from tickloom.settings import Partitioning

_HOUR_MICROS = step_of(Partitioning.HOURLY)


@dataclass(frozen=True, slots=True)
class Touched:
    """The keys of one output, each once, in order: code, ts (the start of the bucket, in µs)."""

    output: Output
    keys: pl.DataFrame

    @property
    def starts(self) -> Ints:
        """The starts of their buckets, each once, in order."""
        return self.keys["ts"].unique().sort().to_numpy()

    def without(self, starts: Ints) -> "Touched":
        """The keys without those whose buckets begin at ``starts``."""
        return replace(self, keys=self.keys.filter(~np.isin(self.keys["ts"].to_numpy(), starts)))


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The rows of one output that must be computed again once the batch is written.

    ``keys``: a COPY stream of symbol and timestamp. ``runs``: the ranges of time, one a statement, that hold the buckets.
    ``needed``: their starts (µs), whose partitions must exist. ``touched``: by table the partitions that are read or written.
    """

    output: Output
    keys: bytearray
    runs: Sequence[Range]
    needed: Ints
    touched: Mapping[str, Sequence[Range]]


def touched_by(joined: Joined, outputs: Sequence[Output]) -> list[Touched]:
    """The keys that ``joined`` touches, for each output in which it touches any."""
    if not outputs:
        return []
    frames = {ANALYTICS.name: [joined.pairs, joined.changed_pairs]}
    for side, rows in joined.sides.items():
        frames[FEEDS[side].table.name] = [rows.new, rows.corrected, rows.revised]
    found = [_touched(output, [frame for name in output.sources for frame in frames[name]]) for output in outputs]
    return [one for one in found if len(one.keys)]


def _touched(output: Output, frames: Sequence[pl.DataFrame]) -> Touched:
    codes = pl.concat([frame["code"] for frame in frames])
    starts = output.starts(np.concatenate([frame["ts"].to_numpy() for frame in frames]))
    keys = pl.DataFrame([codes.alias("code"), pl.Series("ts", starts, pl.Int64)])
    return Touched(output, keys.unique().sort("code", "ts"))


def recomputed(touched: Touched, symbols: SymbolBytes, widths: Mapping[str, Partitioning]) -> Recomputed:
    """The rows to recompute for the touched keys.

    Runs are cut at bounds of buckets and of the narrowest partitions among the tables, so that a statement locks no
    partition in which it has nothing to look up.
    """
    output, starts = touched.output, touched.starts
    runs = _runs(output, starts, {widths[table] for table in (output.name, *output.sources)})
    hours = (
        starts if runs == [ALWAYS] else np.concatenate([np.arange(one.start, one.stop, _HOUR_MICROS) for one in runs])
    )
    return Recomputed(
        output=output,
        keys=encode(touched.keys, symbols),
        runs=runs,
        needed=starts,
        touched={
            output.name: ranges_of(starts, widths[output.name]),
            **{source: ranges_of(hours, widths[source]) for source in output.sources},
        },
    )


def _runs(output: Output, starts: Ints, widths: set[Partitioning]) -> list[Range]:
    if widths == {Partitioning.NONE}:
        return [ALWAYS]
    step = max(output.bucket_micros, min(step_of(width) for width in widths - {Partitioning.NONE}))
    return runs_of([Range(first, first + step) for first in starts_of(starts, step).tolist()])
