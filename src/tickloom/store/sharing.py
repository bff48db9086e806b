"""Who may read what: everything alone, or equal partition numbers of both topics beside other replicas.

A symbol's windows, and the join, need all of its rows in one place. Replicas can share the topics where every message of a
symbol comes in one partition number of both. Nothing promises that: keys may be missing, partitioners differ, and with
every partition that is added some symbols move, while their older messages still wait where they were, and producers
that have not yet heard of it go on there for minutes. So:

- In ``tickloom.symbols`` a symbol has a *home*, the partition number that it belongs to. A replica that shares reads no
  symbol before it has its home, and stops where that is another number than the one that it comes in.
- When the partition counts have changed, or a symbol is met away from home after they once did, one replica (the one to
  which the group gives the first partition of prices) reads everything for a while, and the others stand by. What one
  replica reads alone may come in any partition. Then the homes are forgotten, and they share again.
- Where the counts never changed the topics are not made to be shared: who came later stops, and says what to change.

``tickloom.sharing`` says how it stands, and ``era`` counts its changes. It is looked at, changed and acted on by one
transaction with the take-over in the ledger: whoever decided by an older era finds that out, or is fenced.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from tickloom.core.model import Side, TopicPartition, side_of
from tickloom.errors import NotCopartitioned
from tickloom.settings import Settings
from tickloom.store import ledger
from tickloom.store.postgres import Connection


class Policy(StrEnum):
    """What a replica reads. ``EVERYTHING``: the group has nobody else. ``ALONE``: all of it, though others are there, which are
    on ``STANDBY`` meanwhile. ``SHARED``: its own partition numbers.
    """

    EVERYTHING = "everything"
    ALONE = "alone"
    STANDBY = "standby"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Sharing:
    """The row of ``tickloom.sharing``: the partition counts that it is about; whether they have ever changed; for how many
    seconds one replica has been reading everything for that (None: it need not); a symbol that was met away from home.
    """

    era: int
    prices: int
    volumes: int
    raised: bool = False
    alone_seconds: float | None = None
    torn: str | None = None


@dataclass(frozen=True, slots=True)
class Stance:
    """``insists``: this replica had everything before the others came, and cannot share. ``caught_up``: it has read alone, and
    all that was there when it began to.
    """

    insists: bool = False
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What a replica knows as its session begins: what the group has given it, and how many partitions there are."""

    assigned: frozenset[TopicPartition]
    counts: Mapping[str, int]
    settings: Settings
    stance: Stance = Stance()

    @property
    def everything(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(topic, at) for topic, count in self.counts.items() for at in range(count))

    @property
    def leads(self) -> bool:
        return TopicPartition(self.settings.prices_topic, 0) in self.assigned


@dataclass(frozen=True, slots=True)
class Entered:
    """What ``enter`` came to; ``claims`` are of the partitions that this replica now reads."""

    policy: Policy
    era: int
    claims: Mapping[TopicPartition, ledger.Claim]


def decide(noted: Sharing | None, view: View) -> tuple[Policy, Sharing]:
    """What this replica reads, and how it stands from now on. Pure. Raises ``NotCopartitioned``."""
    settings = view.settings
    prices, volumes = (view.counts[topic] for topic in (settings.prices_topic, settings.volumes_topic))
    now = noted or Sharing(0, prices, volumes)
    if (now.prices, now.volumes) != (prices, volumes):
        now = replace(now, prices=prices, volumes=volumes, raised=True, alone_seconds=0.0, torn=None)
    if view.assigned >= view.everything:
        return Policy.EVERYTHING, replace(now, torn=None)
    if view.stance.insists:
        return (Policy.ALONE if view.leads else Policy.STANDBY), now
    if now.alone_seconds is not None:
        over = view.stance.caught_up and view.leads and may_share(now, settings)
        if not over:
            return (Policy.ALONE if view.leads else Policy.STANDBY), now
        now = replace(now, alone_seconds=None)
    if now.torn is not None:
        raise NotCopartitioned.torn(now.torn)
    check_copartitioned(view)
    return Policy.SHARED, now


def may_share(now: Sharing, settings: Settings) -> bool:
    """Whether one replica has read everything for long enough. Pure."""
    waited = now.alone_seconds is not None and now.alone_seconds >= settings.share_after_seconds
    return waited and now.prices == now.volumes


def check_copartitioned(view: View) -> None:
    """Raise ``NotCopartitioned`` unless the assignment is equal partition numbers of equal counts. Pure."""
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


