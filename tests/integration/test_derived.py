"""Derived outputs on a real Postgres: made, checked, verified, repaired; and what refuses them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.contract.splits import START, Tick, run_log
from tests.toys import ACTUAL, EXPECTED, NOTIONAL, ROWS, TOYS, declaring
from tickloom import Column, Output
from tickloom.core.model import Side
from tickloom.core.tails import Tails
from tickloom.errors import SchemaMismatch, StateSpoilt, TickloomError
from tickloom.settings import Partitioning, Settings
from tickloom.store import schema
from tickloom.store.check import check_schema
from tickloom.store.loader import stage
from tickloom.store.migrate import migrate
from tickloom.store.outputs import DECLARED
from tickloom.store.postgres import Connection, connect
from tickloom.store.rights import rehearse
from tickloom.store.slices import BEGINNING, END, Span
from tickloom.store.source_claim import claim_source
from tickloom.store.verdict import Kind, Report
from tickloom.store.verify import verify

HOUR = datetime.fromtimestamp(START // 10**6 // 3600 * 3600, UTC) + timedelta(hours=2)
"""A whole hour of which there are rows."""


@contextmanager
def declared_instead(output: Output) -> Iterator[None]:
    """This process declares another output of that name."""
    before = DECLARED.pop(output.name)
    with declaring(output):
        yield
    DECLARED[output.name] = before


def log(seed: int = 1, messages: int = 240) -> list[Tick]:
    """Prices and volumes of three symbols over some twenty hours, with late ones and corrections."""
    random = Random(seed)
    return [
        Tick(
            random.choice(tuple(Side)),
            random.choice("ABC"),
            START + max(0, number // 3 - int(20 * random.random() ** 3)) * 977_000_000,
            round(random.uniform(1, 1000), 2),
            0,
            number,
        )
        for number in range(messages)
    ]


@dataclass
class Tables:
    """Tables that a log has filled, and a connection to them."""

    settings: Settings
    connection: Connection

    async def load(self, ticks: list[Tick], batch: int = 40) -> None:
        """Empty the tables, and load these in batches."""
        tails = lambda: Tails(3, 12, 100, 2**30)  # noqa: E731
        await run_log(self.connection, ticks, [batch], 3, False, tails, Partitioning.HOURLY, 64)

    async def verify(self, start: datetime = BEGINNING, stop: datetime = END, **options: Any) -> Report:
        """With a slice for every partition."""
        return await verify(self.settings, Span(start, stop), least_slice_bytes=1, **options)

    async def kinds(self) -> set[tuple[str, str]]:
        """What verify calls wrong."""
        return {(kind.table, kind.column) for kind in (await self.verify()).wrong}

    async def exact(self) -> bool:
        """Whether the toys are what the judge's queries give."""
        names = [name for name in EXPECTED if await self.connection.fetchval("SELECT to_regclass($1)", name)]
        both = [
            (await self.connection.fetch(ACTUAL[name]), await self.connection.fetch(EXPECTED[name])) for name in names
        ]
        return all([tuple(row) for row in found] == [tuple(row) for row in expected] for found, expected in both)


@pytest.fixture
async def tables(database_url: str) -> AsyncGenerator[Tables]:
    """Tables with all toys, filled."""
    configured = Settings(database_url=database_url, prices_topic="p", volumes_topic="v", window_rows=3)  # type: ignore[arg-type]
    connection = await connect(configured)
    with declaring(*TOYS):
        await migrate(connection, configured)
        await stage(connection)
        found = Tables(configured, connection)
        await found.load(log())
        yield found
    await connection.close()


async def test_verify_counts_and_judges_the_rows(tables: Tables) -> None:
    """A table that verify passes over is a table that nobody knows to be right."""
    report = await tables.verify()
    assert not report.wrong
    assert await tables.exact()
    assert (
        report.as_dict()["rows"]["toy_rows"] == await tables.connection.fetchval("SELECT count(*) FROM toy_rows") > 20
    )
    assert any(line.startswith("ok   toy_notional") for line in report.lines())


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ("UPDATE toy_rows SET rows = rows + 1 WHERE symbol = 'A'", ("toy_rows", "rows")),
        (f"DELETE FROM toy_rows WHERE \"timestamp\" = '{HOUR}'", ("toy_rows", "row")),
        (f"INSERT INTO toy_rows SELECT 'Z', '{HOUR}', 1", ("toy_rows", "row")),
        (f"INSERT INTO toy_rows SELECT 'A', '{HOUR + timedelta(minutes=7)}', 1", ("toy_rows", "row")),
        ("UPDATE toy_notional SET average = NULL", ("toy_notional", "average")),
        ("UPDATE toy_bars SET ticks = NULL, volume = 7 WHERE symbol = 'B'", ("toy_bars", "ticks")),
        ("INSERT INTO toy_bars SELECT 'A', '1990-01-01', 1, 1", ("toy_bars", "row")),
        (f"UPDATE stock_prices SET price = 400 WHERE \"timestamp\" >= '{HOUR}'", ("toy_bars", "open")),
    ],
)
async def test_verify_finds_and_repairs_what_was_changed(tables: Tables, spoil: str, kind: tuple[str, str]) -> None:
    """Otherwise a mistaken UPDATE stays in a user's bars for ever."""
    await tables.connection.execute(spoil)
    assert kind in await tables.kinds()
    report = await tables.verify(repair=True)
    assert report.repaired is not None
    assert report.repaired[kind[0]] > 0
    assert not {kind for kind in await tables.kinds() if kind[0].startswith("toy")}
    assert await tables.exact()


