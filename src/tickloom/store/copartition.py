"""Which partitions each replica reads: one replica reads everything, or several read equal partition numbers of both topics.

A symbol's windows, and the join, need all of its rows in one replica. Replicas can share the topics if every message
of a symbol comes in one partition number of both topics. Nothing promises that: keys may be missing, partitioners
differ, and some symbols move with every partition that is added. Their older messages then still wait in the old partition,
and producers that have not yet noticed the new partitions go on writing there for minutes. Therefore:

- In ``tickloom.symbols`` a symbol has a *home*: the partition number that it belongs to. A replica that shares reads no
  symbol before the symbol has its home, and stops where it meets a symbol in another partition number.
- When the partition counts have changed, or a symbol appears away from home after they once changed, one replica (the
  one to which the group gives the first partition of prices) reads everything for a while, and the others stand by. For a
  replica that reads alone, a symbol may come in any partition. Then all homes are forgotten, and the replicas share again.
- Where the counts have never changed, the topics were not made to be shared: the replica that joined later stops with a
  message that says what to change.

``tickloom.sharing`` holds the present state, and ``era`` counts its changes. One transaction reads it, changes it, and
takes over partitions in the ledger: a replica that decided in an older era notices that, or is fenced.

``enter`` decides, once a session. What it decided is a policy, ``Alone`` or ``Shared``, which the session asks about each
chunk and each batch.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import polars as pl

from tickloom.core.join import partition_of_symbols
from tickloom.core.model import Batch, Chunk, Side, TopicPartition, side_of
from tickloom.errors import AwayFromHome, NotCopartitioned, StandBy
from tickloom.settings import Settings
from tickloom.store import ledger
from tickloom.store.postgres import Connection, sql

T = TypeVar("T")
Symbols: TypeAlias = Callable[[], Awaitable[pl.Series]]
"""Computes the distinct symbols of a batch, when they are needed."""


class Role(StrEnum):
    """What a replica reads. ``EVERYTHING``: all, because the group has no other member. ``ALONE``: all, while the other
    members are on ``STANDBY`` and read nothing. ``SHARED``: its own partition numbers.
    """

    EVERYTHING = "everything"
    ALONE = "alone"
    STANDBY = "standby"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Sharing:
    """The row of ``tickloom.sharing``. ``prices`` and ``volumes``: the partition counts that it applies to. ``raised``:
    whether they have ever changed. ``alone_seconds``: for how long one replica has been reading everything because of that; None
    if no replica needs to. ``torn``: a symbol that appeared away from home.
    """

    era: int
    prices: int
    volumes: int
    raised: bool = False
    alone_seconds: float | None = None
    torn: str | None = None


@dataclass(frozen=True, slots=True)
class Stance:
    """What a replica brings from its last session. ``insists``: it read everything before the others came, and cannot share.
    ``caught_up``: it has read alone, up to the ends that the logs had when it began.
    """

    insists: bool = False
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The facts that a replica has when its session begins: its assignment, and the partition count of each topic."""

    assigned: frozenset[TopicPartition]
    counts: Mapping[str, int]
    settings: Settings
    stance: Stance = Stance()

    @property
    def everything(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(topic, at) for topic, count in self.counts.items() for at in range(count))

    @property
    def leads(self) -> bool:
        """Whether this replica is the one that reads everything if only one may read."""
        return TopicPartition(self.settings.prices_topic, 0) in self.assigned

    @property
    def may_read(self) -> frozenset[TopicPartition]:
        """The partitions that this replica may have to read, before ``decide`` has decided."""
        return self.everything if self.leads else self.assigned


# --- deciding (pure) ----------------------------------------------------------------------------------------------


def decide(noted: Sharing | None, view: View) -> tuple[Role, Sharing]:
    """The role of this replica, and the state from now on. Raises ``NotCopartitioned``."""
    settings = view.settings
    prices, volumes = (view.counts[topic] for topic in (settings.prices_topic, settings.volumes_topic))
    now = noted or Sharing(0, prices, volumes)
    if (now.prices, now.volumes) != (prices, volumes):
        now = replace(now, prices=prices, volumes=volumes, raised=True, alone_seconds=0.0, torn=None)
    if view.assigned >= view.everything:
        return Role.EVERYTHING, replace(now, torn=None)
    if view.stance.insists:
        return (Role.ALONE if view.leads else Role.STANDBY), now
    if now.alone_seconds is not None:
        over = view.stance.caught_up and view.leads and may_share(now, settings)
        if not over:
            return (Role.ALONE if view.leads else Role.STANDBY), now
        now = replace(now, alone_seconds=None)
    if now.torn is not None:
        raise NotCopartitioned.torn(now.torn)
    check_copartitioned(view)
    return Role.SHARED, now


