"""join: moving averages per symbol, then prices joined with volumes. Pure: no I/O, no clock.

A batch meets the tails. For every symbol it touches, the rows of both sides from the batch's earliest event time on, and the
W-1 rows before them, are merged with the batch's own (``merge``). The merged rows give everything exactly: which keys are new,
which rows the batch revises, their averages, and the other half of each key.

A late row whose window, or whose other half, may lie below what a tail holds is *deep*. ``begin`` names the points around which
the tables must be read (``History.around``); with these rows ``finish`` merges as before. The merged rows of a symbol may then
have holes, but no window that changes has one: around each deep row its own side is known W-1 rows back and W-1 rows on.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.arrays import Bools, Ints
from tickloom.core.merge import Around, Keys, Merged, keys_of, known_rows, last_of_each, merge, take
from tickloom.core.model import Batch, Side
from tickloom.core.tails import FOREVER, Context, Events, Points, Tails, events

_JOINED_NUMBERS = ("price", "volume", "price_average", "volume_average", "ratio")


@dataclass(frozen=True, slots=True)
class SideRows:
    """The rows for one side's table. All frames lead with code and ts and are ordered by them.

    ``new``: keys that the table does not have (all columns and ``average``). ``corrected``: keys that it has and whose values a
    later message replaces (the same columns). ``revised``: rows that stay but whose window changed (code, ts, average).
    ``stored``, ``superseded``: counts by Kafka partition. ``collapsed``: superseded rows whose value differs from their
    successor's under the same key.
    """

    new: pl.DataFrame
    corrected: pl.DataFrame
    revised: pl.DataFrame
    stored: Mapping[int, int]
    superseded: Mapping[int, int]
    collapsed: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Everything that ``load`` writes for a batch. ``code`` in the frames is the index into ``symbols``, which are ordered.

    ``pairs``: rows of stock_analytics_data with a new key; ``changed_pairs``: rows that replace existing ones. Both: code, ts, price,
    volume, price_average, volume_average, ratio. ``older``: symbols that have no row as old as the batch's oldest (code, ts of
    that one).
    """

    symbols: pl.Series
    sides: Mapping[Side, SideRows]
    pairs: pl.DataFrame
    changed_pairs: pl.DataFrame
    older: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch with the tails of its symbols. ``deep``: per side the points around which the tables must be read before ``finish``.

    ``oldest``: per code the oldest ts of the batch. ``since``: per code a ts that no earlier row precedes.
    """

    symbols: pl.Series
    rows: Mapping[Side, pl.DataFrame]
    read: Mapping[Side, Events]
    slots: Ints
    contexts: Mapping[Side, Context]
    deep: Mapping[Side, Points]
    oldest: Ints
    since: Ints

    @property
    def needs_tables(self) -> bool:
        """Whether the batch has deep rows."""
        return any(len(points.code) for points in self.deep.values())


def symbols_of(batch: Batch) -> pl.Series:
    """The batch's distinct symbols, in the order of their UTF-8 bytes (as ``COLLATE "C"`` has it)."""
    return pl.concat([batch.rows[side]["symbol"] for side in Side]).unique().sort()


def begin(batch: Batch, symbols: pl.Series, tails: Tails, number: int) -> Begun:
    """Begin to join batch ``number`` with ``tails``, which must hold all ``symbols``."""
    rows = {side: with_codes(batch.rows[side], symbols) for side in Side}
    read = {side: events(rows[side]) for side in Side}
    slots = tails.slots(symbols.to_list(), number)
    oldest = np.full(len(symbols), FOREVER, dtype=np.int64)
    for side in Side:
        np.minimum.at(oldest, read[side].code, read[side].ts)
    contexts = {side: tails.context(side, slots, oldest) for side in Side}
    deep_until = np.maximum(*(contexts[side].deep_until for side in Side))
    deep: dict[Side, Points] = {}
    for side in Side:
        which = read[side].ts <= deep_until[read[side].code]
        deep[side] = Points.of(read[side].code[which], read[side].ts[which])
    return Begun(symbols, rows, read, slots, contexts, deep, oldest, tails.since(slots))


