"""The partitions of the tables, as the server's catalogue has them: their bounds, and which may hold rows.

The catalogue decides: a row goes into the partition that holds its time. It does not matter who made that partition, what its
name is, or how wide it is. If a partition was detached, and its table still has its name, rows of that time are *expired*.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tickloom.core.arrays import Bools
from tickloom.core.partitioning import FILLED, UNKNOWN, FarLimit, Layout, Partition, Range, partition_named
from tickloom.core.timestamps import EARLIEST, LATEST, micros_of
from tickloom.errors import SchemaMismatch
from tickloom.settings import Partitioning
from tickloom.store.postgres import Connection, sql

_MAY_HOLD_ROWS = """
    SELECT array_agg(coalesce(relkind <> 'r' OR pg_relation_size(c.oid) > 0, true) ORDER BY number)
    FROM unnest($1::text[]) WITH ORDINALITY AS names (name, number)
    LEFT JOIN pg_class c ON c.oid = to_regclass(quote_ident(name))
"""
"""A partition counts as filled if this name does not find it, as in another schema, or if it is not a plain table."""
_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[^']+')\) TO \((MAXVALUE|'[^']+')\)")


class Catalogue:
    """The partitions of some tables, read once and remembered until ``forget``. Belongs to the event loop."""

    def __init__(self, widths: dict[str, Partitioning]) -> None:
        """``widths``: table name to partitioning."""
        self.widths = widths
        self._layouts: dict[str, Layout] = {}
        self._bounds: dict[int, tuple[int, int]] = {}  # by oid, kept for good: they do not change, and are slow to read
        self._filled: dict[str, set[int]] = {}  # starts of partitions that we fill, perhaps not yet committed
        self._detached: dict[str, set[Partition]] = {}
        self._attached_again = False

    def forget(self) -> None:
        """Read the catalogue again: partitions may have been dropped, created or filled."""
        self._layouts.clear()
        self._detached.clear()
        self._attached_again = False

    async def layout(self, connection: Connection, table: str) -> Layout:
        """A table's partitions, as they are known now; one for all time if the table has none.

        Raises ``StoreUnavailable``; ``SchemaMismatch`` for a default partition.
        """
        if self.widths[table] is Partitioning.NONE:
            return Layout.of_one()
        if table not in self._layouts:
            self._layouts[table] = found = await self._read(connection, table)
            self._notice_attached(table, found)
        return self._layouts[table]

    async def filled(self, connection: Connection, layout: Layout, first: int, stop: int) -> NDArray[np.int64]:
        """The indexes in [``first``, ``stop``) of partitions that may hold rows. Raises ``StoreUnavailable``."""
        unknown = first + np.flatnonzero(layout.filled[first:stop] == UNKNOWN)
        if len(unknown):
            names = [layout.names[at] for at in unknown.tolist()]
            rows: list[bool] = await connection.fetchval(_MAY_HOLD_ROWS, names)
            still_filled = layout.filled[unknown] == FILLED  # we filled them while the server answered
            layout.filled[unknown] = np.where(still_filled, FILLED, rows)
        return first + np.flatnonzero(layout.filled[first:stop] == FILLED)

    def expired(self, table: str, micros: NDArray[np.int64]) -> Bools:
        """Which of these times lie in a partition that is known to be detached."""
        found = np.zeros(len(micros), dtype=np.bool_)
        for part in self._detached.get(table, ()):
            found |= (micros >= micros_of(part.start)) & (micros < micros_of(part.stop))
        return found

    @property
    def detached(self) -> list[Partition]:
        """The partitions that are known to be detached, in order."""
        return sorted(part for parts in self._detached.values() for part in parts)

    def too_far(self, table: str, micros: NDArray[np.int64], far: FarLimit) -> Bools:
        """Which of these times have no partition and get none, because they lie too far ahead."""
        beyond, layout = micros > far.after, self._layouts.get(table)
        if layout is not None and beyond.any():
            return beyond & (layout.at(micros) < 0) & ~self.expired(table, micros)
        return np.zeros(len(micros), dtype=np.bool_)

    def count(self, touched: Mapping[str, Sequence[Range]]) -> int:
        """How many partitions lie in these ranges of each table; a range counts as one if its layout is not known."""
        found = 0
        for table, ranges in touched.items():
            layout = self._layouts.get(table)
            if layout is None or not ranges:
                found += len(ranges)
            else:
                bounds = np.array([(one.start, one.stop) for one in ranges]).T
                found += int(np.maximum(layout.within(*bounds), 1).sum())
        return found

    # --- notes by the maker of partitions ------------------------------------------------------------------------

    def note_rows(self, table: str, layout: Layout, at: NDArray[np.int64]) -> None:
        """The partitions at these indexes are about to hold rows; -1 is none."""
        at = np.unique(at[at >= 0])
        layout.filled[at] = FILLED
        self._filled.setdefault(table, set()).update(layout.starts[at].tolist())

    def note_made(self, table: str, parts: Iterable[Partition]) -> None:
        """We have made these partitions."""
        parts = list(parts)
        self._detached.setdefault(table, set()).difference_update(parts)
        if parts and table in self._layouts:
            self._layouts[table] = self._layouts[table].with_parts(parts)

    def note_detached(self, table: str, parts: Iterable[Partition]) -> None:
        """These partitions were detached, and their tables still have their names."""
        self._detached.setdefault(table, set()).update(parts)

    def forget_layout(self, table: str) -> None:
        """Read the layout of one table again: other sessions have changed it."""
        self._layouts.pop(table, None)

    @property
    def attached_again(self) -> bool:
        """Whether a partition that was detached has been attached since ``forget``."""
        return self._attached_again

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self, connection: Connection, table: str) -> Layout:
        row = await connection.fetchrow(sql("partitions"), table)
        oids: list[int] = row["oids"]
        unknown = [oid for oid in oids if oid not in self._bounds]
        if unknown:
            bounds: list[str | None] = await connection.fetchval(sql("partition_bounds"), unknown)
            self._bounds.update(
                (oid, _parsed(table, one)) for oid, one in zip(unknown, bounds, strict=True) if one is not None
            )
        known = [oid in self._bounds for oid in oids]  # one may have been dropped between the two queries
        names = [name for name, is_known in zip(row["names"], known, strict=True) if is_known]
        parts = [self._bounds[oid] for oid, is_known in zip(oids, known, strict=True) if is_known]
        starts, stops = np.array(parts, dtype=np.int64).reshape(-1, 2).T
        order = np.argsort(starts)
        filled = np.where(np.isin(starts, list(self._filled.get(table, ()))), FILLED, UNKNOWN).astype(np.int8)
        return Layout([names[at] for at in order], starts[order], stops[order], filled[order])

    def _notice_attached(self, table: str, found: Layout) -> None:
        detached = self._detached.get(table, set())
        back = {part for part in detached if found.at(np.array([micros_of(part.start)]))[0] >= 0}
        detached.difference_update(back)
        self._attached_again |= bool(back)


async def detached_partitions(connection: Connection, table: str) -> list[Partition]:
    """The partitions that were detached from a table and still have their names, in order.

    Raises ``StoreUnavailable``, ``Mistake``.
    """
    names: list[str] = await connection.fetchval(sql("detached"), table)
    return sorted(part for part in (partition_named(table, name) for name in names) if part is not None)


def _parsed(table: str, bounds: str) -> tuple[int, int]:
    """A partition's bounds in µs, from the text that Postgres writes in UTC. Raises ``SchemaMismatch`` for a default partition."""
    found = _BOUNDS.fullmatch(bounds)
    if found is None:
        raise SchemaMismatch(
            f"{table} has a partition of another kind ({bounds}): rows that land there keep later partitions from being created "
            f"and are not found again; detach it"
        )
    return _micros(found[1].strip("'")), _micros(found[2].strip("'"))


def _micros(bound: str) -> int:
    """One bound in µs; a bound beyond all event times becomes the first or the last of them."""
    try:
        return min(max(micros_of(datetime.fromisoformat(bound)), EARLIEST), LATEST)
    except ValueError:
        return EARLIEST if bound in ("MINVALUE", "-infinity") or bound.endswith("BC") else LATEST
