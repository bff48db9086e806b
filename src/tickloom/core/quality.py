"""Decides when rejects are too many to be bad data: the topic is the wrong one, or a table refuses everything. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from tickloom.core.model import Decoded, Side
from tickloom.errors import TooManyRejects

_NEARLY_ALL, _ENOUGH_ROWS = 0.9, 10


@dataclass(frozen=True, slots=True)
class RejectLimits:
    """The share of rejects among recent messages above which the stream must be a wrong one, and the least count to judge by."""

    ratio: float
    min_messages: int


class RejectWatch:
    """Counts the recent messages of each side. The count is halved once it reaches ten times the least count."""

    def __init__(self, limits: RejectLimits) -> None:
        self._limits = limits
        self._messages: Counter[Side] = Counter()
        self._rejects: Counter[Side] = Counter()
        self._reasons: dict[Side, Counter[str]] = {side: Counter() for side in Side}

    def see(self, decoded: Decoded) -> None:
        """Count a chunk. Raises ``TooManyRejects`` when too many of the recent messages of its side are rejects."""
        side, topic = decoded.chunk.side, decoded.chunk.topic
        self._messages[side] += len(decoded.chunk.values)
        self._rejects[side] += len(decoded.rejects)
        self._reasons[side].update(reject.reason.value for reject in decoded.rejects)
        limits, messages, rejects = self._limits, self._messages[side], self._rejects[side]
        if messages >= limits.min_messages and rejects > limits.ratio * messages:
            common = ", ".join(f"{reason} {count}" for reason, count in self._reasons[side].most_common(3))
            raise TooManyRejects(
                f"{rejects} of the last {messages} messages of {topic} were rejected ({common}); nothing of their "
                f"batch was stored. Check TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC and the producer; "
                f"TICKLOOM_REJECT_LIMIT_RATIO=1 accepts any share"
            )
        if messages > 10 * limits.min_messages:
            self._messages[side] //= 2
            self._rejects[side] //= 2


class Verdict(Enum):
    """Why Postgres refuses rows. ``UNCLEAR``: it refused nearly all of them, but they are too few to tell."""

    DATA = auto()
    UNCLEAR = auto()
    TABLE = auto()


class RefusalWatch:
    """Counts the rows that Postgres tried and refused, per stream of a batch (new rows of a table, corrected ones, and so on).
    A batch of which Postgres took more than a few rows sets the count back.

    The table is at fault where it refuses nearly all of ten rows or more, or a share that would be too large for rejects.
    """

    def __init__(self, limits: RejectLimits) -> None:
        self._limits = limits
        self._tried: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def judge(self, stream: str, tried: int, refused: int) -> Verdict:
        """The verdict on a batch of which Postgres refused ``refused`` of the ``tried`` rows of a stream."""
        limits = self._limits
        if refused > max(limits.ratio * tried, limits.min_messages):
            return Verdict.TABLE
        tried, refused = self._tried[stream] + tried, self._refused[stream] + refused
        if not self._nearly_all(tried, refused):
            return Verdict.DATA
        return Verdict.TABLE if tried >= _ENOUGH_ROWS else Verdict.UNCLEAR

    def note(self, tried: Mapping[str, int], refused: Mapping[str, int]) -> None:
        """Count a committed batch: rows tried and refused, by stream."""
        for stream, count in tried.items():
            if self._nearly_all(count, refused.get(stream, 0)):
                self._tried[stream] += count
                self._refused[stream] += refused.get(stream, 0)
            elif self._tried:
                del self._tried[stream], self._refused[stream]

    def _nearly_all(self, tried: int, refused: int) -> bool:
        return refused > max(self._limits.ratio, _NEARLY_ALL) * tried
