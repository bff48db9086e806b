"""join: moving averages per symbol, then prices joined with volumes. Pure: no I/O, no clock.

A batch meets the tails. For every symbol it touches, the rows of both sides from the batch's earliest event time
on, and the W-1 before them, are merged with the batch's own. In that merged frame everything is known exactly:
which keys are new, which rows a batch revises, their averages, and the other half of each key.

A late row whose window, or whose other half, may lie below what a tail holds is *deep*. For these ``begin`` names the
points of which the tables must tell what is around them (``History.around``); with that, ``finish`` merges as before.
The merged rows of a symbol may then have holes, but no window that changes has one: around each deep row its own
side is known W-1 rows back and W-1 rows on.

The mean is the sum of the window, oldest row first, divided by its count: bit for bit what Postgres's
``avg() OVER`` gives, and without the residue that an incremental sum keeps after a spike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.model import Batch, Side
from tickloom.core.tails import FOREVER, KEPT, Context, Events, Ints, Points, Tails, distinct, events

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Around: TypeAlias = Mapping[Side, pl.DataFrame]
"""Per side rows of the tables: code, ts, value, partition, offset, logged, average; each key once, ordered by it."""

_KEY_BITS = 63
_MET_NUMBERS = ("price", "volume", "price_average", "volume_average", "ratio")


@dataclass(frozen=True, slots=True)
class SideRows:
    """What one side's table takes. All frames lead with code and ts and are ordered by them.

    ``new``: keys that the table does not have (all columns and ``average``).
    ``corrected``: keys that it has, whose values a later message replaces (the same columns).
    ``revised``: rows that stay, but whose window changed (code, ts, average).
    ``stored``, ``superseded``: counts by partition. ``collapsed``: of the superseded those whose value differs from what
    came after them under the same key.
    """

    new: pl.DataFrame
    corrected: pl.DataFrame
    revised: pl.DataFrame
    stored: Mapping[int, int]
    superseded: Mapping[int, int]
    collapsed: int


@dataclass(frozen=True, slots=True)
class Joined:
    """All that ``load`` writes for a batch; ``code`` in the frames is the index into ``symbols`` (ordered).

    ``met``: analytics rows whose key the table does not have; ``remet``: those to replace. Both: code, ts, price,
    volume, price_average, volume_average, ratio. ``older``: symbols that have no row as old as the batch's (code, ts of
    that).
    """

    symbols: pl.Series
    sides: Mapping[Side, SideRows]
    met: pl.DataFrame
    remet: pl.DataFrame
    older: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch beside its tails. ``deep``: per side the points around which the tables must be read for ``finish``.

    ``oldest``: per code the oldest ts of the batch; ``since``: what no row is older than that was there before.
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
        """Whether there are any deep rows."""
        return any(len(points.code) for points in self.deep.values())


def symbols_of(batch: Batch) -> pl.Series:
    """The batch's distinct symbols, in the order of their UTF-8 bytes (as ``COLLATE "C"`` has it)."""
    return pl.concat([batch.rows[side]["symbol"] for side in Side]).unique().sort()


def begin(batch: Batch, symbols: pl.Series, tails: Tails, number: int) -> Begun:
    """Batch ``number`` beside ``tails``, which must hold all ``symbols``."""
    rows = {side: with_codes(batch.rows[side], symbols) for side in Side}
    read = {side: events(rows[side]) for side in Side}
    slots = tails.slots(symbols.to_list(), number)
    oldest = np.full(len(symbols), FOREVER, dtype=np.int64)
    for side in Side:
        np.minimum.at(oldest, read[side].code, read[side].ts)
    contexts = {side: tails.context(side, slots, oldest) for side in Side}
    murky = np.maximum(*(contexts[side].murky for side in Side))
    deep: dict[Side, Points] = {}
    for side in Side:
        which = read[side].ts <= murky[read[side].code]
        deep[side] = Points.of(read[side].code[which], read[side].ts[which])
    return Begun(symbols, rows, read, slots, contexts, deep, oldest, tails.since(slots))


