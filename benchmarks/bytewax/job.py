"""A Bytewax dataflow: a stateful mean per symbol, a join by symbol and time, upserts with ``unnest``.

The step that decodes messages (``filter_map``) drops bad ones, by the rules that the Python jobs share.
"""

import os
from typing import Any

import bytewax.operators as op
import psycopg
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main
from rules import good

WINDOW_ROWS = 5
WRITE_ROWS = 5_000
Row = dict[str, Any]


class TableWriter(StatelessSinkPartition[Row]):
    """Collects rows for a statement of ``WRITE_ROWS``. It upserts, because a replay after a crash meets its own rows."""

    def __init__(self, table: str, columns: dict[str, str]) -> None:
        self._connection = psycopg.connect(os.environ["PEER_DATABASE_URL"], autocommit=True)
        self._columns = list(columns)
        names = ", ".join(f'"{name}"' for name in columns)
        arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
        changed = ", ".join(f'"{name}" = EXCLUDED."{name}"' for name in self._columns[2:])
        self._statement = (
            f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) "
            f'ON CONFLICT (symbol, "timestamp") DO UPDATE SET {changed}'
        )
        self._rows: list[Row] = []

    def write_batch(self, items: list[Row]) -> None:
        self._rows += items
        if len(self._rows) >= WRITE_ROWS:
            self._write()

    def _write(self) -> None:
        arrays = [[row.get(name) for row in self._rows] for name in self._columns]
        self._connection.execute(self._statement, arrays)
        self._rows.clear()

    def close(self) -> None:
        if self._rows:
            self._write()
        self._connection.close()


class TableSink(DynamicSink[Row]):
    """Writes rows into ``table``."""

    def __init__(self, table: str, **columns: str) -> None:
        self._table = table
        self._columns = {"symbol": "text", "timestamp": "timestamptz"} | columns

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TableWriter:
        return TableWriter(self._table, self._columns)


def averaged(name: str, value: str, average: str, flow: Dataflow) -> op.KeyedStream[Row]:
    """One topic's rows with their moving average, keyed by symbol."""

    def mean(last: list[float] | None, row: Row) -> tuple[list[float], Row]:
        window = [*(last or [])[-(WINDOW_ROWS - 1) :], row[value]]
        return window, row | {average: sum(window) / len(window)}

    def keyed(message: KafkaSourceMessage[bytes, bytes]) -> tuple[str, Row] | None:
        row = good(message.value, value, message.timestamp[1])
        return None if row is None else (row["symbol"], row)

    topic = os.environ[f"PEER_{name.upper()}_TOPIC"]
    source = KafkaSource([os.environ["PEER_BOOTSTRAP_SERVERS"]], [topic], tail=False)
    read = op.filter_map(f"{name}_decode", op.input(f"{name}_read", flow, source), keyed)
    return op.stateful_map(f"{name}_mean", read, mean)


def by_key(item: tuple[str, Row]) -> tuple[str, Row]:
    """The item with symbol and time as its key."""
    symbol, row = item
    return f"{symbol} {row['timestamp']}", row


def joined_row(item: tuple[str, tuple[Row, Row]]) -> Row:
    """The joined row of a pair."""
    price, volume = item[1]
    return price | volume | {"price_volume_ratio": price["price"] / volume["volume"] if volume["volume"] else None}


def dataflow() -> Dataflow:
    """Two topics into three tables."""
    flow = Dataflow("ticks")
    prices = averaged("prices", "price", "price_moving_avg", flow)
    volumes = averaged("volumes", "volume", "trading_volume_moving_avg", flow)
    joined = op.join("join", op.map("prices_key", prices, by_key), op.map("volumes_key", volumes, by_key))
    number = "float8"
    price = {"price": number, "price_moving_avg": number}
    volume = {"volume": number, "trading_volume_moving_avg": number}
    extremes = {"open_price": number, "high_price": number, "low_price": number}
    op.output("prices_write", op.key_rm("prices_rows", prices), TableSink("stock_prices", **price, **extremes))
    op.output("volumes_write", op.key_rm("volumes_rows", volumes), TableSink("stock_volumes", **volume))
    pairs = op.map("pairs", joined, joined_row)
    op.output("pairs_write", pairs, TableSink("stock_analytics_data", **price, **volume, price_volume_ratio=number))
    return flow


if __name__ == "__main__":
    cluster_main(dataflow(), [], 0)
