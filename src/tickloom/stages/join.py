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
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.model import OPTIONAL_COLUMNS, Batch, Side
from tickloom.tails import NO_FLOOR, Context, Tails

_KEY = ["code", "ts"]
_FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class SideRows:
    """What one side's table takes. All frames lead with code and ts and are ordered by them.

    ``new``: keys that the table does not have (all columns and ``average``).
    ``corrected``: keys that it has, whose values a later offset replaces (the same columns).
    ``revised``: rows that stay, but whose window changed (code, ts, average).
    ``unknown``: rows older than the tail (all columns; the averages are left to SQL).
    ``seeds``: keys whose own average and followers' averages SQL must compute (code, ts).
    ``stored``, ``superseded``: counts by partition; those of ``unknown`` are for SQL to tell.
    """

    new: pl.DataFrame
    corrected: pl.DataFrame
    revised: pl.DataFrame
    unknown: pl.DataFrame
    seeds: pl.DataFrame
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
    return pl.concat([batch.rows[side]["symbol"].unique() for side in Side]).unique().sort()


def join(batch: Batch, symbols: pl.Series, tails: Tails, number: int) -> Joined:
    """Join batch ``number`` against ``tails``, which must hold all ``symbols`` and hold the batch's rows after."""
    rows = {side: with_codes(batch.rows[side], symbols) for side in Side}
    slots = tails.slots(symbols.to_list(), number)
    since = _earliest(rows, len(symbols))
    contexts = {side: tails.context(side, slots, since) for side in Side}
    merged: dict[Side, _Merged] = {}
    for side in Side:
        merged[side] = _merge(side, rows[side], contexts[side], tails.window_rows)
        tails.absorb(side, slots, contexts[side].base, merged[side].frame)
    met, unsure = _meet(merged[Side.PRICES].frame, merged[Side.VOLUMES].frame)
    unanswered = [unsure, *(_below_floor(merged[side].frame, contexts[side.other].floor) for side in Side)]
    fresh = met["fresh"]
    return Joined(
        symbols=symbols,
        sides={side: merged[side].rows for side in Side},
        met=met.filter(fresh).drop("fresh"),
        remet=met.filter(~fresh).drop("fresh"),
        unanswered=pl.concat(unanswered).unique().sort(_KEY),
    )


def join_by_sql(batch: Batch, symbols: pl.Series) -> Joined:
    """The definition: nothing is known, so SQL does it all. The fast path must leave the same tables."""
    sides: dict[Side, SideRows] = {}
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
            stored={},
            superseded=superseded,
        )
    keys = pl.DataFrame(schema={"code": pl.UInt32, "ts": pl.Int64})
    empty = _meet_columns(pl.DataFrame(schema=dict.fromkeys(("price", "volume", "pa", "va"), pl.Float64)), keys)
    return Joined(symbols, sides, met=empty, remet=empty, unanswered=keys)


def with_codes(rows: pl.DataFrame, symbols: pl.Series) -> pl.DataFrame:
    """``rows`` with ``code``, the index into the ordered ``symbols``, in ``symbol``'s place."""
    code = rows["symbol"].cast(pl.Enum(symbols)).to_physical().cast(pl.UInt32)
    return rows.drop("symbol").insert_column(0, code.alias("code"))


def partition_of_symbols(batch: Batch, symbols: pl.Series) -> NDArray[np.int64]:
    """Per symbol the one partition number its messages came from; -1 where they came from several."""
    both = pl.concat([with_codes(batch.rows[side], symbols).select("code", "partition") for side in Side])
    found = both.group_by("code").agg(low=pl.col("partition").min(), high=pl.col("partition").max()).sort("code")
    return np.where(found["low"].to_numpy() == found["high"].to_numpy(), found["low"].to_numpy(), -1)


def _earliest(rows: Mapping[Side, pl.DataFrame], symbols: int) -> NDArray[np.int64]:
    since = np.full(symbols, _FOREVER, dtype=np.int64)
    for frame in rows.values():
        first = frame.group_by("code").agg(pl.col("ts").min())
        codes = first["code"].to_numpy()
        since[codes] = np.minimum(since[codes], first["ts"].to_numpy())
    return since


@dataclass(frozen=True, slots=True)
class _Merged:
    """``frame``: context and batch, one row a key, ordered: the columns of rows, average and the flags."""

    frame: pl.DataFrame
    rows: SideRows


def _winners(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, int]]:
    """One row a key, the one with the highest (offset, partition), ordered; and who lost, by partition."""
    ordered = rows.sort([*_KEY, "offset", "partition"])
    last = (ordered["code"] != ordered["code"].shift(-1)) | (ordered["ts"] != ordered["ts"].shift(-1))
    last = last.fill_null(True)
    return ordered.filter(last), _count(ordered.filter(~last)["partition"])


def _count(partitions: pl.Series) -> dict[int, int]:
    return dict(Counter(partitions.to_list()))


