"""What a DBA does to partitions, roles and poolers while the daemon lives: it goes on, or says what to type."""

import asyncio
import json
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests import services
from tests.acceptance.test_bad_days import until
from tests.acceptance.world import World
from tests.hostile import Thing

HOUR = 3_600_000_000
SUMS = "SELECT count(*) FROM tickloom.offsets WHERE next_offset - first_offset <> stored + superseded + dead + skipped + missing"
RAW = ("stock_prices", "stock_volumes")


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world without messages."""
    return World.make(kafka, database_url, topics)


def hour_of(micros: int) -> int:
    return micros // HOUR * HOUR


def part_of(table: str, micros: int, form: str = "%Y%m%d%H") -> str:
    """The name of the partition that holds an event."""
    return f"{table}_{datetime.fromtimestamp(micros / 1e6, UTC):{form}}"


NOW = int(time.time()) * 1_000_000
OLD = hour_of(NOW) - 30 * HOUR
"""An hour that somebody may detach."""


def tick(side: str, symbol: str, event: int, value: float, sent: int | None = None) -> Thing:
    """One message; ``event`` and ``sent`` in µs."""
    field = "price" if side == "prices" else "volume"
    body = json.dumps({"symbol": symbol, field: value, "timestamp": event}).encode()
    return Thing(side, symbol.encode(), body, (sent or NOW) // 1_000)


def pairs(first: int, count: int, step: int = 1_000_000, symbols: int = 4, sent: int | None = None) -> list[Thing]:
    """Both sides of so many events from ``first`` on."""
    return [
        tick(side, f"S{number % symbols}", first + number * step, number + 1.5, sent)
        for number in range(count)
        for side in ("prices", "volumes")
    ]


def drained(world: World, **settings: str) -> subprocess.CompletedProcess[str]:
    """The log up to its end."""
    done = world.tickloom("run", "--once", timeout=120, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@contextmanager
def running(world: World, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon, which then ends well."""
    daemon = world.start("run", **settings)
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, told = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, told[-4000:]


def loaded(world: World, messages: int) -> bool:
    """Whether the ledger has so many."""
    return world.query("SELECT coalesce(sum(next_offset), 0)::int FROM tickloom.offsets") == [(messages,)]


def letters(world: World) -> list[tuple[Any, ...]]:
    return world.query("SELECT reason, count(*)::int FROM tickloom.dead_letters GROUP BY 1 ORDER BY 1")


def exact(world: World, count: int, span: Iterable[str] = ()) -> None:
    """The ledger adds up, and `verify` finds nothing."""
    assert world.query(SUMS) == [(0,)]
    assert loaded(world, count)
    done = world.tickloom("verify", "--from", datetime.fromtimestamp(OLD / 1e6, UTC).isoformat(), *span)
    assert done.returncode == 0, done.stdout


