"""join: moving averages per symbol, then prices joined with volumes. Pure: no I/O, no clock.

A batch meets the tails. For every symbol it touches, the rows of both sides from the batch's earliest event time
on, and the W-1 before them, are merged with the batch's own. In that merged frame everything is known exactly:
which keys are new, which rows a batch revises, their averages, and the other half of each key. What lies older
than a full tail is not known here; such rows, and the keys whose answer depends on them, are named for the
set-based SQL that ``load`` runs in the same transaction.

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

from tickloom.model import Batch, Side
from tickloom.tails import NO_FLOOR, Context, Events, Ints, Tails, events

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

_KEY = ["code", "ts"]
_KEY_BITS = 63
_FOREVER = np.iinfo(np.int64).max
_MET_NUMBERS = ("price", "volume", "price_average", "volume_average", "ratio")
_NO_KEYS = pl.DataFrame(schema={"code": pl.UInt32, "ts": pl.Int64})
_NONE_MET = _NO_KEYS.with_columns(pl.lit(None, pl.Float64).alias(name) for name in _MET_NUMBERS)


@dataclass(frozen=True, slots=True)
class SideRows:
    """What one side's table takes. All frames lead with code and ts and are ordered by them.

    ``new``: keys that the table does not have (all columns and ``average``).
    ``corrected``: keys that it has, whose values a later offset replaces (the same columns).
    ``revised``: rows that stay, but whose window changed (code, ts, average).
    ``unknown``: rows older than the tail (all columns; the averages are left to SQL).
    ``seeds``: keys whose own average and followers' averages SQL must compute (code, ts).
    ``newcomers``: symbols that this table may not have yet (code; partition of a row; ``first``: the other may not either).
    ``stored``, ``superseded``: counts by partition; those of ``unknown`` are for SQL to tell.
    """

    new: pl.DataFrame
    corrected: pl.DataFrame
    revised: pl.DataFrame
    unknown: pl.DataFrame
    seeds: pl.DataFrame
    newcomers: pl.DataFrame
    stored: Mapping[int, int]
    superseded: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Joined:
    """All that ``load`` writes for a batch; ``code`` in the frames is the index into ``symbols`` (ordered).

    ``met``: analytics rows whose key the table does not have; ``remet``: those to replace. Both: code, ts, price,
    volume, price_average, volume_average, ratio. ``unanswered``: keys whose other half only SQL can find.
    """

    symbols: pl.Series
    sides: Mapping[Side, SideRows]
    met: pl.DataFrame
    remet: pl.DataFrame
    unanswered: pl.DataFrame


def symbols_of(batch: Batch) -> pl.Series:
    """The batch's distinct symbols, in the order of their UTF-8 bytes (as ``COLLATE "C"`` has it)."""
    return pl.concat([batch.rows[side]["symbol"] for side in Side]).unique().sort()


def join(batch: Batch, symbols: pl.Series, tails: Tails, number: int) -> Joined:
    """Join batch ``number`` against ``tails``, which must hold all ``symbols`` and hold the batch's rows after."""
    rows = {side: with_codes(batch.rows[side], symbols) for side in Side}
    read = {side: events(rows[side]) for side in Side}
    slots = tails.slots(symbols.to_list(), number)
    since = np.full(len(symbols), _FOREVER, dtype=np.int64)
    for side in Side:
        np.minimum.at(since, read[side].code, read[side].ts)
    contexts = {side: tails.context(side, slots, since) for side in Side}
    keys = iter(_keys([part for side in Side for part in (contexts[side].rows, read[side])]))
    merged: dict[Side, _Merged] = {}
    for side in Side:
        merged[side] = one = _merge(contexts[side], next(keys), read[side], next(keys), tails.window_rows)
        tails.absorb(side, slots, contexts[side].base, one.rows, one.moved)
    met, remet, unsure = _meet(merged[Side.PRICES], merged[Side.VOLUMES])
    below = [_below_floor(merged[side], contexts[side.other].floor) for side in Side]
    return Joined(
        symbols=symbols,
        sides={
            side: _side_rows(
                rows[side], merged[side], _newcomers(read[side], contexts[side].empty, contexts[side.other].empty)
            )
            for side in Side
        },
        met=met,
        remet=remet,
        unanswered=_distinct([unsure, *below]),
    )


