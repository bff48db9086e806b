"""``Replica``: everything that a session shares with the process that it runs in."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tickloom.core.quality import RefusalWatch, RejectLimits
from tickloom.daemon.outages import Outages
from tickloom.observe.events import Events
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings
from tickloom.source.membership import Member
from tickloom.store.partitions import Partitioner
from tickloom.store.store import Store


@dataclass(slots=True)
class Replica:
    """Outlives the sessions; each field takes care of its own state.

    ``owner`` names the replica in the ledger. ``executor`` has one thread, for CPU work. Sessions publish their progress to
    ``events``; to ``metrics`` they write only the counts and times of single stages. ``refused`` remembers which tables
    have refused rows lately.
    """

    settings: Settings
    owner: str
    member: Member
    partitioner: Partitioner
    executor: ThreadPoolExecutor
    events: Events
    outages: Outages
    metrics: Metrics
    refused: RefusalWatch = field(init=False)

    def __post_init__(self) -> None:
        self.refused = RefusalWatch(self.reject_limits)

    @property
    def reject_limits(self) -> RejectLimits:
        """The share of rejects above which the stream or a table cannot be the one that the settings mean."""
        return RejectLimits(self.settings.reject_limit_ratio, self.settings.reject_limit_min_messages)

    def store(self, *, writes_ledger: bool = False) -> Store:
        """A new connection that outlasts outages; it opens when it is first used."""
        return Store(self.settings, self.outages, ledger_owner=self.owner if writes_ledger else None)