def finish(begun: Begun, tails: Tails, around: Around | None = None) -> Joined:
    """Join what was begun; ``tails`` hold the batch's rows after. ``around``: what the tables told of the deep points."""
    read, contexts = begun.read, begun.contexts
    known = {side: _known(contexts[side], None if around is None else around[side]) for side in Side}
    keys = iter(_keys([part for side in Side for part in (known[side].rows, read[side])]))
    merged: dict[Side, _Merged] = {}
    for side in Side:
        merged[side] = one = _merge(known[side], next(keys), read[side], next(keys), tails.window_rows)
        held = slice(None) if around is None else one.rows.ts >= contexts[side].floor[one.rows.code]
        tails.absorb(side, begun.slots, contexts[side].base, _take(one.rows, held), one.moved[held])
    met, remet = _meet(merged[Side.PRICES], merged[Side.VOLUMES])
    older = np.flatnonzero(begun.oldest < begun.since)
    tails.reach_back(begun.slots, begun.oldest)
    return Joined(
        symbols=begun.symbols,
        sides={side: _side_rows(begun.rows[side], merged[side]) for side in Side},
        met=met,
        remet=remet,
        older=_key_frame(_Keys(older, older, begun.oldest[older])),
    )


def with_codes(rows: pl.DataFrame, symbols: pl.Series) -> pl.DataFrame:
    """``rows`` with ``code``, the index into the ordered ``symbols``, in ``symbol``'s place."""
    symbol, *rest = rows.get_columns()
    return pl.DataFrame([symbol.cast(pl.Enum(symbols)).to_physical().cast(pl.UInt32).alias("code"), *rest])


def partition_of_symbols(batch: Batch, symbols: pl.Series) -> NDArray[np.int64]:
    """Per symbol the one partition number its messages came from; -1 where they came from several."""
    both = pl.concat([with_codes(batch.rows[side], symbols).select("code", "partition") for side in Side])
    found = both.group_by("code").agg(low=pl.col("partition").min(), high=pl.col("partition").max()).sort("code")
    return np.where(found["low"].to_numpy() == found["high"].to_numpy(), found["low"].to_numpy(), -1)


def _count(partitions: NDArray[np.int32]) -> dict[int, int]:
    found, counts = np.unique(partitions, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


# --- context and batch as one ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Keys:
    """Some keys: the numbers of ``_keys``, and what they stand for."""

    key: Ints
    code: Ints
    ts: Ints


@dataclass(frozen=True, slots=True)
class _Known:
    """Rows that are there before the batch, each once, in any order; ``average`` is NaN where it is not known."""

    rows: Events
    average: Floats


@dataclass(frozen=True, slots=True)
class _Merged:
    """What was known and batch, one row a key, ordered by it.

    ``source``: the row's index in the batch's frame; -1 where it was known.
    ``fresh``: its key was not known. ``changed``: the row is the batch's. ``moved``: such a one is among the symbol's
    rows up to this; ``affected``: among the last W of them, so that the average is another.
    ``collapsed``: how many rows of a key differ from the next one of it.
    """

    key: Ints
    rows: Events
    source: Ints
    average: Floats
    fresh: Bools
    changed: Bools
    moved: Bools
    affected: Bools
    collapsed: int

    def keys(self, which: Bools) -> _Keys:
        return _Keys(self.key[which], self.rows.code[which], self.rows.ts[which])


def _known(context: Context, around: pl.DataFrame | None) -> _Known:
    """The tail's rows and the tables' as one; the tail may hold some of the latter, too."""
    rows = context.rows
    unknown = np.full(len(rows.ts), np.nan)
    if around is None or not len(around):
        return _Known(rows, unknown)
    read = events(around)
    # Of a tail's row that is read, too, only the read one counts: it has its average.
    first = distinct(np.concatenate([read.code, rows.code]), np.concatenate([read.ts, rows.ts]))
    average = np.concatenate([around["average"].to_numpy(), unknown])
    return _Known(_take(_concat(read, rows), first), average[first])


def _keys(parts: Sequence[Events]) -> list[Ints]:
    """For each row of each part a number that orders and equals, among all of them, as its (code, ts) does."""
    codes, times = np.concatenate([part.code for part in parts]), np.concatenate([part.ts for part in parts])
    if not len(codes):
        return [codes for _ in parts]
    bits = (int(times.max()) - int(times.min())).bit_length()
    if bits + int(codes.max()).bit_length() <= _KEY_BITS:
        times -= times.min()
    else:  # so wide apart that both do not fit: the times are numbered instead
        times = np.unique(times, return_inverse=True)[1]
        bits = len(times).bit_length()
    ends = np.cumsum([len(part.code) for part in parts])
    return np.split((codes << bits) | times, ends[:-1])


def _merge(known: _Known, known_keys: Ints, read: Events, keys: Ints, window: int) -> _Merged:
    """``known_keys`` are the keys of the rows that are known, ``keys`` those of the rows that were read."""
    both = _concat(known.rows, read)
    held = np.arange(len(both.ts)) < len(known_keys)
    key = np.concatenate([known_keys, keys])
    order = _ordered(key, both.logged, both.offset, both.partition, held)
    last = _last_of_each(key[order])
    won = order[last]
    rows = _take(both, won)
    place, changed = _places(rows.code), ~held[won]
    index = np.arange(len(won))
    since_change = index - np.maximum.accumulate(np.where(changed, index, -1 - len(won)))
    moved = since_change <= place
    affected = moved & (since_change < window)
    average = _mean(rows.value, place, window)
    if len(known.average) and not np.isnan(known.average).all():
        stored = np.concatenate([known.average, np.full(len(keys), np.nan)])[won]
        average = np.where(affected | np.isnan(stored), average, stored)  # there may be a hole in its window
    earlier = np.flatnonzero(~last)
    return _Merged(
        key=key[won],
        rows=rows,
        source=np.where(changed, won - len(known_keys), -1),
        average=average,
        fresh=np.diff(np.cumsum(held[order])[last], prepend=0) == 0,  # no row of the key was known
        changed=changed,
        moved=moved,
        affected=affected,
        collapsed=int(np.count_nonzero(both.value[order[earlier]] != both.value[order[earlier + 1]])),
    )


def _take(rows: Events, which: Any) -> Events:
    return Events(rows.code[which], *(getattr(rows, name)[which] for name in KEPT))


def _concat(first: Events, then: Events) -> Events:
    return Events(
        np.concatenate([first.code, then.code]),
        *(np.concatenate([getattr(first, name), getattr(then, name)]) for name in KEPT),
    )


def _ordered(key: Ints, *ties: NDArray[Any]) -> Ints:
    """The order of rows by ``key``, and by ``ties`` where keys are equal."""
    order = np.argsort(key)
    same = ~_last_of_each(key[order])
    if same.any():
        tied = np.flatnonzero(same | np.roll(same, 1))
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(tie[rows] for tie in reversed(ties)), key[rows]))]
    return order


