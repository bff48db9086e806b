"""Records what the tables were made from: cluster, topics, window, group. Refuses a daemon with another source."""

from collections.abc import Mapping
from typing import Any

from tickloom.errors import LogLost, WrongSource
from tickloom.settings import Settings
from tickloom.store.outputs import refuse_others
from tickloom.store.postgres import Connection, sql


async def claim_source(
    connection: Connection, settings: Settings, cluster_id: str, topic_ids: Mapping[str, str] | None = None
) -> None:
    """Record in ``tickloom.source`` the source of the tables and the group that fills them, or compare them with the record.

    ``topic_ids``: Kafka's id by topic name, where the brokers have ids. A topic that was deleted and created again has
    another id. Raises ``WrongSource``, ``LogLost``, ``StoreUnavailable``; ``SchemaMismatch``
    if this process does not maintain the database's outputs.
    """
    await refuse_others(connection)
    mine = source_of(settings, cluster_id)
    ids = [(topic_ids or {}).get(topic) for topic in mine[1:3]]
    row = await connection.fetchrow("SELECT * FROM tickloom.source")
    if row is None or row["group_id"] is None or (row["prices_topic_id"], row["volumes_topic_id"]) != tuple(ids):
        async with connection.transaction():
            await connection.execute("LOCK TABLE tickloom.source IN SHARE ROW EXCLUSIVE MODE")
            row = await connection.fetchrow(sql("record_source"), *mine, *ids, settings.kafka_group_id)
    compare(row, settings, cluster_id, topic_ids or {})


def compare(recorded: Any, settings: Settings, cluster_id: str, topic_ids: Mapping[str, str]) -> None:
    """Compare the row of ``tickloom.source`` with this daemon's source and group. Raises ``WrongSource``, ``LogLost``."""
    refuse_other_source(recorded, source_of(settings, cluster_id))
    _refuse_other_topics(recorded, settings, topic_ids)
    _refuse_other_group(recorded, settings)


def source_of(settings: Settings, cluster_id: str) -> tuple[str, str, str, int]:
    """The source of the tables, in the order of the columns of ``tickloom.source``: cluster, topics, window."""
    return (cluster_id, settings.prices_topic, settings.volumes_topic, settings.window_rows)


def _refuse_other_topics(recorded: Any, settings: Settings, topic_ids: Mapping[str, str]) -> None:
    """Raise ``LogLost`` if a topic has another id than the one that the tables were made from."""
    for topic, before in (
        (settings.prices_topic, recorded["prices_topic_id"]),
        (settings.volumes_topic, recorded["volumes_topic_id"]),
    ):
        now = topic_ids.get(topic)
        if None not in (now, before) and now != before:
            raise LogLost(
                f"topic {topic} was deleted and created again (its id is {now}, the tables were made from {before}), so the "
                f"ledger's offsets mean other messages there; restore the topic, or use an empty database for the new one"
            )


def _refuse_other_group(recorded: Any, settings: Settings) -> None:
    """Raise ``WrongSource`` if another Kafka group fills the tables."""
    group = settings.kafka_group_id
    if recorded["group_id"] not in (None, group):
        raise WrongSource(
            f"the tables are filled by the group {recorded['group_id']!r}, not {group!r}: two groups would take the partitions from "
            f"each other for ever; set TICKLOOM_KAFKA_GROUP_ID to {recorded['group_id']!r}; or, to change the group for good, stop all "
            f"daemons and run: UPDATE tickloom.source SET group_id = {_quoted(group)}"
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def refuse_other_source(recorded: Any, mine: tuple[str, str, str, int]) -> None:
    """Raise ``WrongSource`` if the tables were made from another source than ``mine``, which is a ``source_of``."""
    names = ("cluster_id", "prices_topic", "volumes_topic", "window_rows")
    other = [
        f"{name} {recorded[name]!r}, not {value!r}"
        for name, value in zip(names, mine, strict=True)
        if recorded[name] != value
    ]
    if other:
        raise WrongSource(
            f"the tables were made from {'; '.join(other)}; point the settings back, or use another database for this source"
        )
