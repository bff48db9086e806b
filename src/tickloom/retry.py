"""How long to wait between attempts: exponential backoff with jitter. Pure; ``patience.py`` does the waiting."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Self

from tickloom.settings import Settings


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The first wait is up to ``initial_seconds``; the limit doubles with each attempt, up to ``max_seconds``."""

    initial_seconds: float
    max_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The policy that the settings ask for."""
        return cls(settings.retry_initial_seconds, settings.retry_max_seconds)

    def waits(self, random: Random) -> Iterator[float]:
        """Endless waits in seconds, each drawn from the upper half of its limit, so that replicas do not retry all at once."""
        limit = self.initial_seconds
        while True:
            yield limit * (0.5 + random.random() / 2)
            limit = min(limit * 2, self.max_seconds)


class Backoff:
    """Waits that grow with each failure and start over after a success."""

    def __init__(self, policy: RetryPolicy, random: Random) -> None:
        self._policy, self._random = policy, random
        self.reset()

    def failed(self) -> float:
        """How many seconds to wait after one more failure."""
        return next(self._waits)

    def reset(self) -> None:
        """Something succeeded: the next wait is a short one again."""
        self._waits = self._policy.waits(self._random)
