"""All time, or a span of it, cut at partition bounds into slices of a bounded size. Pure.

The first slice begins at ``BEGINNING`` and the last ends at ``END`` (Postgres's infinities), so that no row lies
outside, wherever somebody may have put it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)
_MOST_PIECES = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of ``table``, or the whole of one that has none; ``cuts`` lie inside of it."""

    table: str
    name: str
    start: datetime
    stop: datetime
    size_bytes: int
    cuts: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """The rows with ``start`` <= timestamp < ``stop``."""

    start: datetime = BEGINNING
    stop: datetime = END

    @property
    def everything(self) -> bool:
        return (self.start, self.stop) == (BEGINNING, END)


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a span. ``tables``: those that have a partition for all of it; ``size_bytes`` of all tables.

    ``bounds``: how many bounds of partitions lie in it, its start among them: no table has more partitions there.
    """

    start: datetime
    stop: datetime
    tables: frozenset[str]
    size_bytes: float
    bounds: int = 1


def slice_bytes(parts: Sequence[Part], least: int) -> int:
    """How large a slice may be: ``least``, but so that the largest part is cut into no more than 16.

    Without an index on time alone each piece of a part costs a scan of the whole part.
    """
    return max(least, *(-(-part.size_bytes // _MOST_PIECES) for part in parts), 1)


def pieces(part: Part, largest: int) -> int:
    """Into how many pieces ``part`` should be cut."""
    return max(1, -(-part.size_bytes // largest))


def cut(parts: Sequence[Part], span: Span, largest: int, most_bounds: int) -> list[Slice]:
    """``span`` in contiguous slices, in order; neighbours over the same tables are one up to ``largest`` bytes, and up to
    ``most_bounds`` where there are any bytes.
    """
    bounds = {bound for part in parts for bound in (part.start, *part.cuts, part.stop)}
    edges = [span.start, *sorted(bound for bound in bounds if span.start < bound < span.stop), span.stop]
    tables: list[set[str]] = [set() for _ in edges[1:]]
    sizes = [0.0] * len(tables)
    for part in parts:
        first, last = bisect_left(edges, max(part.start, span.start)), bisect_left(edges, min(part.stop, span.stop))
        for number in range(first, last):
            tables[number].add(part.table)
            sizes[number] += part.size_bytes / (last - first)
    found: list[Slice] = []
    for (start, stop), there, size in zip(pairwise(edges), map(frozenset, tables), sizes, strict=True):
        before = found[-1] if found else None
        bytes_in_both = (before.size_bytes if before else 0) + size
        fits = bytes_in_both <= largest and (not bytes_in_both or (before and before.bounds < most_bounds))
        if before and before.tables == there and fits:
            found[-1] = replace(before, stop=stop, size_bytes=bytes_in_both, bounds=before.bounds + 1)
        else:
            found.append(Slice(start, stop, there, size))
    return found