def join_by_sql(batch: Batch, symbols: pl.Series) -> Joined:
    """The definition: nothing is known, so SQL does it all. The fast path must leave the same tables."""
    sides: dict[Side, SideRows] = {}
    unsure = np.ones(len(symbols), dtype=np.bool_)
    for side in Side:
        rows = with_codes(batch.rows[side], symbols)
        winners, superseded = _winners(rows)
        nothing = winners.clear().with_columns(average=pl.lit(None, pl.Float64))
        sides[side] = SideRows(
            new=nothing,
            corrected=nothing,
            revised=nothing.select(*_KEY, "average"),
            unknown=winners,
            seeds=winners.select(_KEY),
            newcomers=_newcomers(events(rows), unsure, unsure),
            stored={},
            superseded=superseded,
        )
    return Joined(symbols, sides, met=_NONE_MET, remet=_NONE_MET, unanswered=_NO_KEYS)


def with_codes(rows: pl.DataFrame, symbols: pl.Series) -> pl.DataFrame:
    """``rows`` with ``code``, the index into the ordered ``symbols``, in ``symbol``'s place."""
    symbol, *rest = rows.get_columns()
    return pl.DataFrame([symbol.cast(pl.Enum(symbols)).to_physical().cast(pl.UInt32).alias("code"), *rest])


def partition_of_symbols(batch: Batch, symbols: pl.Series) -> NDArray[np.int64]:
    """Per symbol the one partition number its messages came from; -1 where they came from several."""
    both = pl.concat([with_codes(batch.rows[side], symbols).select("code", "partition") for side in Side])
    found = both.group_by("code").agg(low=pl.col("partition").min(), high=pl.col("partition").max()).sort("code")
    return np.where(found["low"].to_numpy() == found["high"].to_numpy(), found["low"].to_numpy(), -1)


def _winners(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, int]]:
    """One row a key, the one with the highest (offset, partition), ordered; and who lost, by partition."""
    ordered = rows.sort([*_KEY, "offset", "partition"])
    last = (ordered["code"] != ordered["code"].shift(-1)) | (ordered["ts"] != ordered["ts"].shift(-1))
    last = last.fill_null(True)
    return ordered.filter(last), _count(ordered.filter(~last)["partition"].to_numpy())


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
class _Merged:
    """Context and batch, one row a key, ordered by it.

    ``source``: the row's index in the batch's frame; -1 where it is the context's.
    ``fresh``: its key was not in the tail. ``changed``: the row is the batch's. ``moved``: such a one is among the
    symbol's rows up to this; ``affected``: among the last W of them. ``complete``: the window is known whole.
    ``unknown``, ``lost``: of the batch's rows older than the tail the winners (indexes, ordered), and their keys.
    """

    key: Ints
    rows: Events
    source: Ints
    average: Floats
    fresh: Bools
    changed: Bools
    moved: Bools
    affected: Bools
    complete: Bools
    unknown: Ints
    lost: _Keys

    def keys(self, which: Bools) -> _Keys:
        return _Keys(self.key[which], self.rows.code[which], self.rows.ts[which])


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


def _merge(context: Context, known: Ints, read: Events, keys: Ints, window: int) -> _Merged:
    """``known`` are the keys of the context's rows, ``keys`` those of the rows that were read."""
    old = read.ts < context.floor[read.code]
    young, unknown = np.flatnonzero(~old), np.flatnonzero(old)
    both = _concat(context.rows, _take(read, young))
    held = np.arange(len(both.ts)) < len(known)
    key = np.concatenate([known, keys[young]])
    order = _ordered(key, both.offset, both.partition, held)
    last = _last_of_each(key[order])
    won = order[last]
    rows = _take(both, won)
    place, changed = _places(rows.code), ~held[won]
    index = np.arange(len(won))
    since_change = index - np.maximum.accumulate(np.where(changed, index, -1 - len(won)))
    moved = since_change <= place
    begins = (context.base == 0) & (context.floor == NO_FLOOR)
    unknown = unknown[_ordered(keys[unknown], read.offset[unknown], read.partition[unknown])]
    unknown = unknown[_last_of_each(keys[unknown])]
    return _Merged(
        key=key[won],
        rows=rows,
        source=np.concatenate([np.full(len(known), -1), young])[won],
        average=_mean(rows.value, place, window),
        fresh=np.diff(np.cumsum(held[order])[last], prepend=0) == 0,  # no row of the key is from the tail
        changed=changed,
        moved=moved,
        affected=moved & (since_change < window),
        # With fewer than W-1 rows before it, a window is whole only where the symbol's history begins here.
        complete=(place >= window - 1) | begins[rows.code],
        unknown=unknown,
        lost=_Keys(keys[unknown], read.code[unknown], read.ts[unknown]),
    )


