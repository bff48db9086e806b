"""``verify`` for derived outputs: compares each with its ``select`` over the stored sources, and recomputes it where it differs.

Slices are cut at bounds of buckets, and only buckets that lie wholly in the span are checked. The stored sources are taken as
right: a repair of averages and of the join comes first, and then recomputes the outputs that follow from them.

A difference is only a doubt, which a repair leaves alone, if

- the row's own partition was detached (``detached``);
- a source has no partition for a part of the bucket, while rows that were stored are missing (``partial``): the row was
  computed from rows that are gone.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from tickloom.core.outputs import SOURCES, Output
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import DataRefused, Mistake, NotAllowed, SchemaMismatch
from tickloom.store.catalogue import detached_partitions
from tickloom.store.derived import listed
from tickloom.store.outputs import declared
from tickloom.store.partitions import Partitioner
from tickloom.store.parts import read_parts, refuse_dropped
from tickloom.store.postgres import Connection, sql
from tickloom.store.recompute import WITHIN, plan_for_slices, starts_and_stops
from tickloom.store.repair import Damage
from tickloom.store.slices import BEGINNING, END, Part, Slice, Span, cut
from tickloom.store.sqlstates import first_line

T = TypeVar("T", Part, Slice)
_NARROWEST = timedelta(hours=1)
"""Of the partitions that the sources may have."""
_EPOCH = moment(0)


class SnapshotReader(Protocol):
    """Transactions on the snapshot of ``verify``. Each may touch ``most_partitions`` partitions of each table."""

    most_partitions: int

    def transaction(self) -> AbstractAsyncContextManager[Connection]: ...


@dataclass(slots=True)
class Found:
    """The result for one output: the count of its rows, its differences (the rows of ``sql/derived_differences.sql``), and the
    slices that have any.
    """

    output: Output
    rows: int = 0
    differences: list[Any] = field(default_factory=list[Any])
    slices: list[tuple[Slice, frozenset[str]]] = field(default_factory=list[tuple[Slice, frozenset[str]]])
    """Each slice with the doubts about its differences; "" stands for no doubt."""


async def try_selects(connection: Connection) -> None:
    """Run each output's statements on no rows. Raises ``SchemaMismatch`` if Postgres cannot; ``StoreUnavailable``."""
    for output in declared():
        try:
            nothing: list[datetime] = []
            statement = _statement("derived_differences", output)
            await connection.fetch(statement, _EPOCH, _EPOCH, 0, nothing, nothing, nothing, nothing)
        except NotAllowed:
            raise
        except (SchemaMismatch, DataRefused) as error:
            raise SchemaMismatch(
                f"the select of output {output.name} does not give its columns: {first_line(str(error.__cause__))}; fix its declaration"
            ) from error


async def compare(reader: SnapshotReader, parts: Sequence[Part], span: Span, largest: int, limit: int) -> list[Found]:
    """Compare each output in ``span``; ``parts`` are those of the sources. Raises ``Mistake``, ``StoreUnavailable``."""
    found: list[Found] = []
    for output in declared():
        async with reader.transaction() as connection:
            own = await read_parts(connection, [output.name])
            detached = starts_and_stops(await detached_partitions(connection, output.name))
        sources = [part for part in parts if part.table in output.sources]
        one = Found(output)
        for piece in _slices(output, [*own, *sources], span, largest, reader.most_partitions):
            holes = _holes(output, sources, piece)
            async with reader.transaction() as connection:
                rows = await _compared(connection, output, piece, limit, detached, holes)
                one.rows += await connection.fetchval(
                    f"SELECT count(*) FROM {output.name} WHERE {WITHIN}", piece.start, piece.stop
                )
            one.differences += rows
            if rows:
                one.slices.append((piece, frozenset(row["doubt"] for row in rows)))
        found.append(one)
    return found


async def repair(
    connection: Connection,
    partitioner: Partitioner,
    repaired: Damage,
    found: Iterable[Found],
    complete: bool,
) -> dict[str, int]:
    """Recompute the slices whose sources were ``repaired``, and those in which differences were ``found``.

    ``complete``: no row is missing from the raw tables, so that a source without a partition never had any rows there.
    Works in a transaction for each slice, which locks out all other writers. Returns the number of rows written, by table. Raises ``Mistake``, ``StoreUnavailable``.
    """
    written: dict[str, int] = {}
    for one in found:
        output = one.output
        bad = [piece for piece, doubts in one.slices if "" in doubts or (complete and "partial" in doubts)]
        sources = [part for part in repaired.parts if part.table in output.sources]
        written[output.name] = 0
        for piece in [*(_widened(output, piece) for piece in repaired.slices), *bad]:
            spared = [] if complete else _holes(output, sources, piece)
            written[output.name] += await _repair_slice(connection, partitioner, output, piece, sources, spared)
    return written