def may_share(now: Sharing, settings: Settings) -> bool:
    """Whether one replica has read everything for long enough."""
    waited = now.alone_seconds is not None and now.alone_seconds >= settings.share_after_seconds
    return waited and now.prices == now.volumes


def check_copartitioned(view: View) -> None:
    """Raise ``NotCopartitioned`` unless the assignment is equal partition numbers of equal counts."""
    prices, volumes = view.settings.prices_topic, view.settings.volumes_topic
    counts = view.counts
    if counts[prices] != counts[volumes]:
        raise NotCopartitioned(
            f"{prices} has {counts[prices]} partitions and {volumes} {counts[volumes]}, so several replicas cannot "
            f"share them; run one replica, or give both topics the same number of partitions"
        )
    mine = {
        side: {at.partition for at in view.assigned if at.topic == topic}
        for topic, side in side_of(view.settings).items()
    }
    if mine[Side.PRICES] != mine[Side.VOLUMES]:
        raise NotCopartitioned(
            f"assigned partitions {sorted(mine[Side.PRICES])} of {prices} but {sorted(mine[Side.VOLUMES])} of {volumes}; "
            f"use partition.assignment.strategy=range (or group.remote.assignor=range) in every replica"
        )


# --- the two policies ---------------------------------------------------------------------------------------------


class Database(Protocol):
    """Runs work on a connection, and waits out outages."""

    def run(self, work: Callable[[Connection], Awaitable[T]]) -> Awaitable[T]: ...


class Alone:
    """Reads every partition of both topics, so keys and homes are free."""

    def __init__(self, era: int | None, settings: Settings, *, shares_later: bool) -> None:
        """``shares_later``: whether it reads alone only until the replicas may share again."""
        self.era = era
        """The era that the policy belongs to; None if the group has no other member, since eras do not matter then."""
        self._settings, self._shares_later = settings, shares_later

    async def admit(self, chunk: Chunk) -> None:
        """Accept every chunk: messages need no keys."""

    async def check_homes(self, batch: Batch, symbols: Symbols) -> None:
        """Accept every batch: a symbol may come in any partition."""

    def may_share(self, now: Sharing) -> bool:
        """Whether the replicas may share, once this one has caught up."""
        return self._shares_later and may_share(now, self._settings)


class Shared:
    """Reads its own partition numbers, so every message needs a key, and every symbol comes in its home."""

    def __init__(self, era: int, database: Database, most_remembered: int) -> None:
        """``database``: for the task that makes batches. ``most_remembered``: homes of symbols."""
        self.era = era
        """The era that the policy belongs to."""
        self._database, self._most_remembered = database, most_remembered
        self._homes: dict[str, int] = {}

    async def admit(self, chunk: Chunk) -> None:
        """Raise ``NotCopartitioned`` if a message has no key: it may be in any partition."""
        if any(message.key() is None for message in chunk.messages):
            raise NotCopartitioned(
                f"topic {chunk.topic} holds messages without a key, so several replicas cannot share it; "
                f"run one replica, or key the messages by symbol"
            )

    async def check_homes(self, batch: Batch, symbols: Symbols) -> None:
        """Raise ``AwayFromHome`` unless each of the batch's ``symbols`` comes in its home; new ones are given theirs.

        In that case it lets all replicas know that the symbol is torn. Waits out outages.
        """
        names = await symbols()
        found = dict(zip(names.to_list(), partition_of_symbols(batch, names).tolist(), strict=True))
        new = {symbol: at for symbol, at in found.items() if self._homes.get(symbol) != at}
        if not new:
            return
        away = next((symbol for symbol, at in new.items() if at < 0 or symbol in self._homes), None)
        if away is None:
            away = await self._database.run(partial(settle_homes, homes=new))
        if away is not None:
            await self._database.run(partial(note_torn, era=self.era, symbol=away))
            raise AwayFromHome(f"symbol {away!r} comes in two partitions")
        if len(self._homes) > self._most_remembered:
            self._homes.clear()  # memory is bounded, and the database knows them
        self._homes |= new

    def may_share(self, now: Sharing) -> bool:
        """Whether the replicas may begin to share: they do already."""
        return False


Policy: TypeAlias = Alone | Shared


