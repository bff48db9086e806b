"""The pure core as one object: gather → tails → join → encode. Synchronous; no I/O, no clock, no thread of its own.

Daemon, drain, bench and tests all drive this object:

    engine.add(event, now)                              # decoded rows, ends of partitions, gaps
    if engine.due(now):
        batch = engine.close()
        while (need := engine.needs(batch)) is not None:
            engine.supply(need, …)                      # the driver fetches what the engine asks for
        work = engine.work(batch, now_micros)           # averages, joined and revised rows, as COPY streams
        …                                               # the driver loads it
        engine.committed()

The engine says what it needs and never fetches it: the driver decides whether rows come from Postgres, over which connection,
and what runs off the event loop. One task makes batches; ``committed`` is the only method that another one may call meanwhile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.arrays import Ints
from tickloom.core.encode import Work, encode_batch, without_expired
from tickloom.core.gather import Gatherer, parts_of
from tickloom.core.join import Begun, Joined, begin, finish, symbols_of
from tickloom.core.merge import Around
from tickloom.core.model import ANALYTICS, Batch, Decoded, EndOfPartition, Gap, Side, TopicPartition
from tickloom.core.outputs import Output
from tickloom.core.tails import Loaded, Points, Tails
from tickloom.core.touched import Touched, touched_by
from tickloom.settings import Partitioning

_ROWS_SUPPLIED_AT_ONCE = 1 << 18
"""Of one side's tails: each takes a hundred bytes on its way from Postgres into its ring."""


@dataclass(frozen=True, slots=True)
class NewestRows:
    """The newest ``most`` rows of each of ``symbols``, both sides. Supply a mapping of side to ``tails.Loaded``."""

    symbols: list[str]
    most: int

    def nothing(self) -> Mapping[Side, Loaded]:
        """The answer where the tables are empty."""
        return dict.fromkeys(Side, Loaded.nothing(len(self.symbols)))


@dataclass(frozen=True, slots=True)
class RowsAround:
    """The stored rows around late ones: ``merge.Around`` has their columns. Supply a ``Stored``.

    ``points``: per side the late rows' (code, ts); a code is an index into ``symbols``. ``since``: per code an event time (µs)
    that no stored row precedes.
    """

    symbols: list[str]
    points: Mapping[Side, Points]
    since: Ints


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to ``RowsAround``. ``repairs``: how many repairs the tables had seen before it was read."""

    around: Around
    repairs: int | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """Which event times (µs) of ``table`` lie in a detached partition. Supply an array of booleans, one a time."""

    table: str
    micros: Ints

    def none(self) -> NDArray[np.bool_]:
        """The answer where no partition was detached."""
        return np.zeros(len(self.micros), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of batch number ``through`` of this engine. Supply None once it is committed."""

    through: int


Need: TypeAlias = NewestRows | RowsAround | Expiry | Commit


@dataclass(slots=True)
class _Making:
    """The batch in progress."""

    batch: Batch
    number: int
    symbols: pl.Series | None = None
    waiting: list[str] | None = None  # symbols without tails, once there is room for them
    rows_each: int = 0  # of each of these
    begun: Begun | None = None
    stored: Stored | None = None
    joined: Joined | None = None
    expiry_known: bool = False
    touched: list[Touched] | None = None
    """The keys of derived outputs; the last ``unasked`` of them have not been asked about yet."""
    unasked: int = 0


