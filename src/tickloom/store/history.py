"""Reads rows back from the tables: the newest rows of a symbol for its tail, and the rows around a late one.

The tables may have thousands of partitions, and a statement locks every partition that it may look into. So each statement here
covers a range of a few partitions, in a transaction of its own. The sweep goes on to older or newer partitions only for symbols
that need more rows, and skips empty partitions. Its transactions see one state together, since only the owner of the Kafka
partitions writes rows of their symbols.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tickloom.core.arrays import Bools, Ints
from tickloom.core.copy_binary import decode
from tickloom.core.model import FEEDS, Side
from tickloom.core.partitioning import Range
from tickloom.core.tails import FOREVER, NO_FLOOR, Loaded, Points
from tickloom.core.timestamps import EARLIEST, LATEST, micros_of, moment
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import LOOKUPS_ONLY, Connection, sql

_FIRST_GROUP = 4
"""The size of the first group. Most symbols have enough rows in the newest partitions, and planning takes time for each one."""
_MOST_EMPTY = 16
"""The most empty partitions in a row within a group. Planning for more costs as much as one more statement."""
_PAGE = 256
"""The number of partitions whose emptiness is looked up at first; later pages are larger."""
_GENEROUS_PARTITIONS = 64
"""The sweep fills tails from the newest partitions, this many. Further back it reads only the rows that a window needs."""
_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "code": pl.UInt32,
    "ts": pl.Int64,
    "value": pl.Float64,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "logged": pl.Int64,
    "average": pl.Float64,
}
_NO_ROWS = pl.DataFrame(schema=dict(_COLUMNS))
_KNOWN = (
    "SELECT (s.number - 1)::int AS code, since FROM unnest($1::text[]) WITH ORDINALITY AS s (symbol, number) "
    "JOIN tickloom.symbols USING (symbol) WHERE since IS DISTINCT FROM 'infinity' ORDER BY s.number"
)
_STATEMENTS = {
    (name, side): sql(name).format(table=FEEDS[side].table.name, value=FEEDS[side].value, average=FEEDS[side].average)
    for name in ("rows_before", "rows_from", "rows_at")
    for side in Side
}


class History:
    """Reads over one connection at a time. ``budget``: the number of partitions that one statement may lock."""

    def __init__(self, partitioner: Partitioner, window_rows: int, budget: int, snapshot: str | None = None) -> None:
        """``snapshot``: an exported snapshot to read; without one, what is committed."""
        self._snapshot = snapshot
        self._partitioner = partitioner
        self._window = window_rows
        self._budget = budget

    async def newest(self, connection: Connection, symbols: list[str], most: int) -> dict[Side, Loaded]:
        """The newest rows of each symbol, per side: ``most`` of them, or fewer where they lie far apart.

        Sees committed rows only. Raises ``StoreUnavailable``, ``Mistake``.
        """
        since = np.full(len(symbols), FOREVER)
        for row in await connection.fetch(_KNOWN, symbols):
            since[row["code"]] = NO_FLOOR if row["since"] is None else micros_of(row["since"])
        return {side: await self._newest(connection, side, symbols, since, most) for side in Side}

    async def around(
        self, connection: Connection, symbols: list[str], points: Mapping[Side, Points], since: Ints
    ) -> dict[Side, pl.DataFrame]:
        """The rows that decide about rows at ``points``, per side: code, ts, value, partition, offset, logged, average, in
        order. ``since``: per code a ts that no stored row precedes.

        On a point's own side these are its row if it exists, the W-1 rows before it and the W-1 after it; on the other side,
        the rows with the same keys as these. Points of one symbol mostly lie close together, so a run of rows is read first,
        of both sides, from the symbol's first point on; the rest is read point by point.
        Raises ``StoreUnavailable``, ``Mistake``.
        """
        runs = await self._read_runs(connection, symbols, points, since)
        found: dict[Side, list[pl.DataFrame]] = {side: [_NO_ROWS, runs.rows[side]] for side in Side}
        for side in Side:
            own, other = await self._read_rest(connection, side, symbols, points[side], runs, since)
            found[side] += own
            found[side.other].append(other)
        return {side: pl.concat(found[side]).unique(["code", "ts"]).sort("code", "ts") for side in Side}

    async def before(self, connection: Connection, side: Side, symbols: list[str], micros: int) -> pl.DataFrame:
        """The W-1 rows of each symbol before a time, with the columns of ``around``. Raises ``StoreUnavailable``, ``Mistake``."""
        points, since = Points(np.arange(len(symbols)), np.full(len(symbols), micros)), np.full(len(symbols), NO_FLOOR)
        need = _each(points, self._window - 1)
        return await self._sweep(connection, side, "rows_before", symbols, points, need, since)

    async def _read_runs(
        self, connection: Connection, symbols: list[str], points: Mapping[Side, Points], since: Ints
    ) -> "_Runs":
        """Read a run of rows of both sides for each symbol, long enough for points that lie close together."""
        code = np.concatenate([points[side].code for side in Side])
        heads = Points.of(code, np.concatenate([points[side].ts for side in Side]))
        code, first, counts = np.unique(heads.code, return_index=True, return_counts=True)
        heads = Points(code, heads.ts[first])
        need = self._window + 2 * (counts - 1)
        rows = {side: await self._sweep(connection, side, "rows_from", symbols, heads, need, since) for side in Side}
        return _Runs(heads, rows, {side: _reach(rows[side], heads, need, len(symbols)) for side in Side})

    async def _read_rest(
        self, connection: Connection, side: Side, symbols: list[str], points: Points, runs: "_Runs", since: Ints
    ) -> tuple[list[pl.DataFrame], pl.DataFrame]:
        """Read the rows around the points of one side that ``runs`` lack: those of this side, and those of the other."""
        run, reach = runs.rows[side], runs.reach[side]
        own = np.isin(runs.heads.code, points.code)
        heads = Points(runs.heads.code[own], runs.heads.ts[own])
        left = points.which(_rows_from(run, points) < np.where(reach[points.code] == FOREVER, 0, self._window))
        found: list[pl.DataFrame] = []
        for name, at, rows in (
            ("rows_before", heads, self._window - 1),
            ("rows_before", left, self._window - 1),
            ("rows_from", left, self._window),
        ):
            found.append(await self._sweep(connection, side, name, symbols, at, _each(at, rows), since))
        read = pl.concat([run, found[-1]])
        keys = Points.of(
            np.concatenate([points.code, read["code"].to_numpy()]), np.concatenate([points.ts, read["ts"].to_numpy()])
        )
        keys = keys.which(keys.ts > runs.reach[side.other][keys.code])
        return found, await self._sweep(connection, side.other, "rows_at", symbols, keys, _each(keys, 1), since)

    async def _newest(self, connection: Connection, side: Side, symbols: list[str], since: Ints, most: int) -> Loaded:
        got = np.zeros(len(symbols), dtype=np.int64)
        floor, cut = np.full(len(symbols), NO_FLOOR), np.zeros(len(symbols), dtype=np.bool_)
        frames = [_NO_ROWS]
        looked, reached = 0, FOREVER
        until = int(since.min(initial=FOREVER))
        async for group in self._groups(connection, side, FOREVER, until):
            wanted = most if looked < _GENEROUS_PARTITIONS else min(most, max(self._window - 1, 1))
            active = np.flatnonzero((got < wanted) & (since < reached))
            if not len(active):
                break
            reached = group.range.start
            times = np.full(len(active), LATEST)
            rows = await self._read(
                connection,
                _STATEMENTS["rows_before", side],
                [symbols[code] for code in active.tolist()],
                active,
                times,
                wanted - got[active],
                group.range,
            )
            frames.append(rows)
            got += np.bincount(rows["code"].to_numpy(), minlength=len(got))
            floor[active] = np.where(group.last | (since[active] >= reached), NO_FLOOR, reached)
            cut[active] = got[active] == wanted  # the same group may hold more
            looked += group.partitions
        rows = pl.concat(frames).drop("average").sort("code", "ts")
        starts = np.cumsum(got) - got
        floor[cut] = rows["ts"].to_numpy()[starts[cut]]
        return Loaded(rows, floor, since)

    async def _sweep(
        self, connection: Connection, side: Side, name: str, symbols: list[str], points: Points, need: Ints, since: Ints
    ) -> pl.DataFrame:
        """Up to ``need`` rows for each point, by the statement ``name``."""
        if not len(points.code):
            return _NO_ROWS
        got = np.zeros(len(points.code), dtype=np.int64)
        frames = [_NO_ROWS]
        async for group in self._groups(connection, side, *_edges(name, points, since)):
            active = np.flatnonzero(_concerned(name, points, since, group.range) & (got < need))
            if not len(active):
                if ((got >= need) | _passed(name, points, since, group.range)).all():
                    break
                continue
            # The codes of the statement number the points: two points of one symbol may share a row.
            names = [symbols[code] for code in points.code[active].tolist()]
            rows = await self._read(
                connection,
                _STATEMENTS[name, side],
                names,
                np.arange(len(active)),
                points.ts[active],
                need[active] - got[active],
                group.range,
            )
            numbers = active[rows["code"].to_numpy()]
            got += np.bincount(numbers, minlength=len(got))
            frames.append(rows.with_columns(code=pl.Series(points.code[numbers].astype(np.uint32))))
        return pl.concat(frames)

    async def _groups(self, connection: Connection, side: Side, edge: int, until: int) -> AsyncIterator["_Group"]:
        """Groups of partitions from the one at ``edge`` to the one at ``until`` (µs), in either direction; small groups first.
        Each group begins and ends with a filled partition and has at most a few empty ones between.
        """
        layout = await self._partitioner.layout(connection, FEEDS[side].table.name)
        starts, stops = layout.starts, layout.stops
        newest_first = until < edge
        low, high = (
            int(np.searchsorted(stops, min(edge, until), "right")),
            int(np.searchsorted(starts, max(edge, until), "right")),
        )
        size, pages = min(_FIRST_GROUP, self._budget), _PAGE
        while low < high:
            page = (max(low, high - pages), high) if newest_first else (low, min(high, low + pages))
            pages *= 4
            filled = (await self._partitioner.filled(connection, layout, *page)).tolist()
            low, high = (low, page[0]) if newest_first else (page[1], high)
            last_page = low == high
            for first, last, is_last in _grouped(filled[::-1] if newest_first else filled, size, self._budget):
                yield _Group(Range(int(starts[first]), int(stops[last])), last - first + 1, is_last and last_page)
            size = self._budget

    async def _read(
        self,
        connection: Connection,
        statement: str,
        names: list[str],
        codes: Ints,
        times: Ints,
        wanted: Ints,
        span: Range,
    ) -> pl.DataFrame:
        async with connection.transaction(readonly=True, snapshot=self._snapshot):
            await connection.execute(LOOKUPS_ONLY)
            times_of = (_moments(times), wanted.tolist(), moment(span.start), moment(span.stop))
            return decode(await connection.copy_out(statement, names, codes.tolist(), *times_of), _COLUMNS)


def _moments(micros: Ints) -> list[datetime]:
    return [moment(one) for one in np.clip(micros, EARLIEST, LATEST).tolist()]


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring partitions that one statement looks into; ``last``: no more follow."""

    range: Range
    partitions: int
    last: bool