async def test_a_repair_of_the_join_is_followed_by_what_is_derived_from_it(tables: Tables) -> None:
    """Two repairs would be needed, and nobody would know of the second."""
    spoil = f"UPDATE stock_analytics_data SET price = 1 WHERE \"timestamp\" >= '{HOUR}'"
    await tables.connection.execute(f"{spoil}; DELETE FROM toy_notional")
    await tables.verify(repair=True)
    await tables.connection.execute(spoil)
    followed = NOTIONAL.select.replace("bucket", "date_trunc('day', \"timestamp\", 'UTC')").rstrip()
    await tables.connection.execute(
        f"UPDATE toy_notional t SET notional = s.notional, average = s.average FROM ({followed}) s "
        f'WHERE s.symbol = t.symbol AND s."timestamp" = t."timestamp"'
    )
    assert await tables.kinds() == {("stock_analytics_data", "price")}
    await tables.verify(repair=True)
    assert await tables.kinds() == set()
    assert await tables.exact()


async def test_a_span_judges_whole_buckets_inside_of_it(tables: Tables) -> None:
    """Half of a bucket, held against the whole of it, would be called wrong."""
    report = await tables.verify(HOUR + timedelta(minutes=10), HOUR + timedelta(hours=3, minutes=50))
    assert not report.wrong
    assert report.rows["toy_notional"] == 0
    await tables.connection.execute("UPDATE toy_rows SET rows = 0")
    report = await tables.verify(HOUR + timedelta(minutes=10), HOUR + timedelta(hours=3, minutes=50), limit=100)
    assert {one.timestamp for one in report.first} == {
        f"{HOUR + timedelta(hours=n):%Y-%m-%dT%H:%M:%S.%fZ}" for n in (1, 2)
    }


async def dropped_before(tables: Tables, moment: datetime) -> None:
    """Drop the raw and joined partitions of all older rows, as a retention job does."""
    parts = await tables.connection.fetch(
        "SELECT inhrelid::regclass::text AS part FROM pg_inherits WHERE inhparent = ANY ($1::regclass[])",
        ["stock_prices", "stock_volumes", "stock_analytics_data"],
    )
    for row in parts:
        if row["part"].rpartition("_")[2] < f"{moment:%Y%m%d%H}":
            await tables.connection.execute(f"DROP TABLE {row['part']}")


async def test_rows_whose_raw_rows_were_dropped_are_kept(tables: Tables) -> None:
    """Bars are kept for longer than ticks: a repair that deletes them would delete what nothing can bring back."""
    before = {toy.name: await tables.connection.fetch(ACTUAL[toy.name]) for toy in TOYS}
    await dropped_before(tables, HOUR + timedelta(hours=4))
    report = await tables.verify()
    assert {kind for kind in report.wrong if kind.table.startswith("toy")} == set()
    assert Kind("toy_rows", "row", "partial") in report.left_out
    assert Kind("toy_notional", "notional", "partial") in report.left_out
    spoil = f"UPDATE toy_rows SET rows = 0 WHERE \"timestamp\" >= '{HOUR + timedelta(hours=6)}'"
    await tables.connection.execute(spoil)
    assert ("toy_rows", "rows") in await tables.kinds()
    await tables.verify(repair=True)
    assert {name: await tables.connection.fetch(ACTUAL[name]) for name in before} == before


