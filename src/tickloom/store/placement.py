"""Finds the partition of each decoded row, or makes it. A row that gets none becomes a dead letter."""

from tickloom.core.decode import without
from tickloom.core.model import FEEDS, Decoded, Reason
from tickloom.core.partitioning import FarLimit
from tickloom.core.timestamps import LATEST, MICROSECONDS
from tickloom.logs import Logger
from tickloom.settings import Settings
from tickloom.store.partitions import Partitioner
from tickloom.store.supplier import Supplier

_log = Logger(__name__)


class Placement:
    """Asks through ``supplier``; one task uses it at a time."""

    def __init__(self, supplier: Supplier, partitioner: Partitioner, settings: Settings) -> None:
        self._supplier = supplier
        self._partitioner = partitioner
        self._max_ahead_seconds = settings.event_max_ahead_seconds
        self._most_ahead = settings.partitions_far_ahead

    async def place(self, decoded: Decoded, now_micros: int) -> Decoded:
        """``decoded``, with rejects in place of rows whose partition was detached, or that lie too far ahead of ``now_micros``.

        Partitions of all other rows exist afterwards. Raises ``StateSpoilt``, ``Mistake``, and what the supplier raises.
        """
        table, micros = FEEDS[decoded.chunk.side].table.name, decoded.rows["ts"].to_numpy()
        far = FarLimit(min(now_micros + round(self._max_ahead_seconds * MICROSECONDS), LATEST), self._most_ahead)
        expired = await self._supplier.expired(table, micros, far)
        too_far = self._partitioner.too_far(table, micros, far)
        if expired.any():
            names = [part.name for part in self._partitioner.detached]
            _log.warning("the partition of some rows was detached", rows=int(expired.sum()), partitions=names)
            detail = f"the partition of {table} for the event's time was detached"
            decoded = without(decoded, expired, Reason.EXPIRED, detail)
        if too_far.any():
            _log.warning("events lie too far ahead of now", rows=int(too_far.sum()), table=table)
            detail = f"the event lies ahead of now, and {table} already has {far.most} partitions that far ahead"
            decoded = without(decoded, too_far[~expired], Reason.OUT_OF_BOUNDS, detail)
        return decoded
