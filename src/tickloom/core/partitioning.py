"""Table partitions as names, bounds and ranges. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from tickloom.core.timestamps import EARLIEST, LATEST, micros_of, moment
from tickloom.settings import Partitioning

_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_WIDTHS_MICROSECONDS = {Partitioning.HOURLY: 3_600 * 10**6, Partitioning.DAILY: 86_400 * 10**6}
_AND_NARROWER = {
    Partitioning.HOURLY: (Partitioning.HOURLY,),
    Partitioning.DAILY: (Partitioning.DAILY, Partitioning.HOURLY),
    Partitioning.MONTHLY: (Partitioning.MONTHLY, Partitioning.DAILY, Partitioning.HOURLY),
}
_MADE_AT_ONCE = 16
"""By one transaction, which holds some five locks for each."""
_STEPS_COUNTED = 1 << 16
_WIDEST = 31 * 86_400 * 10**6
_LEAST_BUDGET, _MOST_BUDGET = 6, 256


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The rows of ``table`` with ``start`` <= timestamp < ``stop``."""

    table: str
    start: datetime
    stop: datetime
    name: str

    @property
    def stamp(self) -> str:
        """What its name ends with: the start, as far as it is not 0."""
        return self.name.rpartition("_")[2]


def partition_at(table: str, width: Partitioning, time: datetime) -> Partition:
    """The partition of ``table`` that holds ``time`` (any zone; partitions are cut in UTC)."""
    start = time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if width is not Partitioning.HOURLY:
        start = start.replace(hour=0)
    if width is Partitioning.MONTHLY:
        start = start.replace(day=1)
        stop = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    else:
        stop = start + timedelta(microseconds=_WIDTHS_MICROSECONDS[width])
    stamp = start.strftime(_FORMATS[width]).rjust({"%Y%m%d%H": 10, "%Y%m%d": 8, "%Y%m": 6}[_FORMATS[width]], "0")
    return Partition(table, start, stop, f"{table}_{stamp}")


def partitions_ahead(table: str, width: Partitioning, now: datetime, ahead: int) -> list[Partition]:
    """The partition of ``now`` and the ``ahead`` after it, in order."""
    found = [partition_at(table, width, now)]
    for _ in range(ahead):
        found.append(partition_at(table, width, found[-1].stop))
    return found


def partitions_for(table: str, width: Partitioning, micros: NDArray[np.int64]) -> list[Partition]:
    """The partitions that rows at ``micros`` (µs since 1970) fall into, in order."""
    return sorted({partition_at(table, width, moment(start)) for start in starts_of(micros, step_of(width)).tolist()})


def step_of(width: Partitioning) -> int:
    """A part of every such partition, in µs: no bound lies inside of one."""
    return _WIDTHS_MICROSECONDS.get(width, 86_400 * 10**6)


def starts_of(micros: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """The steps that occur, by their starts, in order; counted where that needs no sort."""
    if not len(micros):
        return micros
    steps = micros // step
    first, last = int(steps.min()), int(steps.max())
    if last - first < _STEPS_COUNTED:
        return (np.flatnonzero(np.bincount(steps - first)) + first) * step
    return np.unique(steps) * step


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Event times in microseconds since 1970: ``start`` <= time < ``stop``."""

    start: int
    stop: int


ALWAYS = Range(EARLIEST, LATEST)
"""Of a table without partitions."""


def ranges_of(micros: NDArray[np.int64], width: Partitioning) -> list[Range]:
    """The partitions that rows at ``micros`` fall into, in order; one for all in a table without any."""
    if width is Partitioning.NONE:
        return [ALWAYS] if len(micros) else []
    return [Range(micros_of(part.start), micros_of(part.stop)) for part in partitions_for("", width, micros)]


def runs_of(ranges: Sequence[Range]) -> list[Range]:
    """Ordered ranges, with neighbours that touch made one."""
    runs: list[Range] = []
    for one in ranges:
        if runs and runs[-1].stop == one.start:
            runs[-1] = Range(runs[-1].start, one.stop)
        else:
            runs.append(one)
    return runs
