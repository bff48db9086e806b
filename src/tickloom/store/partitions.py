"""Makes time partitions, ahead of time and on demand, by any number of replicas at once.

A partition is made only if none holds a row's time (see ``catalogue``). It is as wide as the settings say, or narrower if
it would otherwise overlap with an existing partition. A detached partition is not made again while its table still has
its name.

A partition is made as a table of its own and then attached: ``ATTACH`` takes SHARE UPDATE EXCLUSIVE on the parent, and
neither readers nor COPY wait for that. ``CREATE … PARTITION OF`` takes ACCESS EXCLUSIVE. An advisory lock for each
table keeps replicas from racing (``tickloom.make_partitions`` in ``migrations/``).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tickloom.core.partitioning import (
    FarLimit,
    Partition,
    partition_at,
    partitions_ahead,
    partitions_for,
    starts_of,
    step_of,
)
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import NotAllowed, PartitionMissing, SchemaMismatch, StateSpoilt
from tickloom.settings import Partitioning
from tickloom.store.catalogue import Catalogue
from tickloom.store.postgres import Connection

_THIS_AND_NARROWER = {
    Partitioning.HOURLY: (Partitioning.HOURLY,),
    Partitioning.DAILY: (Partitioning.DAILY, Partitioning.HOURLY),
    Partitioning.MONTHLY: (Partitioning.MONTHLY, Partitioning.DAILY, Partitioning.HOURLY),
}
_MADE_AT_ONCE = 16
"""Partitions that one transaction makes. It holds some five locks for each."""
_MAKE = "SELECT tickloom.make_partitions($1::text::regclass, $2)"
_STATES = (
    "SELECT array_agg(tickloom.partition_state($1::text::regclass, stamp) ORDER BY number) "
    "FROM unnest($2::text[]) WITH ORDINALITY AS stamps (stamp, number)"
)


class Partitioner(Catalogue):
    """A catalogue that makes the partitions that are missing."""

    def __init__(self, widths: dict[str, Partitioning], ahead: int) -> None:
        """``widths``: table name to partitioning. ``ahead``: partitions kept ready after the current one."""
        super().__init__(widths)
        self.refusal = ""
        """Why this role may not make partitions; empty until Postgres has refused one."""
        self._ahead = ahead

    async def ensure_for(self, connection: Connection, needed: Mapping[str, NDArray[np.int64]]) -> int:
        """Make the partitions that rows of each table (name to their times in µs) need. Returns how many it made.

        Not inside a transaction. Raises ``StoreUnavailable`` (``PartitionMissing`` if this role may not make one),
        ``Mistake``; ``StateSpoilt`` if a partition was detached, because these rows can no longer be left out.
        """
        made = 0
        for table, micros in needed.items():
            made += await self.ensure_kept(connection, table, micros)
            if self.expired(table, micros).any():
                raise StateSpoilt(f"a partition of {table} was detached while rows for it were on their way")
        return made

    async def ensure_kept(
        self, connection: Connection, table: str, micros: NDArray[np.int64], far: FarLimit | None = None
    ) -> int:
        """As ``ensure_for``, for rows of which some may be ``expired``, or ``too_far``.

        Raises ``StateSpoilt`` if a partition was attached again, because rows that were read without its rows are wrong.
        """
        if self.widths[table] is Partitioning.NONE or not len(micros):
            return 0
        made, step = 0, step_of(self.widths[table])
        starts = starts_of(micros, step)
        layout = await self.layout(connection, table)
        at = layout.at(starts)
        uncovered = (at < 0) | (at != layout.at(starts + step - 1))
        if uncovered.any():
            left = micros[np.isin(micros // step * step, starts[uncovered])]
            near = left if far is None else await self._near(connection, table, left, far)
            made = await self._ensure(connection, table, near)
            layout = await self.layout(connection, table)
            at = layout.at(micros)
        self.note_rows(table, layout, at)
        if self.attached_again:
            raise StateSpoilt(f"a partition of {table} that was detached is attached again")
        return made

    async def ensure_ahead(self, connection: Connection, now: datetime) -> int:
        """Make the partition of ``now`` and those ahead of it. Returns how many it made.

        If this role may not make any, ``refusal`` says so. Raises ``StoreUnavailable``, ``Mistake``.
        """
        made = 0
        for table, width in self.widths.items():
            if width is not Partitioning.NONE:
                starts = [micros_of(part.start) for part in partitions_ahead(table, width, now, self._ahead)]
                starts[0] = micros_of(now)
                try:
                    made += await self._ensure(connection, table, np.array(starts))
                except PartitionMissing:
                    continue  # no row waits for it yet
        return made

    async def _near(
        self, connection: Connection, table: str, micros: NDArray[np.int64], far: FarLimit
    ) -> NDArray[np.int64]:
        """The times for which a partition may be made."""
        layout = await self.layout(connection, table)
        existing = int(np.count_nonzero(layout.starts > far.after))
        beyond = micros[(micros > far.after) & (layout.at(micros) < 0)]
        coming = partitions_for(table, self.widths[table], beyond)
        if existing + len(coming) <= far.most:
            return micros
        end = micros_of(coming[max(0, far.most - existing)].start)
        return micros[(micros <= far.after) | (micros < end)]

    async def _ensure(self, connection: Connection, table: str, micros: NDArray[np.int64]) -> int:
        """Make partitions for those of the times that no partition holds. Returns how many it made."""
        made = 0
        for width in _THIS_AND_NARROWER[self.widths[table]]:
            left = micros[(await self.layout(connection, table)).at(micros) < 0]
            if width is not self.widths[table]:
                left = left[~self.expired(table, left)]
            wanted = partitions_for(table, width, left)
            for first in range(0, len(wanted), _MADE_AT_ONCE):
                made += await self._make(connection, table, wanted[first : first + _MADE_AT_ONCE])
        layout = await self.layout(connection, table)
        left = micros[(layout.at(micros) < 0) & ~self.expired(table, micros)]
        if len(left):
            self.forget_layout(table)
            raise self._missing(table, partition_at(table, Partitioning.HOURLY, moment(int(left[0]))))
        return made

    def _missing(self, table: str, hour: Partition) -> PartitionMissing | SchemaMismatch:
        """The error that says why an hour has no partition."""
        if self.refusal:
            return PartitionMissing(
                f"{table} has no partition for {hour.start:%Y-%m-%dT%H:%MZ}, and this role may not create one: {self.refusal}; or "
                f"make it by hand: {hour.ddl}"
            )
        return SchemaMismatch(
            f"a part of the hour {hour.start:%Y-%m-%dT%H:%MZ} has no partition of {table}, and another part has; create the "
            f"missing one, or attach partitions of whole hours"
        )

    async def _make(self, connection: Connection, table: str, some: Sequence[Partition]) -> int:
        """Make and attach some partitions of one table if they are missing. Returns how many it made."""
        stamps = [part.stamp for part in some]
        try:
            states: list[str] = await connection.fetchval(_MAKE, table, stamps)
            self.refusal = ""
        except NotAllowed as error:
            self.refusal = await why_not(connection, error)
            states = await connection.fetchval(_STATES, table, stamps)
        by_state: dict[str, list[Partition]] = {state: [] for state in states}
        for part, state in zip(some, states, strict=True):
            by_state[state].append(part)
        made, detached = by_state.get("made", []), by_state.get("detached", [])
        self.note_made(table, made)
        self.note_detached(table, detached)
        if foreign := by_state.get("foreign"):
            raise SchemaMismatch(
                f"table {foreign[0].name} exists but is no partition of {table}; attach, rename or drop it"
            )
        if len(made) + len(detached) < len(some):
            self.forget_layout(table)  # another session has made some, or some of another width
        return len(made)


async def why_not(connection: Connection, error: NotAllowed) -> str:
    """The reason why a role may not make partitions, and the GRANT to type. Raises ``StoreUnavailable``."""
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return (
        f"{str(error).partition('; ')[0]}; as the tables' owner type: "
        f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {role}"
    )