# --- detached ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", " CONCURRENTLY"])
def test_late_rows_of_a_detached_partition(world: World, how: str) -> None:
    """One late row would end the daemon, and each start after it, because somebody has put an hour away."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    drained(world)
    for table in RAW:
        world.query(f"ALTER TABLE {table} DETACH PARTITION {part_of(table, OLD)}{how}")
    archived = world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}")
    late, good = pairs(OLD + HOUR // 2, 1_200, step=1_000), pairs(NOW + HOUR // 60, 60)
    mixed = [thing for few in zip(late[::20], good, strict=True) for thing in few]
    world.produce(mixed + [thing for thing in late if thing not in mixed])
    done = drained(world)
    assert letters(world) == [("expired", len(late))]
    assert "was detached" in done.stderr
    assert world.query("SELECT count(*) FROM stock_prices") == [(100,)]
    assert world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}") == archived
    assert world.query("SELECT sum(dead)::int FROM tickloom.offsets") == [(len(late),)]
    kept = world.query(
        "SELECT convert_from(value, 'UTF8'), detail FROM tickloom.dead_letters ORDER BY topic, partition, \"offset\" LIMIT 1"
    )
    assert json.loads(kept[0][0])["symbol"].startswith("S")
    assert "detached" in kept[0][1]
    exact(world, 160 + len(late) + len(good))


def test_detached_while_its_rows_are_in_memory(world: World) -> None:
    """A correction of a row that is gone with its partition would be counted and lost; a new row would be tried for ever."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part_of('stock_prices', OLD)}")
        # a correction of the last row, whose window nobody else is in; and of the first, which others' windows hold
        world.produce([tick("prices", "S3", OLD + 39_000_000, 7.0)])
        until(lambda: letters(world) == [("expired", 1)])
        world.produce([tick("prices", "S0", OLD, 7.0), tick("prices", "S0", OLD + 500_000, 8.0)])
        world.produce(pairs(NOW + HOUR // 60, 5))
        until(lambda: loaded(world, 173))
    assert letters(world) == [("expired", 3)]
    assert world.query("SELECT count(*) FROM stock_prices") == [(45,)]
    exact(world, 173)


def test_new_row_of_a_partition_that_is_detached_meanwhile(world: World) -> None:
    """The daemon that has made a partition would go on trusting that it is there."""
    world.produce(pairs(OLD, 40))
    with running(world):
        until(lambda: loaded(world, 80))
        world.query(f"ALTER TABLE stock_volumes DETACH PARTITION {part_of('stock_volumes', OLD)} CONCURRENTLY")
        world.produce([tick("volumes", "NEW", OLD + 5, 7.0), tick("prices", "NEW", OLD + 5, 7.0)])
        until(lambda: loaded(world, 82))
    assert letters(world) == [("expired", 1)]
    assert world.query("SELECT count(*) FROM stock_prices WHERE symbol = 'NEW'") == [(1,)]
    exact(world, 82)


def test_only_the_joined_rows_partition_is_detached(world: World) -> None:
    """Prices and volumes would be rejected for what somebody did to a table that is made of them."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_analytics_data DETACH PARTITION {part_of('stock_analytics_data', OLD)}")
        world.produce([*pairs(OLD + HOUR // 2, 10), tick("prices", "S0", OLD, 7.0), *pairs(NOW + HOUR // 60, 5)])
        until(lambda: loaded(world, 191))
    assert letters(world) == []
    assert world.query("SELECT count(*) FROM stock_prices") == [(95,)]
    assert world.query("SELECT count(*) FROM stock_analytics_data") == [(45,)]
    assert world.query(
        f"SELECT price FROM stock_prices WHERE symbol = 'S0' AND \"timestamp\" = to_timestamp({OLD // 10**6})"
    ) == [(7.0,)]
    exact(world, 191)
    for arguments in (["verify"], ["verify", "--repair"]):
        done = world.tickloom(*arguments)
        assert done.returncode == 0, done.stdout
        assert "was detached" in done.stdout


def test_attached_again(world: World) -> None:
    """Rows would go on being rejected after somebody has brought their partition back, or averages be computed without it."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    part = part_of("stock_prices", OLD)
    bounds = [f"'{datetime.fromtimestamp(at / 1e6, UTC).isoformat()}'" for at in (OLD, OLD + HOUR)]
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part}")
        world.produce([tick("prices", "S0", OLD + 1, 5.0)])
        until(lambda: letters(world) == [("expired", 1)])
        world.query(f"ALTER TABLE stock_prices ATTACH PARTITION {part} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
        world.produce(pairs(OLD + HOUR // 2, 10))
        until(lambda: loaded(world, 181))
    assert letters(world) == [("expired", 1)]
    assert world.query("SELECT count(*) FROM stock_prices") == [(90,)]
    exact(world, 181)
    assert world.tickloom("verify").returncode == 0


def test_dropped_under_rows_that_are_in_memory(world: World) -> None:
    """A correction of a row whose partition was dropped would be counted as superseding what is gone, and be lost."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        for table in (*RAW, "stock_analytics_data"):
            world.query(f"DROP TABLE {part_of(table, OLD)}")
        world.produce([tick("prices", "S0", OLD, 7.0), tick("volumes", "S0", OLD, 8.0)])
        until(lambda: loaded(world, 162))
    assert letters(world) == []
    day = f'"timestamp" < to_timestamp({(OLD + HOUR) // 10**6})'
    assert world.query(f"SELECT price, price_moving_avg FROM stock_prices WHERE {day}") == [(7.0, 7.0)]
    assert world.query(f"SELECT price, volume FROM stock_analytics_data WHERE {day}") == [(7.0, 8.0)]
    exact(world, 162)


def test_another_table_of_that_name(world: World) -> None:
    """What never was a partition is no archive: rows would be rejected because of a typing error."""
    world.query(f"CREATE TABLE public.{part_of('stock_prices', OLD)} (symbol text, note text)")
    world.produce(pairs(OLD, 2))
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"table {part_of('stock_prices', OLD)} exists but is no partition" in done.stderr.splitlines()[-1]
    assert letters(world) == []


# --- roles ------------------------------------------------------------------------------------------------------


def login(world: World, *options: str) -> str:
    """A new role that may log in, with ``ALTER ROLE`` options; its name."""
    name = f"r_{uuid.uuid4().hex[:12]}"
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    for option in options:
        world.query(f"ALTER ROLE {name} {option}")
    return name


def as_role(world: World, name: str) -> World:
    """The same world for a daemon with this role."""
    parts = urlsplit(world.database_url)
    url = urlunsplit(parts._replace(netloc=f"{name}:weak@{parts.hostname}:{parts.port}"))
    return replace(world, settings={**world.settings, "TICKLOOM_DATABASE_URL": url})


def found_bad(world: World) -> dict[str, str]:
    """What `check` finds: what it is, and what it says of it."""
    done = world.tickloom("check", "--json")
    bad = {each["what"]: each["detail"] for each in json.loads(done.stdout) if not each["good"]}
    assert done.returncode == (3 if bad else 0), done.stdout
    return bad


def type_grants(world: World, told: str) -> None:
    """What `check` has printed, typed as it stands."""
    for grant in told.partition(" type: ")[2].split("; "):
        world.query(grant)


def test_least_privilege(world: World) -> None:
    """A daemon that must own its tables may drop them; and what it lacks would be found out one by one, at each start."""
    weak = as_role(world, login(world))
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    bad = found_bad(weak)
    assert "GRANT USAGE ON SCHEMA tickloom, public TO r_" in bad["rights"]
    type_grants(world, bad["rights"])
    bad = found_bad(weak)
    assert list(bad) == []
    told = weak.tickloom("check").stdout
    grant = re.search(r"GRANT EXECUTE ON FUNCTION tickloom.make_partitions\(regclass, text\[\]\) TO \w+", told)
    assert grant, told
    world.query(grant[0])
    drained(weak)
    assert "may not" not in weak.tickloom("check").stdout
    assert world.differences() == []
    assert world.query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'stock_prices'::regclass")[0][0] >= 5
    assert weak.tickloom("verify").returncode == 0
    refused = weak.tickloom("migrate")
    assert refused.returncode == 2


def test_make_partitions_is_no_hole(world: World) -> None:
    """Who may call it could run DDL with the owner's rights on whatever he names."""
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
    for table in (*RAW, "stock_analytics_data"):
        world.query(f"ALTER TABLE {table} OWNER TO {owner}")
    world.query(f"GRANT CREATE ON SCHEMA tickloom, public TO {owner}")
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {owner}")
    assert world.tickloom("migrate").returncode == 0
    assert world.query("SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'make_partitions'") == [(owner,)]
    weak = as_role(world, name)
    type_grants(world, found_bad(weak)["rights"])
    world.query(f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {name}")
    world.produce(pairs(OLD, 20) + pairs(NOW, 20))
    drained(weak)
    assert world.differences() == []


def answers(port: int, path: str) -> tuple[int, str]:
    """What the daemon says by HTTP; 0 where nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_somebody_else_makes_the_partitions(world: World) -> None:
    """Rows without a partition would be rejected, or end the daemon, where only the DBA's cron job may make one."""
    weak = as_role(world, login(world))
    type_grants(world, found_bad(weak)["rights"])
    weak.settings["TICKLOOM_RETRY_MAX_SECONDS"] = "0.5"
    port = services.free_port()
    world.produce(pairs(NOW, 20))
    with running(weak, TICKLOOM_HTTP_PORT=str(port)):
        until(lambda: loaded(world, 40))
        assert 'tickloom_partitions_until_timestamp_seconds{table="stock_prices"}' in answers(port, "/metrics")[1]
        assert answers(port, "/readyz")[0] == 200
        world.produce(pairs(OLD, 20) + pairs(NOW + HOUR // 60, 20))
        made = set[str]()

        def another() -> bool:
            status, told = answers(port, "/readyz")
            found = re.search(r"or make it by hand: (CREATE TABLE (\w+) .*)$", told)
            if status != 503 or not found:
                return loaded(world, 120)
            assert "GRANT EXECUTE ON FUNCTION tickloom.make_partitions" in told
            if found[2] not in made:
                world.query(found[1].replace("CREATE TABLE ", "CREATE TABLE public."))
                made.add(found[2])
            return False

        until(another)
        assert made == {part_of(table, OLD) for table in (*RAW, "stock_analytics_data")}
        until(lambda: answers(port, "/readyz")[0] == 200)
    assert letters(world) == []
    assert world.differences() == []


def test_no_partition_for_now_and_none_may_be_made(world: World) -> None:
    """`check` would call a table good that takes no row."""
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


def test_settings_of_the_role_and_the_database(world: World) -> None:
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
    with running(weak):
        until(lambda: loaded(world, 80))
        time.sleep(0.5)  # longer than an idle session may live
        world.produce(pairs(OLD, 40, step=HOUR // 7))
        until(lambda: loaded(world, 160))
    assert letters(world) == []
    assert world.differences() == []
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = '{}'"
    start = datetime.fromtimestamp(OLD / 1e6, UTC)
    world.query(f"ALTER DATABASE {database} RESET ALL")
    assert f"FROM ('{start:%Y-%m-%d %H}:" in world.query(bounds.format(part_of("stock_prices", OLD)))[0][0]


def test_tables_in_another_schema(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Partitions would be made beside their table's schema, and looked for in vain."""
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
    drained(as_role(world, reader))
    where = "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_inherits JOIN pg_class ON oid = inhrelid"
    assert world.query(where) == [("market",)]
    seen = as_role(world, owner)
    assert seen.tickloom("verify").returncode == 0
    assert replace(world, database_url=seen.settings["TICKLOOM_DATABASE_URL"]).differences() == []


def test_transactions_are_read_only_by_default(world: World) -> None:
    """A provider sets that when the disk is full; a daemon that ends then, or says nothing, would not come back."""
    database = urlsplit(world.database_url).path[1:]
    world.produce(pairs(NOW, 20))
    world.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert "default_transaction_read_only" in str(found_bad(world))
    with tempfile.TemporaryFile("w+") as output:
        daemon = world.start("run", output=output, TICKLOOM_RETRY_MAX_SECONDS="0.3")

        def told() -> str:
            output.seek(0)
            return output.read()

        until(lambda: "RESET default_transaction_read_only" in told())
        assert daemon.poll() is None
        services.execute(
            urlunsplit(urlsplit(world.database_url)._replace(path="/postgres")),
            f"ALTER DATABASE {database} RESET default_transaction_read_only",
        )
        until(lambda: loaded(world, 40))
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0, told()
    assert world.differences() == []


@contextmanager
def held(url: str, query: str) -> Iterator[None]:
    """A transaction that has run a query stays open while inside."""

    async def begin() -> Any:
        connection = await asyncpg.connect(url)
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute(query)
        return connection

    with asyncio.Runner() as runner:
        connection = runner.run(begin())
        try:
            yield
        finally:
            runner.run(connection.close())


def test_a_tables_tablespace(world: World) -> None:
    """Partitions that are made while somebody reads would land on another disk than the others."""
    space = f"space_{uuid.uuid4().hex[:8]}"
    services.execute(
        world.database_url, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {space} LOCATION ''"
    )
    world.query(f"ALTER TABLE stock_prices SET TABLESPACE {space}")
    world.produce(pairs(OLD, 4))
    with held(world.database_url, "SELECT * FROM stock_prices"):
        drained(world)
    found = world.query(
        "SELECT spcname FROM pg_class LEFT JOIN pg_tablespace t ON t.oid = reltablespace "
        f"WHERE relname = '{part_of('stock_prices', OLD)}'"
    )
    assert found == [(space,)]


# --- widths -----------------------------------------------------------------------------------------------------


def metered(world: World, things: Iterable[Thing]) -> None:
    """These messages, loaded and exact."""
    world.produce(things)
    drained(world)
    assert letters(world) == []
    assert world.differences() == []


def test_another_width_than_the_tables_is_told_at_the_start(world: World) -> None:
    """The day that one late row falls into would stop the daemon, some time, with a word of Postgres's about overlaps."""
    metered(world, pairs(OLD, 20))
    world.settings["TICKLOOM_PRICES_PARTITIONING"] = "daily"
    done = world.tickloom("run", "--once", timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert "set TICKLOOM_PRICES_PARTITIONING to what they are" in last
    bad = found_bad(world)
    assert list(bad) == ["table partitions"]
    assert bad["table partitions"] in last
    for fill in last.partition("create what is missing: ")[2].split("; "):
        world.query(fill.replace("CREATE TABLE ", "CREATE TABLE public."))
    later = NOW + 48 * HOUR  # late in the evening, tomorrow has its first hours already
    metered(world, pairs(NOW, 20) + pairs(OLD + 2 * HOUR, 5, step=HOUR // 2) + pairs(later, 3, sent=later))
    names = {name for (name,) in world.query("SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid")}
    assert part_of("stock_prices", later, "%Y%m%d") in names
    assert found_bad(world) == {}


def test_partitions_of_another_width_beside(world: World) -> None:
    """Whoever has changed the width once, or has made a partition by hand, would have to make the table anew."""
    day = NOW // (24 * HOUR) * 24 * HOUR
    old, older = day - 2 * 24 * HOUR, day - 9 * 24 * HOUR
    for table in (*RAW, "stock_analytics_data"):
        for start, hours in ((old, 24), (older, 3)):  # a day, in the zone of the tables; a morning of another day
            bounds = [datetime.fromtimestamp(at / 1e6, UTC).isoformat() for at in (start, start + hours * HOUR)]
            world.query(
                f"CREATE TABLE public.mine_{table}_{hours} PARTITION OF {table} FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
            )
    assert found_bad(world) == {}
    metered(world, pairs(old + 5 * HOUR, 20) + pairs(older + HOUR, 20, step=HOUR // 4) + pairs(NOW, 20))
    assert world.query("SELECT count(*) FROM mine_stock_prices_24") == [(20,)]
    assert world.query("SELECT count(*) FROM mine_stock_prices_3") == [(8,)]
    assert world.tickloom("verify").returncode == 0


def test_a_partition_whose_name_belies_its_bounds(world: World) -> None:
    """A day that somebody has made in his own zone would be read for another one: averages without its rows."""
    day = NOW // (24 * HOUR) * 24 * HOUR - 2 * 24 * HOUR
    name = part_of("stock_prices", day, "%Y%m%d")
    bounds = [datetime.fromtimestamp((day + add * HOUR) / 1e6, UTC).isoformat() for add in (5, 29)]
    world.query(
        f"CREATE TABLE public.{name} PARTITION OF stock_prices FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )
    metered(world, pairs(day + 24 * HOUR, 30, step=HOUR // 5))
    metered(world, pairs(day + 24 * HOUR + 5, 30, step=HOUR // 5))
    assert world.query(f"SELECT count(*) FROM {name}") == [(50,)]


def test_a_default_partition(world: World) -> None:
    """Its rows would be read by nobody, and keep later partitions from being made."""
    world.query("CREATE TABLE public.rest PARTITION OF stock_volumes DEFAULT")
    world.produce(pairs(NOW, 3))
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2
    assert "stock_volumes has a partition of another kind (DEFAULT)" in done.stderr.splitlines()[-1]
    assert "detach it" in found_bad(world)["table partitions"]


def test_a_dropped_daily_partition_is_put_away_too(world: World) -> None:
    """The archive of a time when partitions were wider would be filled again beside itself."""
    day = NOW // (24 * HOUR) * 24 * HOUR - 3 * 24 * HOUR
    name = part_of("stock_prices", day, "%Y%m%d")
    bounds = [datetime.fromtimestamp((day + add * HOUR) / 1e6, UTC).isoformat() for add in (0, 24)]
    world.query(
        f"CREATE TABLE public.{name} PARTITION OF stock_prices FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )
    world.query(f"ALTER TABLE stock_prices DETACH PARTITION {name}")
    world.produce([tick("prices", "A", day + HOUR, 1.0), tick("prices", "A", NOW, 1.0)])
    drained(world)
    assert letters(world) == [("expired", 1)]


def test_events_far_ahead_of_now(world: World) -> None:
    """Who may produce could fill the server's table of locks with partitions that no event will ever need."""
    future = 2_600_000_000_000_000  # 2052
    far = [thing for hour in range(300) for thing in pairs(future + hour * HOUR, 1, sent=future + hour * HOUR)]
    world.produce(far[:300] + pairs(NOW, 20) + far[300:])
    drained(world)
    count = "SELECT count(*)::int FROM pg_inherits WHERE inhparent = 'stock_prices'::regclass AND inhrelid::regclass::text ~ '_205'"
    assert world.query(count) == [(24,)]
    assert letters(world) == [("out_of_bounds", 2 * (300 - 24))]
    assert world.query("SELECT count(*) FROM stock_prices WHERE \"timestamp\" < '2050-01-01'") == [(20,)]
    world.produce(pairs(future - HOUR, 1, sent=future))
    drained(world)
    assert world.query(count) == [(24,)]
    exact(world, 642)


# --- poolers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("server_round_robin=1",)])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_changes_servers(world: World, mode: str, options: tuple[str, ...]) -> None:
    """Session settings and staging tables would land anywhere; rows of one daemon in the batches of another."""
    world.produce(pairs(NOW, 10))
    with services.pgbouncer(world.database_url, mode, *options) as url:
        done = world.tickloom("run", "--once", timeout=60, TICKLOOM_DATABASE_URL=url)
        assert done.returncode == 2, done.stderr
        assert f"a pooler in {mode} mode" in done.stderr.splitlines()[-1]
        assert "session mode" in done.stderr.splitlines()[-1]
        world.settings["TICKLOOM_DATABASE_URL"] = url
        assert f"a pooler in {mode} mode" in str(found_bad(world))
    assert world.query("SELECT count(*) FROM tickloom.offsets") == [(0,)]


def test_a_pooler_in_session_mode(world: World) -> None:
    """Whoever may reach Postgres only by pgbouncer would be turned away for nothing."""
    world.produce(pairs(OLD, 20) + pairs(NOW, 20))
    with services.pgbouncer(world.database_url, "session") as url:
        world.settings["TICKLOOM_DATABASE_URL"] = url
        assert found_bad(world) == {}
        for _ in range(2):
            drained(world)
            world.produce(pairs(OLD + 500, 20))
    assert letters(world) == []


# --- maintenance ------------------------------------------------------------------------------------------------


def test_maintenance_beside_the_flow(world: World) -> None:
    """A night's maintenance would end the daemon, or cost rows: a dump's snapshot, VACUUM FULL, REINDEX, other disks, locks."""
    space = f"space_{uuid.uuid4().hex[:8]}"
    services.execute(
        world.database_url, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {space} LOCATION ''"
    )
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    count = 160
    with running(world), held(world.database_url, "SELECT 1"):
        until(lambda: loaded(world, 160))
        part = part_of("stock_prices", OLD)
        for statement in (
            f"VACUUM FULL {part}",
            "VACUUM FULL tickloom.offsets",
            f"REINDEX TABLE {part}",
            f"ALTER TABLE {part} SET TABLESPACE {space}",
            f"CLUSTER {part} USING {part}_pkey",
            "ANALYZE",
        ):
            with held(world.database_url, "LOCK TABLE stock_volumes IN ACCESS EXCLUSIVE MODE"):
                world.produce(pairs(OLD, 20, step=count))  # new rows, and corrections of the first one
            world.query(statement)
            count += 40
        until(lambda: loaded(world, count))
    assert letters(world) == []
    assert world.differences() == []


def test_a_table_is_renamed_under_the_daemon(world: World) -> None:
    """It would be tried for ever."""
    world.produce(pairs(NOW, 5))
    daemon = world.start("run")
    until(lambda: loaded(world, 10))
    world.query("ALTER TABLE stock_volumes RENAME TO old_volumes")
    world.produce(pairs(NOW + HOUR // 60, 5))
    _, told = daemon.communicate(timeout=60)
    assert daemon.returncode == 2, told[-2000:]
    assert "stock_volumes" in told.splitlines()[-1]
    assert "tickloom migrate" in told.splitlines()[-1]


def test_rows_that_cannot_be_changed(world: World) -> None:
    """A correction that a trigger swallows would be counted, or be tried in a circle."""
    world.produce(pairs(NOW, 5))
    drained(world)
    world.query("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    world.query("CREATE TRIGGER no BEFORE UPDATE ON stock_prices FOR EACH ROW EXECUTE FUNCTION public.no()")
    world.produce([tick("prices", "S0", NOW, 9.0)])
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "check the table's triggers" in done.stderr.splitlines()[-1]
    assert loaded(world, 10)