async def enter(connection: Connection, view: View, first_offsets: Mapping[TopicPartition, int], owner: str) -> Entered:
    """Decide what to read, and take it over, in one transaction.

    ``first_offsets``: where the logs of all partitions begin that may come to be read (``wanted_offsets``).
    Raises ``NotCopartitioned``, ``StoreUnavailable`` (``LockHeld`` once the holder was told to end: try again), ``Mistake``.
    """
    async with ledger.taking_over(connection, list(first_offsets), _LOCK) as row:
        noted = None if row is None else Sharing(*row)
        policy, now = decide(noted, view)
        changed = noted is None or now != noted
        if changed:
            now = replace(now, era=now.era + 1)
            await connection.execute(_NOTE, now.era, now.prices, now.volumes, now.raised, now.alone_seconds, now.torn)
        if policy is Policy.STANDBY:
            return Entered(policy, now.era, {})
        # Where one replica has read everything until now, all of it is taken over: nothing more of that may be written.
        forget_homes = policy is not Policy.SHARED or (changed and noted is not None)
        wanted = view.everything if forget_homes else view.assigned
        claims = await ledger.claim(connection, {at: first_offsets[at] for at in wanted}, owner)
        if forget_homes:
            await connection.execute("UPDATE tickloom.symbols SET home = NULL WHERE home IS NOT NULL")
    mine = view.assigned if policy is Policy.SHARED else view.everything
    return Entered(policy, now.era, {at: claim for at, claim in claims.items() if at in mine})


def wanted_offsets(view: View) -> frozenset[TopicPartition]:
    """The partitions that a replica may come to read, whatever is decided."""
    return view.everything if view.leads else view.assigned


async def settle_homes(connection: Connection, homes: Mapping[str, int]) -> str | None:
    """Give these symbols their homes, where they have none; one that is at home somewhere else, if there is any.

    Raises ``StoreUnavailable``.
    """
    symbols = sorted(homes)  # so that replicas do not wait for each other in circles
    numbers = [homes[symbol] for symbol in symbols]
    homeless = await connection.fetch(_HOMELESS, symbols, numbers)
    if homeless:
        names, theirs = zip(*homeless, strict=True)
        await connection.execute(_SETTLE, list(names), list(theirs))
    return await connection.fetchval(_AWAY, symbols, numbers)


async def note_torn(connection: Connection, era: int, symbol: str) -> None:
    """Tell all replicas that a symbol was met away from home. Raises ``StoreUnavailable``."""
    await connection.execute(_NOTE_TORN, era, symbol)


async def look(connection: Connection) -> Sharing | None:
    """How it stands. Raises ``StoreUnavailable``."""
    row = await connection.fetchrow(_LOOK)
    return None if row is None else Sharing(*row)


_LOOK = (
    "SELECT era, prices_partitions, volumes_partitions, raised, "
    "extract(epoch FROM clock_timestamp() - alone_since)::float8, torn FROM tickloom.sharing"
)
_LOCK = f"{_LOOK} FOR UPDATE"
_NOTE = """
    INSERT INTO tickloom.sharing AS s (era, prices_partitions, volumes_partitions, raised, alone_since, torn)
    VALUES ($1, $2, $3, $4, clock_timestamp() - make_interval(secs => $5), $6)
    ON CONFLICT (one) DO UPDATE SET
        era = excluded.era,
        prices_partitions = excluded.prices_partitions,
        volumes_partitions = excluded.volumes_partitions,
        raised = excluded.raised,
        alone_since = excluded.alone_since,
        torn = excluded.torn
"""
_NOTE_TORN = """
    UPDATE tickloom.sharing SET
        era = era + 1,
        alone_since = CASE WHEN raised THEN clock_timestamp() END,
        torn = CASE WHEN NOT raised THEN $2 END
    WHERE era = $1
"""
_HOMELESS = """
    SELECT w.symbol, w.home FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    LEFT JOIN tickloom.symbols s ON s.symbol = w.symbol WHERE s.home IS NULL ORDER BY 1
"""
# A symbol that has no rows yet is known from then on, as one without any.
_SETTLE = """
    INSERT INTO tickloom.symbols AS s (symbol, home, since)
    SELECT symbol, home, 'infinity' FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    ON CONFLICT (symbol) DO UPDATE SET home = coalesce(s.home, excluded.home)
"""
_AWAY = """
    SELECT symbol FROM unnest($1::text[], $2::int[]) AS w (symbol, home)
    JOIN tickloom.symbols s USING (symbol) WHERE s.home <> w.home LIMIT 1
"""