def _take(rows: Events, which: Ints) -> Events:
    return Events(rows.code[which], rows.ts[which], rows.value[which], rows.partition[which], rows.offset[which])


def _concat(first: Events, then: Events) -> Events:
    return Events(
        np.concatenate([first.code, then.code]),
        np.concatenate([first.ts, then.ts]),
        np.concatenate([first.value, then.value]),
        np.concatenate([first.partition, then.partition]),
        np.concatenate([first.offset, then.offset]),
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


def _side_rows(rows: pl.DataFrame, merged: _Merged, newcomers: pl.DataFrame) -> SideRows:
    """``rows``: the batch's own, with codes."""
    unknown = rows[merged.unknown]
    new = merged.changed & merged.fresh
    revised = merged.affected & ~merged.changed
    stored = _count(merged.rows.partition[new])
    superseded = Counter(_count(rows["partition"].to_numpy()))
    superseded.subtract(stored)
    superseded.subtract(_count(unknown["partition"].to_numpy()))
    return SideRows(
        new=_with_averages(rows, merged, new),
        corrected=_with_averages(rows, merged, merged.changed & ~merged.fresh),
        revised=_key_frame(merged.keys(revised), pl.Series("average", merged.average[revised])),
        unknown=unknown,
        seeds=_distinct([merged.lost, merged.keys(merged.affected & ~merged.complete)]),
        newcomers=newcomers,
        stored=stored,
        superseded={partition: count for partition, count in superseded.items() if count},
    )


def _newcomers(read: Events, empty: Bools, other_empty: Bools) -> pl.DataFrame:
    """Of the symbols whose history is ``empty`` (by code) those that were read."""
    first = np.flatnonzero(empty[read.code])
    code, index = np.unique(read.code[first], return_index=True)
    return pl.DataFrame({"code": code, "partition": read.partition[first[index]], "first": other_empty[code]})


def _with_averages(rows: pl.DataFrame, merged: _Merged, which: Bools) -> pl.DataFrame:
    return rows[merged.source[which]].hstack([pl.Series("average", merged.average[which])])


def _key_frame(keys: _Keys, *more: pl.Series) -> pl.DataFrame:
    return pl.DataFrame([pl.Series("code", keys.code.astype(np.uint32)), pl.Series("ts", keys.ts), *more])


def _distinct(some: Sequence[_Keys]) -> pl.DataFrame:
    """All these keys once each, ordered."""
    _, first = np.unique(np.concatenate([keys.key for keys in some]), return_index=True)
    code, ts = np.concatenate([keys.code for keys in some]), np.concatenate([keys.ts for keys in some])
    return _key_frame(_Keys(first, code[first], ts[first]))


def _meet(prices: _Merged, volumes: _Merged) -> tuple[pl.DataFrame, pl.DataFrame, _Keys]:
    """Rows of stock_analytics_data that are new and that change, and the keys that SQL must answer."""
    key = np.concatenate([prices.key, volumes.key])
    order = np.argsort(key, kind="stable")  # two ordered runs: this merges them
    first = np.flatnonzero(~_last_of_each(key[order]))
    p, v = order[first], order[first + 1] - len(prices.key)
    touched = prices.affected[p] | volumes.affected[v]
    p, v = p[touched], v[touched]
    sure = prices.complete[p] & volumes.complete[v]
    new = (prices.changed & prices.fresh)[p] | (volumes.changed & volumes.fresh)[v]
    met = [_met(prices, p[which], volumes, v[which]) for which in (sure & new, sure & ~new)]
    unsure = p[~sure]
    return met[0], met[1], _Keys(prices.key[unsure], prices.rows.code[unsure], prices.rows.ts[unsure])


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


def _below_floor(merged: _Merged, other_floor: Ints) -> _Keys:
    """Keys that changed here and that lie before all that the other side's tail answers for."""
    return merged.keys(merged.affected & (merged.rows.ts < other_floor[merged.rows.code]))
