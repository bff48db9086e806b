"""How a session begins: it takes over the partitions that the assignment and the other replicas leave to it, and reads from
the ledger's offsets.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from tickloom.core.model import Gap, TopicPartition
from tickloom.daemon.mode import Mode
from tickloom.daemon.replica import Replica
from tickloom.daemon.session import Session, Takeover
from tickloom.errors import SourceUnavailable, TopicMissing
from tickloom.logs import Logger
from tickloom.observe.events import TookOver
from tickloom.settings import Settings
from tickloom.source.cluster import Cluster, Topics
from tickloom.source.reader import Reader, find_gap
from tickloom.store import copartition, ledger
from tickloom.store.copartition import Stance, View
from tickloom.store.locks import lock_budget
from tickloom.store.source_claim import claim_source
from tickloom.store.store import Store

_log = Logger(__name__)
T = TypeVar("T")


@asynccontextmanager
async def open_session(
    replica: Replica,
    assigned: frozenset[TopicPartition],
    stance: Stance,
    ends: Mapping[TopicPartition, int] | None,
    mode: Mode,
    max_messages: int | None = None,
) -> AsyncGenerator[Session]:
    """Yields a session that reads, and closes everything that it holds at the end of the block.

    ``ends``, ``max_messages``: see ``Takeover``. Raises ``StandBy``, ``NotCopartitioned``, ``LogLost``,
    ``SourceUnavailable``, ``Mistake``.
    """
    loop, settings = asyncio.get_running_loop(), replica.settings
    topics = Topics(settings)
    cluster: Cluster = await loop.run_in_executor(None, _ask, topics.describe)
    view = View(assigned, cluster.partitions, settings, stance)
    reader = Reader(settings, view.may_read)
    store = replica.store(writes_ledger=True)
    try:
        takeover = await _take_over(replica, view, cluster, topics, reader, store)
        session = Session(replica, takeover.bounded(ends, max_messages), mode)
        for gap in takeover.gaps:
            session.engine.add(gap, session.now())
        reader.start(session.engine.positions)
        try:
            yield session
        finally:
            await session.close()
    finally:
        try:
            await store.close()
        finally:
            await asyncio.shield(loop.run_in_executor(None, _close, reader, topics))


async def _take_over(
    replica: Replica, view: View, cluster: Cluster, topics: Topics, reader: Reader, store: Store
) -> Takeover:
    settings = replica.settings
    await store.run(lambda connection: claim_source(connection, settings, cluster.cluster_id, cluster.topic_ids))
    marks = await asyncio.get_running_loop().run_in_executor(None, reader.watermarks)
    firsts = {at: low for at, (low, _) in marks.items()}
    entered = await store.run(lambda connection: copartition.enter(connection, view, firsts, replica.owner))
    gaps = _gaps(entered.claims, marks, settings)
    replica.partitioner.forget()  # other replicas may have created and filled partitions since
    budget = await store.run(lock_budget)
    replica.events.publish(TookOver({at: claim.next_offset for at, claim in entered.claims.items()}))
    _log.info(
        "took over",
        policy=entered.role.value,
        partitions=len(entered.claims),
        messages=sum(marks[at][1] - claim.next_offset for at, claim in entered.claims.items()),
    )
    return Takeover(reader, store, entered, topics, cluster.topic_ids, marks, gaps, budget)


def _close(reader: Reader, topics: Topics) -> None:
    reader.stop()
    topics.close()


def _ask(question: Callable[[], T]) -> T:
    """The answer about the topics. Blocks. A missing topic existed when the daemon started, so it counts as an outage."""
    try:
        return question()
    except TopicMissing as error:
        raise SourceUnavailable(str(error)) from error


def _gaps(
    claims: Mapping[TopicPartition, ledger.Claim], marks: Mapping[TopicPartition, tuple[int, int]], settings: Settings
) -> list[Gap]:
    """The offsets from the ledger's next ones on that retention has removed. Raises ``LogLost`` if the policy is to halt."""
    gaps = [find_gap(at, claim.next_offset, *marks[at], settings.gap_policy) for at, claim in sorted(claims.items())]
    return [gap for gap in gaps if gap is not None]