async def _repair_slice(
    connection: Connection,
    partitioner: Partitioner,
    output: Output,
    piece: Slice,
    sources: Sequence[Part],
    spared: Sequence[Span],
) -> int:
    starts = await connection.fetch(_statement("derived_buckets", output), piece.start, piece.stop)
    micros = np.array([micros_of(row["timestamp"]) for row in starts], dtype=np.int64)
    await partitioner.ensure_kept(connection, output.name, micros)
    tables = ", ONLY ".join((output.name, *output.sources))
    async with connection.transaction():
        await plan_for_slices(connection)
        await connection.execute("LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE")
        await connection.execute(f"LOCK TABLE ONLY {tables} IN ROW EXCLUSIVE MODE")
        await refuse_dropped(connection, sources)
        left = [*spared, *(Span(part.start, part.stop) for part in await detached_partitions(connection, output.name))]
        return await connection.fetchval(
            _statement("derived_repair", output), piece.start, piece.stop, *starts_and_stops(left)
        )


async def _compared(
    connection: Connection,
    output: Output,
    piece: Slice,
    limit: int,
    detached: tuple[list[datetime], list[datetime]],
    holes: Sequence[Span],
) -> list[Any]:
    statement = _statement("derived_differences", output)
    try:
        return await connection.fetch(statement, piece.start, piece.stop, limit, *detached, *starts_and_stops(holes))
    except DataRefused as error:
        raise Mistake(
            f"the select of {output.name} fails between {piece.start} and {piece.stop}: {error}; fix its declaration, or the "
            f"raw values that it cannot handle"
        ) from error


def _statement(name: str, output: Output) -> str:
    """A statement of ``sql/`` for one output; its names come from the declaration, never from data."""
    names = [column.name for column in output.columns]
    seconds = f"{output.bucket.total_seconds():g}"
    slices = sql("derived_slice")
    sources = [
        slices.format(name=source, columns=listed(SOURCES[source].names, "r."), seconds=seconds).strip()
        for source in output.sources
    ]
    return sql(name).format(
        table=output.name,
        sources=", ".join(sources),
        select=output.select,
        seconds=seconds,
        values=", ".join(f'x."{column.name}"::{column.type} AS "{column.name}"' for column in output.columns),
        names=listed(names),
        expected_names=listed(names, "e."),
        kept=listed(names, "o."),
        given=listed(names, "e."),
        both=", ".join(
            f'o."{name}"::text AS found_{number}, e."{name}"::text AS expected_{number}'
            for number, name in enumerate(names)
        ),
        pairs=", ".join(f"('{name}', found_{number}, expected_{number})" for number, name in enumerate(names)),
        assignments=", ".join(f'"{name}" = excluded."{name}"' for name in names),
    )


# --- slices of whole buckets --------------------------------------------------------------------------------------


def _slices(output: Output, parts: Sequence[Part], span: Span, largest: int, most_partitions: int) -> list[Slice]:
    """``span`` in slices of whole buckets; without those whose partitions are all empty files."""
    start, stop = _up(output, span.start), _up(output, span.stop)
    if stop != span.stop:
        stop -= output.bucket  # the span holds only a part of the last bucket
    if start >= stop:
        return []
    wide = [
        replace(_widened(output, part), cuts=tuple(sorted({_up(output, time) for time in part.cuts}))) for part in parts
    ]
    most_buckets = max(1, most_partitions // max(1, output.bucket // _NARROWEST))
    return [piece for piece in cut(wide, Span(start, stop), largest, most_buckets) if piece.size_bytes]


def _widened(output: Output, piece: T) -> T:
    """A slice or part, widened to hold the whole of each bucket that it holds in part."""
    start = _up(output, piece.start)
    return replace(piece, start=start if start == piece.start else start - output.bucket, stop=_up(output, piece.stop))


def _up(output: Output, time: datetime) -> datetime:
    """The first start of a bucket at ``time`` or after it."""
    if time in (BEGINNING, END):
        return time
    start = moment(micros_of(time) // output.bucket_micros * output.bucket_micros)
    return start if start == time else start + output.bucket


def _holes(output: Output, sources: Sequence[Part], piece: Slice) -> list[Span]:
    """The ranges that overlap with a slice and for which some source has no partition."""
    found: list[Span] = []
    for source in output.sources:
        mine = sorted((part.start, part.stop) for part in sources if part.table == source)
        edges = [(BEGINNING, BEGINNING), *mine, (END, END)]
        found += [Span(before, after) for (_, before), (after, _) in pairwise(edges) if before < after]
    return [hole for hole in found if hole.start < piece.stop and hole.stop > piece.start]