def finish(begun: Begun, tails: Tails, around: Around | None = None) -> Joined:
    """Finish the join; afterwards ``tails`` hold the batch's rows. ``around``: the stored rows around the deep points."""
    read, contexts = begun.read, begun.contexts
    known = {side: known_rows(contexts[side], None if around is None else around[side]) for side in Side}
    keys = iter(keys_of([part for side in Side for part in (known[side].rows, read[side])]))
    merged: dict[Side, Merged] = {}
    for side in Side:
        merged[side] = one = merge(known[side], next(keys), read[side], next(keys), tails.window_rows)
        held = slice(None) if around is None else one.rows.ts >= contexts[side].floor[one.rows.code]
        tails.absorb(side, begun.slots, contexts[side].base, take(one.rows, held), one.moved[held])
    pairs, changed_pairs = _pair(merged[Side.PRICES], merged[Side.VOLUMES])
    older = np.flatnonzero(begun.oldest < begun.since)
    tails.reach_back(begun.slots, begun.oldest)
    return Joined(
        symbols=begun.symbols,
        sides={side: _side_rows(begun.rows[side], merged[side]) for side in Side},
        pairs=pairs,
        changed_pairs=changed_pairs,
        older=_key_frame(Keys(older, older, begun.oldest[older])),
    )


def with_codes(rows: pl.DataFrame, symbols: pl.Series) -> pl.DataFrame:
    """``rows`` with ``code``, the index into the ordered ``symbols``, in place of ``symbol``."""
    symbol, *rest = rows.get_columns()
    return pl.DataFrame([symbol.cast(pl.Enum(symbols)).to_physical().cast(pl.UInt32).alias("code"), *rest])


def partition_of_symbols(batch: Batch, symbols: pl.Series) -> NDArray[np.int64]:
    """Per symbol the partition number of its messages; -1 where they come from several partitions."""
    both = pl.concat([with_codes(batch.rows[side], symbols).select("code", "partition") for side in Side])
    found = both.group_by("code").agg(low=pl.col("partition").min(), high=pl.col("partition").max()).sort("code")
    return np.where(found["low"].to_numpy() == found["high"].to_numpy(), found["low"].to_numpy(), -1)


def _count(partitions: NDArray[np.int32]) -> dict[int, int]:
    found, counts = np.unique(partitions, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _side_rows(rows: pl.DataFrame, merged: Merged) -> SideRows:
    """``rows``: those of the batch, with codes."""
    new = merged.changed & merged.fresh
    revised = merged.affected & ~merged.changed
    stored = _count(merged.rows.partition[new])
    superseded = Counter(_count(rows["partition"].to_numpy()))
    superseded.subtract(stored)
    return SideRows(
        new=_with_averages(rows, merged, new),
        corrected=_with_averages(rows, merged, merged.changed & ~merged.fresh),
        revised=_key_frame(merged.keys(revised), pl.Series("average", merged.average[revised])),
        stored=stored,
        superseded={partition: count for partition, count in superseded.items() if count},
        collapsed=merged.collapsed,
    )


def _with_averages(rows: pl.DataFrame, merged: Merged, which: Bools) -> pl.DataFrame:
    return rows[merged.source[which]].hstack([pl.Series("average", merged.average[which])])


def _key_frame(keys: Keys, *more: pl.Series) -> pl.DataFrame:
    return pl.DataFrame([pl.Series("code", keys.code.astype(np.uint32)), pl.Series("ts", keys.ts), *more])


def _pair(prices: Merged, volumes: Merged) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of stock_analytics_data that are new, and those that change."""
    key = np.concatenate([prices.key, volumes.key])
    order = np.argsort(key, kind="stable")  # merges two ordered runs
    first = np.flatnonzero(~last_of_each(key[order]))
    p, v = order[first], order[first + 1] - len(prices.key)
    touched = prices.affected[p] | volumes.affected[v]
    p, v = p[touched], v[touched]
    new = (prices.changed & prices.fresh)[p] | (volumes.changed & volumes.fresh)[v]
    return _pair_rows(prices, p[new], volumes, v[new]), _pair_rows(prices, p[~new], volumes, v[~new])


def _pair_rows(prices: Merged, p: Ints, volumes: Merged, v: Ints) -> pl.DataFrame:
    price, volume = prices.rows.value[p], volumes.rows.value[v]
    with np.errstate(all="ignore"):
        ratio = price / volume
    ratio[~np.isfinite(ratio)] = np.nan  # by 0, or beyond float8
    numbers = (price, volume, prices.average[p], volumes.average[v])
    return _key_frame(
        Keys(p, prices.rows.code[p], prices.rows.ts[p]),
        *(pl.Series(name, column) for name, column in zip(_JOINED_NUMBERS, numbers, strict=False)),
        pl.Series(_JOINED_NUMBERS[-1], ratio, nan_to_null=True),
    )
