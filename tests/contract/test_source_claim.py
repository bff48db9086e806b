"""Tables belong to one cluster, one pair of topics and one group: against a real Postgres."""

import pytest

from tickloom.errors import WrongSource
from tickloom.settings import Settings
from tickloom.store.postgres import Connection
from tickloom.store.source_claim import claim_source


async def test_another_source_is_refused(settings: Settings, connection: Connection) -> None:
    """The tables would mix the logs of two clusters."""
    await claim_source(connection, settings, "one")
    await claim_source(connection, settings, "one")
    with pytest.raises(WrongSource, match="cluster_id 'one', not 'two'"):
        await claim_source(connection, settings, "two")


async def test_a_refused_replica_notes_nothing(settings: Settings, connection: Connection) -> None:
    """A daemon of another cluster that is started after an upgrade would write down its topics and group, and the right daemon would be refused."""
    await claim_source(connection, settings, "one")
    await connection.execute("UPDATE tickloom.source SET group_id = NULL")  # as an earlier version has left it
    stranger = settings.model_copy(update={"kafka_group_id": "stranger"})
    theirs = dict.fromkeys((settings.prices_topic, settings.volumes_topic), "an id")
    with pytest.raises(WrongSource, match="cluster_id"):
        await claim_source(connection, stranger, "two", theirs)
    ids = dict.fromkeys(theirs, "another id")
    await claim_source(connection, settings, "one", ids)
    with pytest.raises(WrongSource, match="filled by the group 'tickloom', not 'stranger'"):
        await claim_source(connection, stranger, "one", ids)
