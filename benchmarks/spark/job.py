"""Spark Structured Streaming: both topics as one stream, the state of a symbol in its store, ``foreachBatch`` to JDBC."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

WINDOW_ROWS = 5
TRIGGER_MESSAGES = 50_000
PRICES, VOLUMES = os.environ["PEER_PRICES_TOPIC"], os.environ["PEER_VOLUMES_TOPIC"]

MESSAGE = "symbol string, price double, open_price double, high_price double, low_price double, volume double, timestamp timestamp"
COLUMNS = {
    "stock_prices": ["price", "open_price", "high_price", "low_price", "price_moving_avg"],
    "stock_volumes": ["volume", "trading_volume_moving_avg"],
    "stock_analytics_data": [
        "price",
        "volume",
        "price_moving_avg",
        "trading_volume_moving_avg",
        "price_volume_ratio",
    ],
}
NUMBERS = list(dict.fromkeys(name for names in COLUMNS.values() for name in names))
OUTPUT = "table string, symbol string, timestamp timestamp, " + ", ".join(f"{name} double" for name in NUMBERS)
STATE = "document string"
"""As JSON: with an array in it, Spark 4.2 cannot read the state's schema back (KeyError: 'elementType')."""


class Side:
    """One side of a symbol: its last values, and those rows that wait for their other half."""

    def __init__(self, window: list[float], lone: list[tuple[int, float, float]]) -> None:
        self.window = window
        self.lone = {at: (value, average) for at, value, average in lone}

    def add(self, value: float) -> float:
        """The moving average at ``value``."""
        self.window = [*self.window[-(WINDOW_ROWS - 1) :], value]
        return sum(self.window) / len(self.window)

    def to_json(self) -> tuple[list[float], list[tuple[int, float, float]]]:
        """What makes it anew."""
        return self.window, [(at, *half) for at, half in self.lone.items()]


EMPTY = (([], []), ([], []))


def compute(key: tuple[str], frames: Iterator[pd.DataFrame], state: GroupState) -> Iterator[pd.DataFrame]:
    """The rows of the three tables that a symbol's new messages bring."""
    prices, volumes = (Side(*side) for side in (json.loads(state.get[0]) if state.exists else EMPTY))
    rows: list[dict[str, Any]] = []
    messages = pd.concat(frames).sort_values("timestamp")
    for message in messages.itertuples():
        at = message.timestamp.value
        row = {"symbol": key[0], "timestamp": message.timestamp}
        if message.topic == PRICES:
            mine, others, value = prices, volumes, message.price
            average = mine.add(value)
            extremes = {name: getattr(message, name) for name in ("open_price", "high_price", "low_price")}
            rows.append(row | extremes | {"table": "stock_prices", "price": value, "price_moving_avg": average})
        else:
            mine, others, value = volumes, prices, message.volume
            average = mine.add(value)
            rows.append(row | {"table": "stock_volumes", "volume": value, "trading_volume_moving_avg": average})
        if (other := others.lone.pop(at, None)) is None:
            mine.lone[at] = (value, average)
        else:
            price, volume = ((value, average), other) if mine is prices else (other, (value, average))
            rows.append(row | {"table": "stock_analytics_data"} | pair(*price, *volume))
    state.update((json.dumps([side.to_json() for side in (prices, volumes)]),))
    yield pd.DataFrame(rows, columns=["table", "symbol", "timestamp", *NUMBERS])


def pair(price: float, price_average: float, volume: float, volume_average: float) -> dict[str, float | None]:
    """The numbers of a row of the join."""
    ratio = price / volume if volume else None
    return dict(
        zip(COLUMNS["stock_analytics_data"], (price, volume, price_average, volume_average, ratio), strict=True)
    )


def load(batch: DataFrame, _: int) -> None:
    """A batch into the three tables."""
    url = urlsplit(os.environ["PEER_DATABASE_URL"])
    options = {"user": url.username, "password": url.password, "driver": "org.postgresql.Driver", "batchsize": "10000"}
    jdbc = f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}?reWriteBatchedInserts=true"
    batch.persist()
    for table, columns in COLUMNS.items():
        rows = batch.where(f.col("table") == table).select("symbol", "timestamp", *columns)
        rows.write.jdbc(jdbc, table, mode="append", properties=options)
    batch.unpersist()


def main() -> None:
    """Up to the log's end as it is at the start."""
    os.environ["PYSPARK_PYTHON"] = sys.executable  # the workers' Python: else the first one on the path
    jars = sorted(map(str, Path(os.environ["PEER_JARS_FOLDER"]).glob("*.jar")))
    spark = (
        SparkSession.builder.master("local[*]")
        .appName("ticks")
        .config("spark.jars", ",".join(jars))
        .config("spark.driver.memory", "2g")
        .config("spark.sql.shuffle.partitions", str(os.cpu_count()))
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    log = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", os.environ["PEER_BOOTSTRAP_SERVERS"])
        .option("subscribe", f"{PRICES},{VOLUMES}")
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", TRIGGER_MESSAGES)
        .load()
    )
    messages = log.select("topic", f.from_json(f.col("value").cast("string"), MESSAGE).alias("m")).select(
        "topic", "m.*"
    )
    rows = messages.groupBy("symbol").applyInPandasWithState(
        compute, OUTPUT, STATE, "append", GroupStateTimeout.NoTimeout
    )
    query = (
        rows.writeStream.foreachBatch(load)
        .option("checkpointLocation", os.environ["PEER_STATE_FOLDER"])
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    spark.stop()


if __name__ == "__main__":
    main()
