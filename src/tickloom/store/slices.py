"""All time, or a span of it, cut at partition bounds into slices of a bounded size. Pure.

The first slice of all time begins at ``BEGINNING`` and the last ends at ``END`` (Postgres's infinities), so that no row
lies outside of them, at any time.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from tickloom.core.timestamps import moment, parse_text
from tickloom.errors import SettingsError

BEGINNING = datetime.min.replace(tzinfo=UTC)
END = datetime.max.replace(tzinfo=UTC)
_MOST_PIECES = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of ``table``, or the whole table where it has none; ``cuts`` are times inside of it."""

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
    """A piece of a span. ``tables``: those that have partitions for all of it; ``size_bytes``: of all tables.

    ``bounds``: the number of partition bounds in it, its start included; no table has more partitions in it.
    """

    start: datetime
    stop: datetime
    tables: frozenset[str]
    size_bytes: float
    bounds: int = 1


def parse_span(since: str | None, until: str | None) -> Span:
    """``--from`` and ``--to`` as a span. Raises ``SettingsError``."""
    span = Span(_parsed("--from", since) or BEGINNING, _parsed("--to", until) or END)
    if span.start >= span.stop:
        raise SettingsError(f"--from {since} is not before --to {until}; the range is half open, [from, to)")
    return span


def _parsed(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    micros = parse_text(text if len(text) > len("2026-11-24") else f"{text}T00:00")
    try:
        if micros is not None:
            return moment(micros)
    except OverflowError:
        pass
    raise SettingsError(f"{option} {text!r} is not a time; write it like 2026-11-24T10:15:00 (UTC) or …+01:00")


def slice_bytes(parts: Sequence[Part], least: int) -> int:
    """How large a slice may be: at least ``least``, and large enough to cut no part into more than 16 pieces.

    There is no index on time alone, so each piece of a part costs a scan of the whole part.
    """
    return max(least, *(-(-part.size_bytes // _MOST_PIECES) for part in parts), 1)


def pieces(part: Part, largest: int) -> int:
    """Into how many pieces ``part`` should be cut."""
    return max(1, -(-part.size_bytes // largest))


def cut(parts: Sequence[Part], span: Span, largest: int, most_bounds: int) -> list[Slice]:
    """``span`` in contiguous slices, in order. Neighbours over the same tables become one slice, of ``largest`` bytes at most,
    and, unless it is empty, of ``most_bounds`` bounds at most.
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
    for (start, stop), present, size in zip(pairwise(edges), map(frozenset, tables), sizes, strict=True):
        before = found[-1] if found else None
        bytes_in_both = (before.size_bytes if before else 0) + size
        fits = bytes_in_both <= largest and (not bytes_in_both or (before and before.bounds < most_bounds))
        if before and before.tables == present and fits:
            found[-1] = replace(before, stop=stop, size_bytes=bytes_in_both, bounds=before.bounds + 1)
        else:
            found.append(Slice(start, stop, present, size))
    return found