class Engine:
    """See the module. ``gatherer`` and ``tails`` belong to the engine from now on."""

    def __init__(
        self,
        gatherer: Gatherer,
        tails: Tails,
        widths: Mapping[str, Partitioning],
        *,
        joins: bool = True,
        outputs: Sequence[Output] = (),
    ) -> None:
        """``widths``: how each output table is partitioned. ``joins=False`` leaves the join to the batch's writer.
        ``outputs``: the derived ones.
        """
        self._outputs = outputs
        self._gatherer = gatherer
        self._tails = tails
        self._widths = widths
        self._joins = joins
        self._making: _Making | None = None
        self._made = 0

    # --- gather ---------------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nothing is gathered."""
        return self._gatherer.empty

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """Per Kafka partition the offset after the last one added. A copy."""
        return self._gatherer.positions

    @property
    def symbols_cached(self) -> int:
        return len(self._tails)

    def parts(self, decoded: Decoded) -> list[Decoded]:
        """``decoded``, cut where one batch may not hold it; mostly whole."""
        return parts_of(decoded, self._gatherer.limits)

    def add(self, event: Decoded | EndOfPartition | Gap, now: float) -> None:
        """Take in the next event; offsets must not go back. ``now`` in monotonic seconds."""
        self._gatherer.add(event, now)

    def full(self) -> bool:
        """Whether the batch must be closed before anything is added."""
        return self._gatherer.full()

    def seconds_left(self, now: float) -> float:
        """Seconds until the batch reaches its maximum age; 0 or less once it has."""
        return self._gatherer.seconds_left(now)

    def due(self, now: float, *, busy: bool = False) -> bool:
        """Whether to close the batch: it is full, or old enough. While the loader is ``busy`` an old one may go on growing."""
        if self.empty:
            return False
        return self.full() or (not busy and self.seconds_left(now) <= 0)

    def close(self) -> Batch:
        """Return the batch gathered so far, and open a new one."""
        return self._gatherer.close()

    # --- join -----------------------------------------------------------------------------------------------------

    def symbols(self, batch: Batch) -> pl.Series:
        """The batch's distinct symbols, in the order of their UTF-8 bytes."""
        making = self._of(batch)
        if making.symbols is None:
            making.symbols = symbols_of(batch)
        return making.symbols

    def needs(self, batch: Batch) -> Need | None:
        """What must be supplied before ``work``, one thing at a time; None when nothing is missing. CPU bound.

        Between the first call for a batch and its ``work`` no other batch may be asked for.
        """
        if not self._joins:
            return None
        making = self._of(batch)
        if making.begun is None:
            if (need := self._needs_tails(making)) is not None:
                return need
            making.begun = begin(batch, self.symbols(batch), self._tails, making.number)
        if making.joined is None:
            if making.begun.needs_tables and making.stored is None:
                return self._needs_stored(making, making.begun)
            making.joined = finish(making.begun, self._tails, None if making.stored is None else making.stored.around)
        if not making.expiry_known and len(making.joined.pairs):
            return Expiry(ANALYTICS.name, making.joined.pairs["ts"].to_numpy())
        return self._needs_derived(making, making.joined)

    def supply(self, need: Need, answer: Any) -> None:
        """Answer what ``needs`` has asked for. The docstring of each need says with what."""
        making = self._making
        assert making is not None, "nothing was asked for"
        match need:
            case NewestRows(symbols):
                self._tails.insert(symbols, answer)
            case RowsAround():
                making.stored = answer
            case Expiry(table, micros) if table != ANALYTICS.name:
                assert making.touched is not None
                making.touched[-making.unasked] = making.touched[-making.unasked].without(micros[answer])
                making.unasked -= 1
            case Expiry():
                making.expiry_known = True
                assert making.joined is not None
                making.joined = without_expired(making.joined, answer)
            case Commit():
                pass
            case _:
                assert_never(need)

    def work(self, batch: Batch, now_micros: int) -> Work:
        """The batch as COPY streams, once ``needs`` says None. ``now_micros`` becomes ``processed_at``. CPU bound."""
        making, self._making = self._of(batch), None
        if not self._joins:
            return Work(batch, None)
        assert making.joined is not None, "something it needs was not supplied"
        encoded = encode_batch(making.joined, now_micros, self._widths, making.touched or ())
        stored = making.stored
        # Three batches may be in memory at once: an encoded one is not kept as rows too.
        return Work(replace(batch, rows={}), encoded, stored is not None, None if stored is None else stored.repairs)

    def joined(self, batch: Batch) -> Joined:
        """The rows that ``work`` is about to encode."""
        joined = self._of(batch).joined
        assert joined is not None, "something it needs was not supplied"
        return joined

    def committed(self) -> None:
        """Note that one more batch is committed; batches are committed in the order in which they were made."""
        self._tails.committed += 1

    @property
    def batches_committed(self) -> int:
        return self._tails.committed

    def _of(self, batch: Batch) -> _Making:
        if self._making is None or self._making.batch is not batch:
            self._made += 1
            self._making = _Making(batch, self._made)
        return self._making

    def _needs_tails(self, making: _Making) -> Need | None:
        """Symbols of the batch whose newest rows are not cached, once the cache has room for them."""
        tails = self._tails
        if making.waiting is None:
            symbols = self.symbols(making.batch).to_list()
            missing = tails.missing(symbols)
            if tails.evict(len(missing)):
                missing = tails.missing(symbols)  # the eviction may have hit some that this batch needs
            fits = len(tails) + len(missing) <= tails.max_symbols
            if missing and not fits and tails.committed < making.number - 1:
                # Symbols of batches in flight must stay; without a wait their number would come on top of the bound.
                return Commit(tails.committed + 1)
            making.waiting = missing
            making.rows_each = tails.reserve(len(missing)) if missing else 1
        count = max(1, _ROWS_SUPPLIED_AT_ONCE // making.rows_each)
        some, making.waiting = making.waiting[:count], making.waiting[count:]
        return NewestRows(some, making.rows_each) if some else None

    def _needs_derived(self, making: _Making, joined: Joined) -> Need | None:
        """Which keys of derived outputs have lost their partition, one output at a time."""
        if making.touched is None:
            making.touched = touched_by(joined, self._outputs)
            making.unasked = len(making.touched)
        if not making.unasked:
            making.touched = [one for one in making.touched if len(one.keys)]
            return None
        one = making.touched[-making.unasked]
        return Expiry(one.output.name, one.starts)

    def _needs_stored(self, making: _Making, begun: Begun) -> Need:
        """The stored rows around late ones. All earlier batches must be committed first."""
        if self._tails.committed < making.number - 1:
            return Commit(making.number - 1)
        return RowsAround(begun.symbols.to_list(), begun.deep, begun.since)