def _merge(side: Side, rows: pl.DataFrame, context: Context, window: int) -> _Merged:
    old = rows["ts"] < pl.Series(context.floor).gather(rows["code"])
    unknown, _ = _winners(rows.filter(old))
    frame = _numbered(_one_row_a_key(side, rows.filter(~old) if len(unknown) else rows, context.frame), window)
    begins = pl.Series((context.base == 0) & (context.floor == NO_FLOOR))
    frame = frame.with_columns(
        # With fewer than W-1 rows before it, a window is whole only where the symbol's history begins here.
        complete=(pl.col("place") >= window - 1) | begins.gather(frame["code"]),
        average=_mean(window),
    )
    changed = frame.filter("changed")
    stored = _count(changed.filter("fresh")["partition"])
    read = Counter(rows["partition"].to_list())
    for partition, count in (*stored.items(), *_count(unknown["partition"]).items()):
        read[partition] -= count
    seeds = pl.concat([unknown.select(_KEY), frame.filter(pl.col("affected") & ~pl.col("complete")).select(_KEY)])
    columns = [*rows.columns, "average"]
    return _Merged(
        frame,
        SideRows(
            new=changed.filter("fresh").select(columns),
            corrected=changed.filter(~pl.col("fresh")).select(columns),
            revised=frame.filter(pl.col("affected") & ~pl.col("changed")).select(*_KEY, "average"),
            unknown=unknown,
            seeds=seeds.unique().sort(_KEY),
            stored=stored,
            superseded={partition: count for partition, count in read.items() if count},
        ),
    )


def _one_row_a_key(side: Side, rows: pl.DataFrame, context: pl.DataFrame) -> pl.DataFrame:
    """Context and batch merged: the highest (offset, partition) of each key, ordered by code and ts.

    ``changed``: the row is the batch's. ``fresh``: its key was not in the tail.
    """
    missing = [pl.lit(None, pl.Float64).alias(name) for name in OPTIONAL_COLUMNS[side]]
    known = context.with_columns(*missing, held=pl.lit(True)).select(*rows.columns, "held")
    both = pl.concat([known, rows.with_columns(held=pl.lit(False))]).sort([*_KEY, "offset", "partition", "held"])
    last = (both["code"] != both["code"].shift(-1)) | (both["ts"] != both["ts"].shift(-1))
    seen = both["held"].cast(pl.Int64).cum_sum()
    winners = both.with_columns(seen=seen).filter(last.fill_null(True))
    held_before = (pl.col("seen") - pl.col("seen").shift(1, fill_value=0)) > 0  # a row of the key is from the tail
    return winners.with_columns(changed=~pl.col("held"), fresh=~held_before).drop("seen", "held")


def _numbered(frame: pl.DataFrame, window: int) -> pl.DataFrame:
    """With ``place`` (0 for each code's first row) and ``affected``: a changed row is among the last W up to this."""
    index = pl.int_range(pl.len(), dtype=pl.Int64)
    start = pl.when(pl.col("code") != pl.col("code").shift(1)).then(index).otherwise(None)
    place = index - start.forward_fill().fill_null(0)
    since_change = index - pl.when("changed").then(index).otherwise(None).forward_fill()
    affected = (since_change <= place) & (since_change < window)
    return frame.with_columns(place=place, affected=affected.fill_null(False))


def _mean(window: int) -> pl.Expr:
    """Mean over the row and the up to ``window``-1 before it of the same code, summed from the oldest on."""
    total = pl.lit(0.0)
    for back in range(window - 1, -1, -1):
        total = total + pl.when(pl.col("place") >= back).then(pl.col("value").shift(back)).otherwise(0.0)
    return total / pl.min_horizontal(pl.col("place") + 1, pl.lit(window, pl.Int64)).cast(pl.Float64)


def _meet(prices: pl.DataFrame, volumes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of stock_analytics_data that the batch makes or changes, and the keys that SQL must answer."""
    columns = [*_KEY, "value", "average", "fresh", "changed", "affected", "complete"]
    both = prices.select(columns).join(volumes.select(columns), on=_KEY, suffix="_v", maintain_order="left")
    both = both.filter(pl.col("affected") | pl.col("affected_v"))
    sure = both["complete"] & both["complete_v"]
    fresh = (both["changed"] & both["fresh"]) | (both["changed_v"] & both["fresh_v"])
    numbers = both.select(price="value", volume="value_v", pa="average", va="average_v")
    met = _meet_columns(numbers, both.select(_KEY)).with_columns(fresh=fresh)
    return met.filter(sure), both.filter(~sure).select(_KEY)


def _meet_columns(numbers: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    ratio = pl.col("price") / pl.col("volume")
    return pl.concat([keys, numbers], how="horizontal").select(
        *_KEY,
        "price",
        "volume",
        price_average="pa",
        volume_average="va",
        ratio=pl.when((pl.col("volume") != 0) & ratio.is_finite()).then(ratio).otherwise(None),
    )


def _below_floor(frame: pl.DataFrame, other_floor: NDArray[np.int64]) -> pl.DataFrame:
    """Keys that changed here and that lie before all that the other side's tail answers for."""
    affected = frame.filter("affected")
    return affected.filter(affected["ts"] < pl.Series(other_floor).gather(affected["code"])).select(_KEY)