@dataclass(frozen=True, slots=True)
class _Runs:
    """Rows from the first point (``heads``) of each symbol on. ``reach``: by side, per code the ts up to which they are complete."""

    heads: Points
    rows: Mapping[Side, pl.DataFrame]
    reach: Mapping[Side, Ints]


def _edges(name: str, points: Points, since: Ints) -> tuple[int, int]:
    """The times between which the statement ``name`` finds rows, in the direction of its sweep."""
    first, last = int(points.ts.min()), int(points.ts.max())
    match name:
        case "rows_before":
            return last, max(NO_FLOOR, min(first, int(since[points.code].min())) - 1)
        case "rows_from":
            return first, FOREVER
        case _:
            return first, last + 1


def _concerned(name: str, points: Points, since: Ints, span: Range) -> Bools:
    """The points for which a range may have rows."""
    match name:
        case "rows_before":
            return (points.ts > span.start) & (since[points.code] < span.stop)
        case "rows_from":
            return points.ts < span.stop
        case _:
            return (points.ts >= span.start) & (points.ts < span.stop)


def _passed(name: str, points: Points, since: Ints, span: Range) -> Bools:
    """The points for which no range of the sweep after this one has rows."""
    match name:
        case "rows_before":
            return since[points.code] >= span.stop
        case "rows_from":
            return np.zeros(len(points.code), dtype=np.bool_)
        case _:
            return points.ts < span.start