async def test_rows_of_a_detached_partition_are_left_out_and_stop_nothing(tables: Tables) -> None:
    """A user who archives old bars would stop the daemon, or lose the ticks of that hour."""
    part = f"toy_cheap_{HOUR:%Y%m%d%H}"
    await tables.connection.execute(f"ALTER TABLE toy_cheap DETACH PARTITION {part}")
    await tables.load(log(seed=2))
    assert await tables.connection.fetchval(f"SELECT count(*) FROM toy_cheap WHERE \"timestamp\" = '{HOUR}'") == 0
    report = await tables.verify()
    assert set(report.left_out) == {Kind("toy_cheap", "row", "detached")}
    assert not report.wrong
    await tables.verify(repair=True)
    await tables.connection.execute(
        f"ALTER TABLE toy_cheap ATTACH PARTITION {part} FOR VALUES FROM ('{HOUR}') TO ('{HOUR + timedelta(hours=1)}')"
    )
    await tables.verify(repair=True)
    assert await tables.exact()


async def test_a_partition_detached_under_a_batch_is_noticed(tables: Tables) -> None:
    """The rows would be computed for a partition that is not there, again and again."""
    maker = schema.partitioner(tables.settings)
    await tables.connection.execute(f"ALTER TABLE toy_cheap DETACH PARTITION toy_cheap_{HOUR:%Y%m%d%H}")
    with pytest.raises(StateSpoilt, match="a partition of toy_cheap was detached"):
        await maker.ensure_for(tables.connection, {"toy_cheap": np.array([round(HOUR.timestamp()) * 10**6])})


async def test_a_new_output_is_filled_by_a_repair(tables: Tables) -> None:
    """An output that is declared later would have bars only from that day on."""
    late = replace(ROWS, name="toy_late")
    with declaring(late):
        with pytest.raises(SchemaMismatch, match="table toy_late does not exist; run `tickloom migrate`"):
            await check_schema(tables.connection, tables.settings)
        await migrate(tables.connection, tables.settings)
        assert await tables.kinds() == {("toy_late", "row")}
        await tables.verify(repair=True)
        assert await tables.kinds() == set()
        same = 'SELECT count(*) FROM toy_late FULL JOIN toy_rows USING (symbol, "timestamp", rows) WHERE true'
        assert await tables.connection.fetchval(same) == await tables.connection.fetchval(
            "SELECT count(*) FROM toy_rows"
        )


async def test_an_output_that_this_process_does_not_declare_is_refused(tables: Tables) -> None:
    """Its rows would grow stale behind everybody's back. A daemon that runs already is fenced."""
    await tables.connection.execute("UPDATE tickloom.offsets SET epoch = 5")
    late = replace(ROWS, name="toy_late")
    with declaring(late):
        await migrate(tables.connection, tables.settings)
    assert await tables.connection.fetchval("SELECT min(epoch) FROM tickloom.offsets") == 6
    for refused in (
        check_schema(tables.connection, tables.settings),
        claim_source(tables.connection, tables.settings, "cluster"),
    ):
        with pytest.raises(SchemaMismatch, match="toy_late is an output of this database") as raised:
            await refused
    await tables.connection.execute(str(raised.value).rpartition("run: ")[2])
    await check_schema(tables.connection, tables.settings)


async def test_a_changed_definition_is_noticed(tables: Tables) -> None:
    """Rows of the old query and of the new one in one table: nobody could say which is which."""
    changed = replace(ROWS, select=ROWS.select.replace("count(*)", "2 * count(*)"))
    with declared_instead(changed):
        with pytest.raises(
            SchemaMismatch, match="toy_rows is declared differently than it was created; run `tickloom migrate`"
        ):
            await check_schema(tables.connection, tables.settings)
        await migrate(tables.connection, tables.settings)
        assert await tables.kinds() == {("toy_rows", "rows")}
        await tables.verify(repair=True)
        assert await tables.kinds() == set()


async def test_a_column_is_one_more_declaration(tables: Tables) -> None:
    """A new column that needs the table to be made again would cost its history."""
    wider = replace(
        ROWS,
        columns=(*ROWS.columns, Column("highest", "float8")),
        select=ROWS.select.replace("AS rows", "AS rows, max(price) AS highest"),
    )
    with declared_instead(wider):
        await migrate(tables.connection, tables.settings)
        assert await tables.kinds() == {("toy_rows", "highest")}
        await tables.verify(repair=True)
        assert await tables.kinds() == set()
    needed = replace(wider, columns=(*ROWS.columns, Column("highest", "float8"), Column("lowest", "float8 NOT NULL")))
    with declared_instead(needed), pytest.raises(SchemaMismatch, match="declare it without NOT NULL"):
        await migrate(tables.connection, tables.settings)


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ('SELECT symbol, bucket AS "timestamp", sum(prize) AS rows FROM stock_prices GROUP BY 1, 2', "prize"),
        ('SELECT symbol, bucket AS "timestamp", count(*) AS n FROM stock_prices GROUP BY 1, 2', "rows"),
        ("SELECT symbol FROM", "syntax error"),
        ('SELECT symbol, bucket AS "timestamp", symbol AS rows FROM stock_prices GROUP BY 1, 2', "cannot"),
    ],
    ids=["no such column", "column missing", "syntax", "type"],
)
async def test_a_select_that_cannot_run_is_refused_before_it_has_a_batch(
    tables: Tables, select: str, words: str
) -> None:
    """The daemon would start, take over, and end with the first message."""
    if words == "cannot":
        select, words = select.replace("symbol AS rows", "ARRAY[1] AS rows"), "cannot cast"
    with (
        declaring(replace(ROWS, name="toy_wrong", select=select)),
        pytest.raises(SchemaMismatch, match=f"the select of output toy_wrong .*{words}.*; fix its declaration"),
    ):
        await migrate(tables.connection, tables.settings)


