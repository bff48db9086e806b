"""Worlds that the real daemon filled from a hostile log; how to change their rows, and what `verify` then says."""

import asyncio
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from tests import services
from tests.acceptance.world import World
from tests.hostile import hostile_things
from tickloom.settings import Settings
from tickloom.store.slices import BEGINNING, END, Span
from tickloom.store.verdict import Report
from tickloom.store.verify import verify

MESSAGES = 8_000
PARTITIONING = ("TICKLOOM_PRICES_PARTITIONING", "TICKLOOM_VOLUMES_PARTITIONING", "TICKLOOM_ANALYTICS_PARTITIONING")
LAYOUTS = {
    "hourly": {},
    "daily": dict.fromkeys(PARTITIONING, "daily"),
    "none": dict.fromkeys(PARTITIONING, "none"),
    "mixed": dict(zip(PARTITIONING, ("hourly", "none", "monthly"), strict=True)),
    "window of one": {"TICKLOOM_WINDOW_ROWS": "1"},
}
AVERAGES = {"stock_prices": "price_moving_avg", "stock_volumes": "trading_volume_moving_avg"}
Worlds = Callable[[str], World]


def fill(kafka: Any, postgres: services.Postgres | services.Given) -> Worlds:
    """A world of each layout, filled by the daemon once; every call gives a fresh copy of its database."""
    unique, filled = uuid.uuid4().hex[:8], dict[str, World]()
    names = (f"prices-{unique}", f"volumes-{unique}")
    for name in names:
        services.create_topic(kafka.bootstrap, name, 4)
    topics = dict(zip(("prices", "volumes"), names, strict=True))
    World(kafka.bootstrap, "", topics).produce(hostile_things(seed=5, messages=MESSAGES))

    def world(layout: str) -> World:
        if layout not in filled:
            made = World(kafka.bootstrap, services.new_database(postgres), topics, settings=dict(LAYOUTS[layout]))
            for arguments in (("migrate",), ("run", "--once")):
                done = made.tickloom(*arguments)
                assert done.returncode == 0, done.stderr[-3000:]
            filled[layout] = made
        source = urlsplit(filled[layout].database_url).path[1:]
        copy = f"t{uuid.uuid4().hex[:12]}"
        services.execute(postgres.url, f"CREATE DATABASE {copy} TEMPLATE {source}")
        url = urlunsplit(urlsplit(postgres.url)._replace(path=f"/{copy}"))
        return replace(filled[layout], database_url=url, settings=dict(LAYOUTS[layout]))

    return world


def report_of(world: World, *options: str, code: int) -> dict[str, Any]:
    """What ``verify --json`` says; it must end with ``code``."""
    done = world.tickloom("verify", "--json", *options)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == "", "no progress where nobody waits"
    return json.loads(done.stdout)


def settings_of(world: World) -> Settings:
    """The world's settings, for this process."""
    return Settings(
        database_url=SecretStr(world.database_url),
        prices_topic=world.topics["prices"],
        volumes_topic=world.topics["volumes"],
        **{name.removeprefix("TICKLOOM_").lower(): value for name, value in world.settings.items()},
    )


def look(world: World, start: datetime = BEGINNING, stop: datetime = END, **options: Any) -> Report:
    """``verify`` in this process, with a slice for every partition where nothing else is said."""
    return asyncio.run(verify(settings_of(world), Span(start, stop), **{"least_slice_bytes": 1} | options))


def kinds(report: Report) -> set[tuple[str, str]]:
    """Tables and columns that differ."""
    return {(kind.table, kind.column) for kind in report.wrong}


def middle(world: World) -> tuple[str, datetime]:
    """The key of a joined row with a whole window before it and another after it."""
    found = world.query(
        'SELECT symbol, "timestamp", price_moving_avg, trading_volume_moving_avg, price_volume_ratio, '
        'row_number() OVER (PARTITION BY symbol ORDER BY "timestamp") AS n, count(*) OVER (PARTITION BY symbol) AS rows '
        "FROM stock_analytics_data ORDER BY symbol, n"
    )
    return next(
        (symbol, at)
        for symbol, at, *numbers, n, rows in found
        if 10 < n < rows - 10 and all(number is not None and 1 < abs(number) < 1000 for number in numbers[:2])
    )


def where(key: tuple[str, datetime]) -> str:
    """A condition for one key."""
    return f"symbol = '{key[0].replace(chr(39), chr(39) * 2)}' AND \"timestamp\" = '{key[1].isoformat()}'"


def bend(world: World, table: str, column: str, key: tuple[str, datetime]) -> None:
    """Move one value by its last bit."""
    value = world.query(f"SELECT {column} FROM {table} WHERE {where(key)}")[0][0]
    bent = math.nextafter(value if value is not None else 0.0, math.inf)
    world.query(f"UPDATE {table} SET {column} = '{bent!r}'::float8 WHERE {where(key)}")


def contents(world: World) -> list[Any]:
    """All rows of the three tables, ``processed_at`` aside."""
    return [
        world.query(f"SELECT to_jsonb(t) - 'processed_at' FROM {table} t ORDER BY symbol, \"timestamp\"")
        for table in (*AVERAGES, "stock_analytics_data")
    ]


def alone(world: World, kafka: Any) -> World:
    """The world emptied, with topics of its own."""
    names = [f"{name}-{uuid.uuid4().hex[:8]}" for name in ("prices", "volumes")]
    for name in names:
        services.create_topic(kafka.bootstrap, name, 4)
    world.query("TRUNCATE stock_prices, stock_volumes, stock_analytics_data, tickloom.offsets, tickloom.dead_letters")
    world.query("DELETE FROM tickloom.source")
    return replace(world, topics=dict(zip(("prices", "volumes"), names, strict=True)))


def drop_before(world: World, at: datetime, *tables: str) -> int:
    """Drop the partitions that end at ``at`` or before, as an operator does; how many."""
    names = [
        row[0]
        for table in tables
        for row in world.query(
            f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass"
        )
        if row[0] < f"{table}_{at:%Y%m%d%H}"
    ]
    for name in names:
        world.query(f"DROP TABLE {name}")
    return len(names)
