"""The daemon works with the rights that ``check`` prints and no others, whatever else is set for its role."""

import re
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests import services
from tests.acceptance.replica import Start
from tests.acceptance.roles import as_role, found_bad, login, type_grants
from tests.acceptance.ticks import HOUR, NOW, OLD, TABLES, iso, pairs, part_of
from tests.acceptance.world import World
from tests.waiting import until


def test_least_privilege(world: World) -> None:
    """A daemon would have to own its tables, or its missing rights would be found one by one, at each start."""
    weak = as_role(world, login(world))
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    bad = found_bad(weak)
    assert "GRANT USAGE ON SCHEMA tickloom, public TO r_" in bad["rights"]
    type_grants(world, bad["rights"])
    bad = found_bad(weak)
    assert list(bad) == []
    text = weak.tickloom("check").stdout
    grant = re.search(r"GRANT EXECUTE ON FUNCTION tickloom.make_partitions\(regclass, text\[\]\) TO \w+", text)
    assert grant, text
    world.query(grant[0])
    weak.drain()
    assert "may not" not in weak.tickloom("check").stdout
    assert world.differences() == []
    assert world.query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'stock_prices'::regclass")[0][0] >= 5
    assert weak.tickloom("verify").returncode == 0
    refused = weak.tickloom("migrate")
    assert refused.returncode == 2


