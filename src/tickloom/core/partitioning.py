"""Time partitions as values: names, bounds, ranges, and the layout of a table. Pure.

Partitions are half open and contiguous, cut in UTC, and named by their start: ``stock_prices_2026112410``. Times are
microseconds since 1970 wherever there are many of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from tickloom.core.timestamps import EARLIEST, LATEST, micros_of, moment
from tickloom.settings import Partitioning

UNKNOWN, FILLED = -1, 1
"""Values of ``Layout.filled``; 0 means that the partition's file is empty."""

_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_STAMP_LENGTHS = {Partitioning.HOURLY: 10, Partitioning.DAILY: 8, Partitioning.MONTHLY: 6}
_WIDTHS_MICROSECONDS = {Partitioning.HOURLY: 3_600 * 10**6, Partitioning.DAILY: 86_400 * 10**6}
_LONGEST_MONTH_MICROSECONDS = 31 * 86_400 * 10**6
_MOST_STEPS_COUNTED = 1 << 16


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The rows of ``table`` with ``start`` <= timestamp < ``stop``."""

    table: str
    start: datetime
    stop: datetime
    name: str

    @property
    def stamp(self) -> str:
        """The end of its name: the digits of its start, down to the hour, the day or the month."""
        return self.name.rpartition("_")[2]

    @property
    def ddl(self) -> str:
        """The statement that creates it by hand."""
        return (
            f"CREATE TABLE {self.name} PARTITION OF {self.table} "
            f"FOR VALUES FROM ('{self.start:%Y-%m-%d %H:%M:%S.%f}+00') TO ('{self.stop:%Y-%m-%d %H:%M:%S.%f}+00')"
        ).replace(".000000", "")


def partition_at(table: str, width: Partitioning, time: datetime) -> Partition:
    """The partition of ``table`` that holds ``time`` (in any zone)."""
    start = time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if width is not Partitioning.HOURLY:
        start = start.replace(hour=0)
    if width is Partitioning.MONTHLY:
        start = start.replace(day=1)
        stop = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    else:
        stop = start + timedelta(microseconds=_WIDTHS_MICROSECONDS[width])
    stamp = start.strftime(_FORMATS[width]).rjust(_STAMP_LENGTHS[width], "0")
    return Partition(table, start, stop, f"{table}_{stamp}")


def partition_named(table: str, name: str) -> Partition | None:
    """The partition that ``partition_at`` names so; None if it never uses the name."""
    stamp = name.removeprefix(f"{table}_")
    for width, form in _FORMATS.items():
        try:
            part = partition_at(table, width, datetime.strptime(stamp, form).replace(tzinfo=UTC))
        except ValueError:
            continue
        if part.name == name:
            return part
    return None


def partitions_ahead(table: str, width: Partitioning, now: datetime, ahead: int) -> list[Partition]:
    """The partition of ``now`` and the ``ahead`` after it, in order."""
    found = [partition_at(table, width, now)]
    for _ in range(ahead):
        found.append(partition_at(table, width, found[-1].stop))
    return found


def partitions_for(table: str, width: Partitioning, micros: NDArray[np.int64]) -> list[Partition]:
    """The partitions that rows at ``micros`` fall into, in order."""
    return sorted({partition_at(table, width, moment(start)) for start in starts_of(micros, step_of(width)).tolist()})


def step_of(width: Partitioning) -> int:
    """A length in µs of which every partition of this width is a multiple: the hour or the day."""
    return _WIDTHS_MICROSECONDS.get(width, 86_400 * 10**6)


def starts_of(micros: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """The starts of the steps that hold ``micros``, each once, in order."""
    if not len(micros):
        return micros
    steps = micros // step
    first, last = int(steps.min()), int(steps.max())
    if last - first < _MOST_STEPS_COUNTED:  # counting is faster than sorting
        return (np.flatnonzero(np.bincount(steps - first)) + first) * step
    return np.unique(steps) * step


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Event times in µs: ``start`` <= time < ``stop``."""

    start: int
    stop: int


ALWAYS = Range(EARLIEST, LATEST)
"""The range of a table without partitions."""