@pytest.mark.parametrize(
    ("spoil", "fix"),
    [
        ("ALTER TABLE toy_rows ALTER COLUMN rows TYPE int", "ALTER COLUMN rows TYPE bigint USING rows::bigint"),
        ("ALTER TABLE toy_bars ALTER COLUMN ticks TYPE bigint[]", "TYPE int[] USING ticks::int[]"),
        ("ALTER TABLE toy_notional ALTER COLUMN average TYPE numeric", "TYPE numeric(40, 3)"),
        ("ALTER TABLE toy_rows DROP CONSTRAINT toy_rows_pkey", 'ADD PRIMARY KEY (symbol, "timestamp")'),
        ("ALTER TABLE toy_rows RENAME TO mine", "table toy_rows does not exist; run `tickloom migrate`"),
    ],
)
async def test_check_inspects_the_table(tables: Tables, spoil: str, fix: str) -> None:
    """A message without the very statement sends its reader to the manual at night."""
    await tables.connection.execute(spoil)
    with pytest.raises(SchemaMismatch) as raised:
        await check_schema(tables.connection, tables.settings)
    assert fix in str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("ALTER TABLE toy_rows ADD CONSTRAINT few CHECK (rows < 3)", 'violates check constraint "few"'),
        ("ALTER TABLE toy_rows ADD COLUMN n int GENERATED ALWAYS AS (1 / (rows - 2)) STORED", "division by zero"),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$; "
            "CREATE TRIGGER no BEFORE INSERT ON toy_rows FOR EACH ROW EXECUTE FUNCTION no()",
            "not today",
        ),
    ],
    ids=["check", "generated", "trigger"],
)
async def test_a_refused_row_ends_with_the_name_of_its_table(tables: Tables, spoil: str, words: str) -> None:
    """Messages that nobody can blame would become dead letters, or the daemon would try for ever."""
    await tables.connection.execute("TRUNCATE toy_rows")
    await tables.connection.execute(spoil)
    with pytest.raises(SchemaMismatch, match=f"Postgres refuses a row of toy_rows.*{words}.*fix the select"):
        await tables.load(log(seed=3))
    assert await tables.connection.fetchval("SELECT count(*) FROM tickloom.dead_letters") == 0


async def test_check_prints_the_grants(tables: Tables) -> None:
    """A role that may write the three tables, but not the fourth, would stop with the first batch."""
    role = "clerk_of_outputs"
    await tables.connection.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}")
    await tables.connection.execute(
        f"GRANT USAGE ON SCHEMA tickloom TO {role}; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public, tickloom TO {role}"
    )
    try:
        await tables.connection.execute(f"SET ROLE {role}")
        with pytest.raises(SchemaMismatch, match="no right to DELETE on toy_"):
            await check_schema(tables.connection, tables.settings)
        with pytest.raises(TickloomError, match=r"GRANT SELECT, INSERT, UPDATE, DELETE ON public\.toy_bars") as raised:
            await rehearse(tables.connection, tables.settings)
        await tables.connection.execute("RESET ROLE")
        await tables.connection.execute(str(raised.value).partition("owner type: ")[2])
        await tables.connection.execute(f"SET ROLE {role}")
        await check_schema(tables.connection, tables.settings)
        await rehearse(tables.connection, tables.settings)
    finally:
        await tables.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_only_outputs_get_partitions(tables: Tables) -> None:
    """A role that may create partitions could create them on any table of the owner's."""
    await tables.connection.execute('CREATE TABLE mine ("timestamp" timestamptz) PARTITION BY RANGE ("timestamp")')
    with pytest.raises(TickloomError, match="mine is not a partitioned table of tickloom"):
        await tables.connection.execute("SELECT tickloom.make_partitions('mine', '{2030010100}')")
    made = await tables.connection.fetchval("SELECT tickloom.make_partitions('toy_rows', '{20300101}')")
    assert made == ["made"]
