"""gather: rows collect into a micro-batch, closed by size, bytes or age. Pure: ``now`` is an argument."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

import numpy as np
import polars as pl

from tickloom.core.arrays import Ints
from tickloom.core.model import (
    Batch,
    Chunk,
    Decoded,
    EndOfPartition,
    Gap,
    Progress,
    Reject,
    Side,
    TopicPartition,
    rows_schema,
)

HOUR_MICROS = 3_600_000_000
_HOURS_COUNTED = 1 << 16


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch closes. ``max_spans``: the most spans of event time, each ``span_micros`` long, that its rows may lie in.

    A span is a whole number of hours.
    """

    max_messages: int
    max_bytes: int
    max_age_seconds: float
    max_spans: int = 1 << 62
    span_micros: int = 1 << 62


def parts_of(decoded: Decoded, limits: BatchLimits) -> list[Decoded]:
    """``decoded`` in parts that one batch may hold: by the number of messages, and by the spans of event time of its rows.

    It is mostly one part.
    """
    spans = decoded.rows["ts"].to_numpy() // limits.span_micros
    narrow = not len(spans) or int(spans.max()) - int(spans.min()) < limits.max_spans
    count = len(decoded.chunk.values)
    if narrow and count <= limits.max_messages:
        return [decoded]
    places = _places(decoded)
    cuts = set(range(limits.max_messages, count, limits.max_messages))
    seen: set[int] = set()
    for place, span in zip(places, spans.tolist(), strict=True):
        if span not in seen and len(seen) == limits.max_spans:
            cuts.add(place)
            seen.clear()
        seen.add(span)
    return _cut(decoded, places, sorted(cuts)) if cuts else [decoded]


def _places(decoded: Decoded) -> list[int]:
    """For each row, the index of its message in the chunk."""
    dead = {(reject.source.partition, reject.offset) for reject in decoded.rejects}
    sources = zip(decoded.chunk.partitions.tolist(), decoded.chunk.offsets.tolist(), strict=True)
    return [index for index, source in enumerate(sources) if source not in dead]


def _cut(decoded: Decoded, places: list[int], cuts: list[int]) -> list[Decoded]:
    """Parts that begin at the first message and at ``cuts``; ``places``: see ``_places``."""
    chunk = decoded.chunk
    alive = np.zeros(len(chunk.values) + 1, dtype=np.int64)
    alive[np.array(places, dtype=np.int64) + 1] = 1
    rows = np.cumsum(alive)  # before each message
    parts: list[Decoded] = []
    for start, end in pairwise([0, *cuts, len(chunk.values)]):
        row, last = int(rows[start]), int(rows[end])
        rejects = decoded.rejects[start - row : end - last]
        parts.append(Decoded(chunk.part(start, end), decoded.rows[row:last], rejects))
    return parts