def _each(points: Points, need: int) -> Ints:
    return np.full(len(points.code), need)


def _reach(run: pl.DataFrame, heads: Points, need: Ints, codes: int) -> Ints:
    """Per code the ts up to which the run from its head is complete; ``FOREVER`` where it reached the end."""
    reach = np.full(codes, FOREVER)
    ordered = run.sort("code", "ts")
    code, ts = ordered["code"].to_numpy(), ordered["ts"].to_numpy()
    got = np.bincount(code, minlength=codes)
    full = heads.code[got[heads.code] >= need]
    reach[full] = ts[np.cumsum(got)[full] - 1]
    return reach


def _rows_from(run: pl.DataFrame, points: Points) -> Ints:
    """For each point, the number of rows of the run of its code that lie at the point or after it."""
    code = np.concatenate([points.code, run["code"].to_numpy()]).astype(np.int64)
    ts = np.concatenate([points.ts, run["ts"].to_numpy()])
    is_row = np.arange(len(code)) >= len(points.code)
    order = np.lexsort((is_row, ts, code))  # a point before the row of its own key
    up_to = np.empty(len(code), dtype=np.int64)
    up_to[order] = np.cumsum(is_row[order])
    through_code = np.cumsum(np.bincount(code[is_row], minlength=int(code.max(initial=0)) + 1))
    return through_code[points.code] - up_to[: len(points.code)]


def _grouped(filled: Sequence[int], size: int, most: int) -> Iterator[tuple[int, int, bool]]:
    """The partitions in ``filled``, which may run either way, in groups (first, last) that grow from ``size`` to ``most``, each
    with whether it is the last.
    """
    start = 0
    while start < len(filled):
        end = start + 1
        while (
            end < len(filled)
            and abs(filled[end] - filled[start]) < size
            and abs(filled[end] - filled[end - 1]) <= _MOST_EMPTY
        ):
            end += 1
        first, last = sorted((filled[start], filled[end - 1]))
        yield first, last, end == len(filled)
        size, start = min(size * 4, most), end