def _last_of_each(key: Ints) -> Bools:
    """Of ordered keys: which differ from the next; the very last one does."""
    last = np.ones(len(key), dtype=np.bool_)
    np.not_equal(key[1:], key[:-1], out=last[:-1])
    return last


def _places(code: Ints) -> Ints:
    """Of ordered codes: 0 for each one's first row, and on from there."""
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return np.arange(len(code)) - np.repeat(starts, np.diff(starts, append=len(code)))


def _mean(value: Floats, place: Ints, window: int) -> Floats:
    """Mean over the row and the up to ``window``-1 before it of the same code, summed from the oldest on."""
    total = np.zeros(len(value))
    for back in range(min(window, len(value)) - 1, -1, -1):
        total[back:] += np.where(place[back:] >= back, value[: len(value) - back], 0.0)
    return total / np.minimum(place + 1, window)


# --- what load takes -------------------------------------------------------------------------------------------


def _side_rows(rows: pl.DataFrame, merged: _Merged) -> SideRows:
    """``rows``: the batch's own, with codes."""
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


def _with_averages(rows: pl.DataFrame, merged: _Merged, which: Bools) -> pl.DataFrame:
    return rows[merged.source[which]].hstack([pl.Series("average", merged.average[which])])


def _key_frame(keys: _Keys, *more: pl.Series) -> pl.DataFrame:
    return pl.DataFrame([pl.Series("code", keys.code.astype(np.uint32)), pl.Series("ts", keys.ts), *more])


def _meet(prices: _Merged, volumes: _Merged) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of stock_analytics_data that are new, and those that change."""
    key = np.concatenate([prices.key, volumes.key])
    order = np.argsort(key, kind="stable")  # two ordered runs: this merges them
    first = np.flatnonzero(~_last_of_each(key[order]))
    p, v = order[first], order[first + 1] - len(prices.key)
    touched = prices.affected[p] | volumes.affected[v]
    p, v = p[touched], v[touched]
    new = (prices.changed & prices.fresh)[p] | (volumes.changed & volumes.fresh)[v]
    return _met(prices, p[new], volumes, v[new]), _met(prices, p[~new], volumes, v[~new])


def _met(prices: _Merged, p: Ints, volumes: _Merged, v: Ints) -> pl.DataFrame:
    price, volume = prices.rows.value[p], volumes.rows.value[v]
    with np.errstate(all="ignore"):
        ratio = price / volume
    ratio[~np.isfinite(ratio)] = np.nan  # by 0, or beyond float8
    numbers = (price, volume, prices.average[p], volumes.average[v])
    return _key_frame(
        _Keys(p, prices.rows.code[p], prices.rows.ts[p]),
        *(pl.Series(name, column) for name, column in zip(_MET_NUMBERS, numbers, strict=False)),
        pl.Series(_MET_NUMBERS[-1], ratio, nan_to_null=True),
    )
