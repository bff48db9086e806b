"""Mistakes stop the daemon with exit 2 and one line that says the fix, before anything is consumed."""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests import services
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world with some messages in it."""
    world = World.make(kafka, database_url, topics)
    world.produce(hostile_things(seed=1, messages=50))
    return world


def refuses(world: World, *fixes: str, **settings: str) -> None:
    """The daemon must end with exit code 2 and a last line that contains ``fixes``."""
    done = world.tickloom("run", "--once", timeout=60, **settings)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr[-2000:]
    assert last.startswith("tickloom: ")
    for fix in fixes:
        assert fix in last
    assert "secret-word" not in done.stderr


def consumed(world: World) -> int:
    """Messages that the ledger counts."""
    return int(world.query("SELECT coalesce(sum(next_offset - first_offset), 0)::int FROM tickloom.offsets")[0][0])


def test_missing_topic(world: World) -> None:
    """A typing error in a topic's name would look like an idle market."""
    refuses(world, "no-such-topic", "create it", TICKLOOM_PRICES_TOPIC="no-such-topic")
    assert consumed(world) == 0


def test_missing_table(world: World) -> None:
    """A daemon that made tables by itself would hide a wrong database."""
    world.query("DROP TABLE stock_volumes CASCADE")
    refuses(world, "stock_volumes", "tickloom migrate")
    assert consumed(world) == 0


def test_missing_column(world: World) -> None:
    """Another program's table of the same name would be written into."""
    world.query("ALTER TABLE stock_prices DROP COLUMN price_moving_avg")
    refuses(world, "price_moving_avg", "tickloom migrate")


def test_other_encoding(world: World) -> None:
    """The first symbol of another alphabet would be no bad message, and no outage, and stop everything."""
    name = world.topics["prices"].replace("-", "_")
    world.query(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    world.database_url = urlunsplit(urlsplit(world.database_url)._replace(path=f"/{name}"))
    refuses(world, "LATIN1", "ENCODING 'UTF8'")
    done = world.tickloom("migrate")
    assert (done.returncode, "LATIN1" in done.stderr) == (2, True)


def test_other_partitioning(world: World) -> None:
    """Partitions of two widths in one table overlap."""
    refuses(world, "stock_prices", "TICKLOOM_", TICKLOOM_PRICES_PARTITIONING="none")


def test_other_window(world: World) -> None:
    """Averages of two windows would stand in one table."""
    world.drain()
    refuses(world, "window_rows 5, not 7", "point the settings back", TICKLOOM_WINDOW_ROWS="7")


def test_wrong_cluster(world: World) -> None:
    """The offsets of one cluster would be taken for another's."""
    world.drain()
    world.query("UPDATE tickloom.source SET cluster_id = 'another'")
    refuses(world, "cluster_id 'another'")


def test_missing_rights(world: World) -> None:
    """The first batch would fail, and be tried for ever."""
    name = f"weak_{world.topics['prices'].replace('-', '_')}"
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {name}")
    world.query(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, tickloom TO {name}")
    parts = urlsplit(world.database_url)
    world.database_url = urlunsplit(parts._replace(netloc=f"{name}:weak@{parts.hostname}:{parts.port}"))
    refuses(world, "no right to INSERT", "GRANT INSERT")


def test_wrong_password(world: World) -> None:
    """A wrong password would be tried for ever, and lock the account."""
    parts = urlsplit(world.database_url)
    world.database_url = urlunsplit(parts._replace(netloc=f"tickloom:wrong@{parts.hostname}:{parts.port}"))
    refuses(world, "password", "TICKLOOM_DATABASE_URL")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TICKLOOM_WINDOW_ROWS", "0"),
        ("TICKLOOM_PRICES_PARTITIONING", "weekly"),
        ("TICKLOOM_KAFKA_OPTIONS", '{"group.id": "mine"}'),
        ("TICKLOOM_KAFKA_OPTIONS", '{"auto.offset.reset": "latest"}'),
        ("TICKLOOM_KAFKA_OPTIONS", '{"no.such.option": "1"}'),
        ("TICKLOOM_GAP_POLICY", "ignore"),
        ("TICKLOOM_DATABASE_URL", "mysql://tickloom@localhost/db"),
    ],
)
def test_wrong_settings(world: World, name: str, value: str) -> None:
    """A setting that is silently ignored is worse than one that is refused."""
    refuses(world, name, **{name: value})


def test_options_of_the_group_are_no_mistake(world: World) -> None:
    """Timeouts that librdkafka takes would end the daemon, after it has joined and made the others wait."""
    options = '{"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "max.poll.interval.ms": 10000}'
    done = world.tickloom("run", "--once", TICKLOOM_KAFKA_OPTIONS=options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert world.differences() == []
    checked = world.tickloom("check", TICKLOOM_KAFKA_OPTIONS=options)
    assert checked.returncode == 0, checked.stdout


def test_options_that_only_a_reader_minds(world: World) -> None:
    """A daemon that joins, fails and is started again would make the other replicas wait each time."""
    options = '{"receive.message.max.bytes": 2000000}'
    refuses(world, "receive.message.max.bytes", "TICKLOOM_KAFKA_OPTIONS", TICKLOOM_KAFKA_OPTIONS=options)
    checked = world.tickloom("check", TICKLOOM_KAFKA_OPTIONS=options)
    assert checked.returncode == 3
    assert "receive.message.max.bytes" in checked.stdout


def test_flood_of_bad_messages(world: World) -> None:
    """A wrong topic would be copied into the dead letters, message by message."""
    world.produce([Thing("prices", b"x", b"<xml/>", 1_790_000_000_000)] * 3_000)
    refuses(world, "rejected", "TICKLOOM_REJECT_LIMIT_RATIO")
    assert world.query("SELECT count(*) FROM tickloom.dead_letters WHERE value = '<xml/>'")[0][0] == 0


def test_recreated_topic(world: World, kafka: Any) -> None:
    """Offsets of the old topic would be taken for the new one's, and its messages skipped."""
    from confluent_kafka.admin import AdminClient

    world.drain()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.delete_topics([world.topics["prices"]])[world.topics["prices"]].result(30)
    for attempt in range(100):
        try:
            services.create_topic(kafka.bootstrap, world.topics["prices"], 4)
            break
        except Exception:
            assert attempt < 99
    refuses(world, "created again", "empty database")


def test_check_finds_all(world: World) -> None:
    """`check` must find beforehand what would stop the daemon."""
    good = world.tickloom("check")
    assert good.returncode == 0, good.stdout + good.stderr
    world.query("DROP TABLE stock_volumes CASCADE")
    bad = world.tickloom("check", "--json", TICKLOOM_PRICES_TOPIC="no-such-topic", TICKLOOM_WINDOW_ROW="7")
    assert bad.returncode == 3
    assert "TICKLOOM_WINDOW_ROWS" in bad.stdout
    assert "no-such-topic" in bad.stdout
    assert "tickloom migrate" in bad.stdout