def test_make_partitions_is_no_hole(world: World) -> None:
    """A role that may call it could run any DDL with the owner's rights."""
    name = login(world)
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {name}")
    world.query(f"GRANT CREATE ON SCHEMA public TO {name}")
    world.query('CREATE TABLE public.other ("timestamp" timestamptz) PARTITION BY RANGE ("timestamp")')
    weak = replace(world, database_url=as_role(world, name).settings["TICKLOOM_DATABASE_URL"])
    call = "SELECT tickloom.make_partitions('{}', ARRAY['{}'])"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        weak.query(call.format("stock_prices", "2026010100"))
    world.query(f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {name}")
    assert weak.query(call.format("stock_prices", "2026010100")) == [(["made"],)]
    for stamp in ("2026013200", "x", "", "2026", "20260101; DROP TABLE stock_prices", "20260101001", "2026010100_"):
        with pytest.raises(asyncpg.DataError):
            weak.query(call.format("stock_prices", stamp))
    for table in ("public.other", "tickloom.offsets", "pg_catalog.pg_class"):
        with pytest.raises(asyncpg.DataError, match="not a partitioned table of tickloom"):
            weak.query(call.format(table, "2026010100"))
    world.query(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
    weak.query(f'CREATE TABLE {name}.stock_prices ("timestamp" timestamptz) PARTITION BY RANGE ("timestamp")')
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="belongs to another role"):
        weak.query(call.format(f"{name}.stock_prices", "2026010100"))


def test_tables_of_an_owner_who_is_nobody_special(world: World) -> None:
    """The function that makes partitions would have a superuser's rights, or none on the tables."""
    owner, name = login(world), login(world)
    for table in TABLES:
        world.query(f"ALTER TABLE {table} OWNER TO {owner}")
    world.query(f"GRANT CREATE ON SCHEMA tickloom, public TO {owner}")
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {owner}")
    assert world.tickloom("migrate").returncode == 0
    assert world.query("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'make_partitions'") == [(owner,)]
    weak = as_role(world, name)
    type_grants(world, found_bad(weak)["rights"])
    world.query(f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {name}")
    world.produce(pairs(OLD, 20) + pairs(NOW, 20))
    weak.drain()
    assert world.differences() == []


def test_somebody_else_makes_the_partitions(world: World, start: Start) -> None:
    """Rows without a partition would be rejected, or end the daemon, where only the DBA's cron job may make one."""
    weak = as_role(world, login(world))
    type_grants(world, found_bad(weak)["rights"])
    weak.settings["TICKLOOM_RETRY_MAX_SECONDS"] = "0.5"
    world.produce(pairs(NOW, 20))
    with start(weak) as daemon:
        until(lambda: world.loaded() == 40)
        assert 'tickloom_partitions_until_timestamp_seconds{table="stock_prices"}' in daemon.get("/metrics")[1]
        assert daemon.get("/readyz")[0] == 200
        world.produce(pairs(OLD, 20) + pairs(NOW + HOUR // 60, 20))
        made = set[str]()

        def another() -> bool:
            status, text = daemon.get("/readyz")
            found = re.search(r"or make it by hand: (CREATE TABLE (\w+) .*)$", text)
            if status != 503 or not found:
                return world.loaded() == 120
            assert "GRANT EXECUTE ON FUNCTION tickloom.make_partitions" in text
            if found[2] not in made:
                world.query(found[1].replace("CREATE TABLE ", "CREATE TABLE public."))
                made.add(found[2])
            return False

        until(another)
        assert made == {part_of(table, OLD) for table in TABLES}
        until(lambda: daemon.get("/readyz")[0] == 200)
    assert world.dead_letters() == {}
    assert world.differences() == []


def test_no_partition_for_now_and_none_may_be_made(world: World) -> None:
    """`check` would call a table good that can take no row."""
    weak = as_role(world, login(world))
    type_grants(world, found_bad(weak)["rights"])
    for (name,) in world.query(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'stock_prices'::regclass"
    ):
        world.query(f"DROP TABLE {name}")
    bad = found_bad(weak)
    assert list(bad) == ["table partitions"]
    assert "stock_prices has no partition for now" in bad["table partitions"]
    type_grants(world, bad["table partitions"])
    assert found_bad(weak) == {}


def test_settings_of_the_role_and_the_database(world: World, start: Start) -> None:
    """Limits that a role has for people, its zone or its way of writing dates would end sessions, or misread bounds."""
    name = login(
        world,
        "SET TimeZone = 'America/New_York'",
        "SET DateStyle = 'SQL, DMY'",
        "SET lock_timeout = '20ms'",
        "SET statement_timeout = '100ms'",
        "SET idle_in_transaction_session_timeout = '20ms'",
        "SET idle_session_timeout = '150ms'",
        "SET default_transaction_isolation = 'serializable'",
    )
    database = urlsplit(world.database_url).path[1:]
    world.query(f"ALTER DATABASE {database} SET timezone = 'Australia/Sydney'")
    world.query(f"ALTER DATABASE {database} SET datestyle = 'German'")
    weak = as_role(world, name)
    type_grants(world, found_bad(weak)["rights"])
    world.query(f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {name}")
    world.produce(pairs(OLD, 40, step=HOUR // 8))
    with start(weak):
        until(lambda: world.loaded() == 80)
        time.sleep(0.5)  # longer than an idle session may live
        world.produce(pairs(OLD, 40, step=HOUR // 7))
        until(lambda: world.loaded() == 160)
    assert world.dead_letters() == {}
    assert world.differences() == []
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = '{}'"
    world.query(f"ALTER DATABASE {database} RESET ALL")
    assert f"FROM ('{iso(OLD, '%Y-%m-%d %H')}:" in world.query(bounds.format(part_of("stock_prices", OLD)))[0][0]


def test_tables_in_another_schema(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Partitions would be created outside of their table's schema, and not be found."""
    world = World(kafka.bootstrap, database_url, dict(zip(("prices", "volumes"), topics, strict=True)))
    for topic in topics:
        services.create_topic(kafka.bootstrap, topic, 4)
    owner = login(world, "SET search_path = market, public")
    world.query(f"CREATE SCHEMA market AUTHORIZATION {owner}")
    world.query(f"GRANT CREATE ON DATABASE {urlsplit(database_url).path[1:]} TO {owner}")
    assert as_role(world, owner).tickloom("migrate").returncode == 0
    stray = login(world)
    assert "CREATE TABLE" not in str(found_bad(as_role(world, stray)))
    reader = login(world, "SET search_path = market")
    type_grants(world, found_bad(as_role(world, reader))["rights"])
    world.query(f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {reader}")
    world.produce(pairs(OLD, 40))
    as_role(world, reader).drain()
    where = "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_inherits JOIN pg_class ON oid = inhrelid"
    assert world.query(where) == [("market",)]
    seen = as_role(world, owner)
    assert seen.tickloom("verify").returncode == 0
    assert replace(world, database_url=seen.settings["TICKLOOM_DATABASE_URL"]).differences() == []
