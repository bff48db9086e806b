"""Derived outputs for tests, each with a query over the whole tables that says what its rows are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from tickloom import Column, Output, Partitioning
from tickloom.store.outputs import DECLARED, declare

ROWS = Output(
    name="toy_rows",
    columns=(Column("rows", "bigint NOT NULL"),),
    sources=("stock_prices",),
    bucket=timedelta(hours=1),
    select='SELECT symbol, bucket AS "timestamp", count(*) AS rows FROM stock_prices GROUP BY symbol, bucket',
)
NOTIONAL = Output(
    name="toy_notional",
    columns=(Column("notional", "numeric NOT NULL"), Column("average", "numeric(40, 3)")),
    sources=("stock_analytics_data",),
    bucket=timedelta(days=1),
    select="""
        SELECT symbol, bucket AS "timestamp", sum(price::numeric * volume::numeric) AS notional,
               avg(price_moving_avg) AS average
        FROM stock_analytics_data GROUP BY symbol, bucket;
    """,
    partitioning=Partitioning.MONTHLY,
)
BARS = Output(
    name="toy_bars",
    columns=(Column("open", "float8"), Column("volume", "float8"), Column("ticks", "int[]")),
    sources=("stock_prices", "stock_volumes"),
    bucket=timedelta(minutes=30),
    select="""
        WITH prices AS (
            SELECT symbol, bucket, (array_agg(price ORDER BY "timestamp"))[1] AS open, count(*) AS n
            FROM stock_prices GROUP BY symbol, bucket
        ), volumes AS (
            SELECT symbol, bucket, sum(volume ORDER BY "timestamp") AS volume, count(*) AS n
            FROM stock_volumes GROUP BY symbol, bucket
        )
        SELECT symbol, bucket AS "timestamp", open, volume, ARRAY[p.n, v.n] AS ticks
        FROM prices p FULL JOIN volumes v USING (symbol, bucket)
    """,
    partitioning=Partitioning.NONE,
)
CHEAP = Output(
    name="toy_cheap",
    columns=(Column("price", "float8 NOT NULL"),),
    sources=("stock_prices",),
    bucket=timedelta(hours=1),
    select="""
        SELECT symbol, bucket AS "timestamp", max(price) AS price FROM stock_prices
        GROUP BY symbol, bucket HAVING max(price) < 500  -- a late row takes a row away
    """,
    partitioning=Partitioning.HOURLY,
)
EXPECTED = {
    "toy_rows": """
        SELECT symbol, date_trunc('hour', "timestamp", 'UTC'), count(*) FROM stock_prices GROUP BY 1, 2 ORDER BY 1, 2""",
    "toy_notional": """
        SELECT symbol, date_trunc('day', "timestamp", 'UTC'), sum(price::numeric * volume::numeric),
               avg(price_moving_avg ORDER BY "timestamp")::numeric(40, 3)
        FROM stock_analytics_data GROUP BY 1, 2 ORDER BY 1, 2""",
    "toy_bars": """
        SELECT symbol, to_timestamp(floor(extract(epoch FROM "timestamp") / 1800) * 1800),
               (array_agg(price ORDER BY "timestamp") FILTER (WHERE price IS NOT NULL))[1], sum(volume ORDER BY "timestamp"),
               ARRAY[nullif(count(price), 0), nullif(count(volume), 0)]::int[]
        FROM (
            SELECT symbol, "timestamp", price, NULL::float8 AS volume FROM stock_prices
            UNION ALL SELECT symbol, "timestamp", NULL, volume FROM stock_volumes
        ) x GROUP BY 1, 2 ORDER BY 1, 2""",
    "toy_cheap": """
        SELECT symbol, date_trunc('hour', "timestamp", 'UTC'), max(price) FROM stock_prices
        GROUP BY 1, 2 HAVING max(price) < 500 ORDER BY 1, 2""",
}
TOYS = (ROWS, NOTIONAL, BARS, CHEAP)
ACTUAL = {toy.name: f"TABLE {toy.name} ORDER BY 1, 2" for toy in TOYS}


@contextmanager
def declaring(*outputs: Output) -> Iterator[None]:
    """This process declares these outputs while inside."""
    declare(*outputs)
    try:
        yield
    finally:
        for output in outputs:
            del DECLARED[output.name]


def partitioned(width: Partitioning) -> tuple[Output, ...]:
    """The toys, all with partitions of one width, or of a day where theirs must be wider."""
    return tuple(
        replace(toy, partitioning=Partitioning.DAILY if width is Partitioning.HOURLY and toy is NOTIONAL else width)
        for toy in TOYS
    )