@dataclass(frozen=True, slots=True)
class Entered:
    """The outcome of ``enter``. ``claims``: those of the partitions that this replica now reads. ``shares_later``: see ``Alone``."""

    role: Role
    era: int
    claims: Mapping[TopicPartition, ledger.Claim]
    shares_later: bool = False

    def policy(self, settings: Settings, database: Database) -> Policy:
        """The session's policy; ``database`` as in ``Shared``."""
        if self.role is Role.SHARED:
            return Shared(self.era, database, settings.cache_max_symbols)
        era = None if self.role is Role.EVERYTHING else self.era
        return Alone(era, settings, shares_later=self.shares_later)


# --- the database -------------------------------------------------------------------------------------------------


async def enter(connection: Connection, view: View, first_offsets: Mapping[TopicPartition, int], owner: str) -> Entered:
    """Decide which partitions to read, and take them over, in one transaction.

    ``first_offsets``: where the logs of ``view.may_read`` begin. Raises ``StandBy`` if this replica reads nothing for now,
    ``NotCopartitioned``, ``StoreUnavailable`` (``LockHeld`` after the holder's session was ended: try again), ``Mistake``.
    """
    async with ledger.taking_over(connection, list(first_offsets), _LOCK) as row:
        noted = None if row is None else Sharing(*row)
        role, now = decide(noted, view)
        changed = noted is None or now != noted
        if changed:
            now = replace(now, era=now.era + 1)
            await connection.execute(_NOTE, now.era, now.prices, now.volumes, now.raised, now.alone_seconds, now.torn)
        claims: dict[TopicPartition, ledger.Claim] = {}
        if role is not Role.STANDBY:
            # If one replica has read everything until now, take over all partitions: its batch in flight must be fenced.
            forget_homes = role is not Role.SHARED or (changed and noted is not None)
            wanted = view.everything if forget_homes else view.assigned
            claims = await ledger.claim(connection, {at: first_offsets[at] for at in wanted}, owner)
            if forget_homes:
                await connection.execute("UPDATE tickloom.symbols SET home = NULL WHERE home IS NOT NULL")
    if role is Role.STANDBY:
        raise StandBy(now.era)
    mine = view.assigned if role is Role.SHARED else view.everything
    shares_later = role is Role.ALONE and not view.stance.insists
    return Entered(role, now.era, {at: claim for at, claim in claims.items() if at in mine}, shares_later)


async def settle_homes(connection: Connection, homes: Mapping[str, int]) -> str | None:
    """Store the homes of those symbols that have none. Returns a symbol whose home is another one; None if there is none.

    Raises ``StoreUnavailable``.
    """
    symbols = sorted(homes)  # so that replicas do not wait for each other in circles
    numbers = [homes[symbol] for symbol in symbols]
    without_home = await connection.fetch(_WITHOUT_HOME, symbols, numbers)
    if without_home:
        await connection.execute(_SETTLE, *map(list, zip(*without_home, strict=True)))
    return await connection.fetchval(_AWAY, symbols, numbers)


async def note_torn(connection: Connection, era: int, symbol: str) -> None:
    """Let all replicas know that a symbol appeared away from home. Raises ``StoreUnavailable``."""
    await connection.execute(_NOTE_TORN, era, symbol)


async def read_sharing(connection: Connection) -> Sharing | None:
    """The present state; None before the first replica has entered. Raises ``StoreUnavailable``."""
    row = await connection.fetchrow(_READ)
    return None if row is None else Sharing(*row)


_READ = (
    "SELECT era, prices_partitions, volumes_partitions, raised, "
    "extract(epoch FROM clock_timestamp() - alone_since)::float8, torn FROM tickloom.sharing"
)
_LOCK = f"{_READ} FOR UPDATE"
_NOTE = sql("note_sharing")
_NOTE_TORN = sql("note_torn")
_WITHOUT_HOME = """
    SELECT w.symbol, w.home FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    LEFT JOIN tickloom.symbols s ON s.symbol = w.symbol WHERE s.home IS NULL ORDER BY 1
"""
# These symbols have no rows yet, so their ``since`` is infinite.
_SETTLE = """
    INSERT INTO tickloom.symbols AS s (symbol, home, since)
    SELECT symbol, home, 'infinity' FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    ON CONFLICT (symbol) DO UPDATE SET home = coalesce(s.home, excluded.home)
"""
_AWAY = """
    SELECT symbol FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    JOIN tickloom.symbols s USING (symbol) WHERE s.home <> w.home LIMIT 1
"""
