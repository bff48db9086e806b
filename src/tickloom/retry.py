"""How long to wait between tries of an outage: exponential backoff with full jitter. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class RetryPolicy:
    """``initial_seconds`` doubles up to ``max_seconds``; each wait is drawn from its upper half."""

    initial_seconds: float
    max_seconds: float

    def waits(self, random: Random) -> Iterator[float]:
        """Endless waits in seconds. Half fixed, half jitter: replicas spread, none hammers."""
        ceiling = self.initial_seconds
        while True:
            yield ceiling * (0.5 + random.random() / 2)
            ceiling = min(ceiling * 2, self.max_seconds)
