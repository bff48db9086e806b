"""What replicas know when they decide which of them may read what."""

from tickloom.core.model import TopicPartition
from tickloom.settings import Settings
from tickloom.store.copartition import Stance, View

SETTINGS = Settings(share_after_seconds=60)


def view(prices: set[int], volumes: set[int], counts: tuple[int, int] = (4, 4), stance: Stance | None = None) -> View:
    """What a replica with these partitions knows."""
    assigned = frozenset(
        {TopicPartition("stock_prices", n) for n in prices} | {TopicPartition("stock_volumes", n) for n in volumes}
    )
    names = ("stock_prices", "stock_volumes")
    return View(assigned, dict(zip(names, counts, strict=True)), SETTINGS, stance or Stance())


FIRST_HALF, SECOND_HALF = view({0, 1}, {0, 1}), view({2, 3}, {2, 3})