def ranges_of(micros: NDArray[np.int64], width: Partitioning) -> list[Range]:
    """The ranges of the partitions that rows at ``micros`` fall into, in order; ``ALWAYS`` in a table without partitions."""
    if width is Partitioning.NONE:
        return [ALWAYS] if len(micros) else []
    return [Range(micros_of(part.start), micros_of(part.stop)) for part in partitions_for("", width, micros)]


def runs_of(ranges: Sequence[Range]) -> list[Range]:
    """Ordered ranges, where neighbours that touch become one."""
    runs: list[Range] = []
    for one in ranges:
        if runs and runs[-1].stop == one.start:
            runs[-1] = Range(runs[-1].start, one.stop)
        else:
            runs.append(one)
    return runs


@dataclass(frozen=True, slots=True)
class FarLimit:
    """At most ``most`` partitions of a table may begin ``after`` a time (µs). Without this limit, bad event times could create
    any number of them.
    """

    after: int
    most: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A table's partitions in order of time: names, bounds in µs, and whether each may hold rows.

    A new partition makes a new layout, so a reader can go on with the one it has. Only the values of ``filled`` change.
    """

    names: list[str]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    filled: NDArray[np.int8]

    @classmethod
    def of_one(cls) -> "Layout":
        """The layout of a table without partitions: one partition for all time."""
        return cls([""], np.array([EARLIEST]), np.array([LATEST]), np.array([FILLED], dtype=np.int8))

    def at(self, micros: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of the partition that holds each of these times; -1 where none does."""
        at = np.searchsorted(self.starts, micros, "right") - 1
        return np.where(micros < np.append(self.stops, EARLIEST)[at], at, -1)

    def within(self, first: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many partitions overlap with each range [``first``, ``stop``)."""
        return np.searchsorted(self.starts, stop, "left") - np.searchsorted(self.stops, first, "right")

    def with_parts(self, parts: Sequence[Partition]) -> "Layout":
        """This layout with these partitions, some of which it may have already."""
        parts = [part for part in parts if self.at(np.array([micros_of(part.start)]))[0] < 0]
        bounds = np.array([(micros_of(part.start), micros_of(part.stop)) for part in parts], dtype=np.int64)
        starts, stops = np.concatenate([[self.starts, self.stops], bounds.T], axis=1)
        order = np.argsort(starts)
        names = [*self.names, *(part.name for part in parts)]
        filled = np.concatenate([self.filled, np.full(len(parts), UNKNOWN, dtype=np.int8)])
        return Layout([names[at] for at in order.tolist()], starts[order], stops[order], filled[order])

    def contiguous_until(self, micros: int) -> int:
        """The end of the unbroken run of partitions that holds ``micros``; ``micros`` itself where no partition holds it."""
        while (at := int(self.at(np.array([micros]))[0])) >= 0 and self.stops[at] < LATEST:
            micros = int(self.stops[at])
        return micros if at < 0 else LATEST

    def holes(self, width: Partitioning, since: int) -> list[Range]:
        """The uncovered parts of periods of ``width`` that other partitions cover in part, from the period of ``since`` on.

        No partition of that width can be created there.
        """
        found: list[Range] = []
        edges = np.unique(np.concatenate([self.starts, self.stops]))
        edges = edges[(edges > max(EARLIEST, since - _LONGEST_MONTH_MICROSECONDS)) & (edges < LATEST)]
        periods = {partition_at("", width, moment(edge - after)) for edge in edges.tolist() for after in (0, 1)}
        for period in sorted(periods):
            start, stop = micros_of(period.start), micros_of(period.stop)
            if stop > since:
                found += self._uncovered(start, stop)
        return found

    def _uncovered(self, start: int, stop: int) -> list[Range]:
        """The ranges of [``start``, ``stop``) that no partition covers; none if no partition overlaps with it at all."""
        inside = np.flatnonzero((self.starts < stop) & (self.stops > start))
        if not len(inside):
            return []
        covered = np.clip(np.stack([self.starts, self.stops])[:, inside].T.ravel(), start, stop).tolist()
        bounds = [start, *covered, stop]
        return [Range(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True) if a < b]