class Gatherer:
    """Collects decoded messages. Only it knows where the next batch of each partition begins."""

    def __init__(
        self,
        limits: BatchLimits,
        positions: Mapping[TopicPartition, int],
        logged: Mapping[TopicPartition, int] | None = None,
        keep_raw: bool = False,
    ) -> None:
        """``positions``: per partition the offset that the ledger expects next; ``logged``: the latest record timestamp
        before that offset, in µs. ``keep_raw`` keeps the raw messages with the batch.
        """
        self._limits = limits
        self._positions = dict(positions)
        self._logged = dict(logged or {})
        self._keep_raw = keep_raw
        self._open()

    @property
    def limits(self) -> BatchLimits:
        return self._limits

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """Per partition the offset after the last one added. A copy."""
        return dict(self._positions)

    @property
    def empty(self) -> bool:
        return not self._progress

    def add(self, event: Decoded | EndOfPartition | Gap, now: float) -> None:
        """Take in the next event; the offsets of a partition must not go back."""
        if self.empty:
            self._opened_at = now
        match event:
            case Decoded():
                self._add_rows(event)
            case EndOfPartition(source, offset):
                self._skip_to(source, offset)
            case Gap(source, from_offset, to_offset):
                self._skip_to(source, from_offset)
                progress = self._progress_of(source)
                progress.missing += to_offset - progress.next_offset
                self._move(progress, source, to_offset)
                self._gaps.append(event)
            case _:
                assert_never(event)

    def full(self) -> bool:
        """Whether the batch has reached its maximum size."""
        limits = self._limits
        return (
            self._messages >= limits.max_messages
            or self._bytes >= limits.max_bytes
            or len(self._spans) >= limits.max_spans
        )

    def seconds_left(self, now: float) -> float:
        """Seconds until the open batch reaches its maximum age; 0 or less once it has."""
        return self._opened_at + self._limits.max_age_seconds - now

    def close(self) -> Batch:
        """Return the batch collected so far, and open a new one."""
        batch = Batch(
            rows={side: self._frame(side) for side in Side},
            raw=self._raw,
            rejects=self._rejects,
            gaps=self._gaps,
            progress=self._progress,
            messages=self._messages,
            opened_at=self._opened_at,
            newest_ms=self._newest_ms,
            oldest_ms=self._oldest_ms,
            events=self._events,
            hours=self._hours,
        )
        self._open()
        return batch

    def _open(self) -> None:
        self._frames: dict[Side, list[pl.DataFrame]] = {side: [] for side in Side}
        self._raw: list[Chunk] = []
        self._rejects: list[Reject] = []
        self._gaps: list[Gap] = []
        self._progress: dict[TopicPartition, Progress] = {}
        self._newest_ms: dict[TopicPartition, int] = {}
        self._oldest_ms: int | None = None
        self._messages = 0
        self._bytes = 0
        self._spans: set[int] = set()
        self._events: tuple[int, int] | None = None
        self._hours: Counter[int] = Counter()
        self._opened_at = 0.0

    def _frame(self, side: Side) -> pl.DataFrame:
        frames = self._frames[side]
        return pl.concat(frames, rechunk=True) if frames else pl.DataFrame(schema=rows_schema(side))

    def _add_rows(self, decoded: Decoded) -> None:
        chunk = decoded.chunk
        dead = Counter(reject.source for reject in decoded.rejects)
        self._frames[chunk.side].append(self._with_log_times(chunk, decoded.rows))
        for partition, count, last in chunk.last_by_partition():
            source = TopicPartition(chunk.topic, partition)
            progress, end = self._progress_of(source), int(chunk.offsets[last]) + 1
            progress.skipped += end - progress.next_offset - count  # transaction markers, compaction holes
            progress.messages += count
            progress.dead += dead[source]
            progress.logged = self._logged[source] = max(self._logged.get(source, 0), int(chunk.logged[last]))
            self._newest_ms[source] = int(chunk.timestamps_ms[last])
            self._move(progress, source, end)
        oldest = int(chunk.timestamps_ms.min())
        self._oldest_ms = oldest if self._oldest_ms is None else min(self._oldest_ms, oldest)
        self._note_times(decoded.rows["ts"].to_numpy())
        self._rejects.extend(decoded.rejects)
        self._messages += len(chunk.values)
        self._bytes += chunk.value_bytes
        self._bytes += sum(_bytes_beside_value(letter) for letter in decoded.rejects)
        if self._keep_raw:
            self._raw.append(chunk)

    def _with_log_times(self, chunk: Chunk, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, with ``logged`` no earlier than the latest record of their partition before the chunk."""
        partition, logged = rows["partition"].to_numpy(), rows["logged"].to_numpy()
        before = np.zeros(int(partition.max(initial=0)) + 1, dtype=np.int64)
        for source, micros in self._logged.items():
            if source.topic == chunk.topic and source.partition < len(before):
                before[source.partition] = micros
        return rows.with_columns(pl.Series("logged", np.maximum(logged, before[partition])))

    def _note_times(self, micros: Ints) -> None:
        if not len(micros):
            return
        first, last = int(micros.min()), int(micros.max())
        hours, counts = _by_hour(micros, first // HOUR_MICROS, last // HOUR_MICROS)
        self._hours.update(dict(zip(hours.tolist(), counts.tolist(), strict=True)))
        self._spans.update((hours * HOUR_MICROS // self._limits.span_micros).tolist())
        self._events = (
            (first, last) if self._events is None else (min(first, self._events[0]), max(last, self._events[1]))
        )

    def _skip_to(self, source: TopicPartition, offset: int) -> None:
        if offset <= self._positions[source]:
            return
        progress = self._progress_of(source)
        progress.skipped += offset - progress.next_offset
        self._move(progress, source, offset)

    def _progress_of(self, source: TopicPartition) -> Progress:
        position = self._positions[source]
        logged = self._logged.get(source, 0)
        return self._progress.setdefault(source, Progress(expected=position, next_offset=position, logged=logged))

    def _move(self, progress: Progress, source: TopicPartition, offset: int) -> None:
        progress.next_offset = offset
        self._positions[source] = offset


def _by_hour(micros: Ints, first: int, last: int) -> tuple[Ints, Ints]:
    """The hours that occur between ``first`` and ``last`` and the count of each, without a sort where the range is small."""
    hours = micros // HOUR_MICROS
    if last - first >= _HOURS_COUNTED:
        return np.unique(hours, return_counts=True)
    counts = np.bincount(hours - first)
    found = np.flatnonzero(counts)
    return found + first, counts[found]


def _bytes_beside_value(letter: Reject) -> int:
    """The bytes of a dead letter's key and headers; a valid message does not keep these."""
    return len(letter.key or b"") + sum(len(name) + len(value or b"") for name, value in letter.headers)
