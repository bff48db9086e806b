"""Known rows and a batch's rows merged into one ordered run: which keys are new, which rows win, which averages change. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.arrays import Bools, Floats, Ints
from tickloom.core.model import Side
from tickloom.core.tails import KEPT, Context, Events, distinct, events

Around: TypeAlias = Mapping[Side, pl.DataFrame]
"""Per side, rows of the tables: code, ts, value, partition, offset, logged, average; each key once, ordered by it."""

_KEY_BITS = 63


@dataclass(frozen=True, slots=True)
class Keys:
    """Some keys: their numbers (see ``keys_of``), and the code and ts that each stands for."""

    key: Ints
    code: Ints
    ts: Ints


@dataclass(frozen=True, slots=True)
class Known:
    """Rows that existed before the batch, each once, in any order; ``average`` is NaN where it is not known."""

    rows: Events
    average: Floats


@dataclass(frozen=True, slots=True)
class Merged:
    """Known rows and the batch's as one, one row per key, ordered by key.

    ``source``: the row's index in the batch's frame, -1 for a known row. ``fresh``: the key was not known. ``changed``: the row
    is the batch's. ``moved``: the symbol has a changed row at or before this one. ``affected``: it has one among this row and the
    W-1 before it, so the average changes. ``collapsed``: the number of rows whose value differs from their successor's under
    the same key.
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

    def keys(self, which: Bools) -> Keys:
        return Keys(self.key[which], self.rows.code[which], self.rows.ts[which])


def known_rows(context: Context, around: pl.DataFrame | None) -> Known:
    """The rows of the tail and those of the tables as one; some may be in both."""
    rows = context.rows
    unknown = np.full(len(rows.ts), np.nan)
    if around is None or not len(around):
        return Known(rows, unknown)
    read = events(around)
    # Where a row is in both, the one from the tables counts: it has its average.
    first = distinct(np.concatenate([read.code, rows.code]), np.concatenate([read.ts, rows.ts]))
    average = np.concatenate([around["average"].to_numpy(), unknown])
    return Known(take(_concat(read, rows), first), average[first])


def keys_of(parts: Sequence[Events]) -> list[Ints]:
    """A number for each row of each part. Over all parts the numbers compare as the rows' (code, ts) do."""
    codes, times = np.concatenate([part.code for part in parts]), np.concatenate([part.ts for part in parts])
    if not len(codes):
        return [codes for _ in parts]
    bits = (int(times.max()) - int(times.min())).bit_length()
    if bits + int(codes.max()).bit_length() <= _KEY_BITS:
        times -= times.min()
    else:  # code and time do not fit into 63 bits together: number the times instead
        times = np.unique(times, return_inverse=True)[1]
        bits = len(times).bit_length()
    ends = np.cumsum([len(part.code) for part in parts])
    return np.split((codes << bits) | times, ends[:-1])


def merge(known: Known, known_keys: Ints, read: Events, keys: Ints, window: int) -> Merged:
    """``known`` and the batch's rows (``read``) as one; ``known_keys`` and ``keys`` are their keys; ``window``: W."""
    both = _concat(known.rows, read)
    held = np.arange(len(both.ts)) < len(known_keys)
    key = np.concatenate([known_keys, keys])
    order = _ordered(key, both.logged, both.offset, both.partition, held)
    last = last_of_each(key[order])
    won = order[last]
    rows = take(both, won)
    place, changed = _places(rows.code), ~held[won]
    index = np.arange(len(won))
    since_change = index - np.maximum.accumulate(np.where(changed, index, -1 - len(won)))
    moved = since_change <= place
    affected = moved & (since_change < window)
    average = _mean(rows.value, place, window)
    if len(known.average) and not np.isnan(known.average).all():
        stored = np.concatenate([known.average, np.full(len(keys), np.nan)])[won]
        average = np.where(affected | np.isnan(stored), average, stored)  # rows of its window may be missing here
    earlier = np.flatnonzero(~last)
    return Merged(
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


def take(rows: Events, which: Any) -> Events:
    return Events(rows.code[which], *(getattr(rows, name)[which] for name in KEPT))


def _concat(first: Events, then: Events) -> Events:
    return Events(
        np.concatenate([first.code, then.code]),
        *(np.concatenate([getattr(first, name), getattr(then, name)]) for name in KEPT),
    )


def _ordered(key: Ints, *ties: NDArray[Any]) -> Ints:
    """The order of rows by ``key``, then by ``ties``."""
    order = np.argsort(key)
    same = ~last_of_each(key[order])
    if same.any():
        tied = np.flatnonzero(same | np.roll(same, 1))
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(tie[rows] for tie in reversed(ties)), key[rows]))]
    return order


def last_of_each(key: Ints) -> Bools:
    """Which of the ordered keys differ from the next one; the last one does."""
    last = np.ones(len(key), dtype=np.bool_)
    np.not_equal(key[1:], key[:-1], out=last[:-1])
    return last


def _places(code: Ints) -> Ints:
    """The place of each row among those of its code, from 0; ``code`` is ordered."""
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    return np.arange(len(code)) - np.repeat(starts, np.diff(starts, append=len(code)))


def _mean(value: Floats, place: Ints, window: int) -> Floats:
    """The mean over each row and the up to ``window``-1 rows of the same code before it.

    It is the sum of the window, oldest row first, divided by its count: bit for bit the result of Postgres's ``avg() OVER``, and
    without the residue that an incremental sum keeps after a spike.
    """
    total = np.zeros(len(value))
    for back in range(min(window, len(value)) - 1, -1, -1):
        total[back:] += np.where(place[back:] >= back, value[: len(value) - back], 0.0)
    return total / np.minimum(place + 1, window)
