"""Spark Structured Streaming: both topics as one stream; ``foreachBatch`` averages, joins and writes by JDBC.

A batch needs the last rows of each symbol, and the rows of one side whose other side has not come yet. Both are carried from
batch to batch as small tables, and read back from Postgres at the start. No Python runs per row.

``from_json`` returns null for a message that it cannot read, and a filter drops bad messages. None of this is logged.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f

WINDOW_ROWS = 5
TRIGGER_MESSAGES = 100_000
KEY = ["symbol", "timestamp"]
MESSAGE = "symbol string, price double, open_price double, high_price double, low_price double, volume double, timestamp timestamp"

URL = urlsplit(os.environ["PEER_DATABASE_URL"])
JDBC = f"jdbc:postgresql://{URL.hostname}:{URL.port}{URL.path}?reWriteBatchedInserts=true"
OPTIONS = {
    "user": URL.username or "",
    "password": URL.password or "",
    "driver": "org.postgresql.Driver",
    "batchsize": "10000",
}


@dataclass
class Side:
    """One topic and its table, and the rows that are carried to the next batch."""

    topic: str
    table: str
    value: str
    average: str
    others: tuple[str, ...] = ()
    tails: DataFrame | None = None
    """Key and value of the last rows of each symbol."""
    lone: DataFrame | None = None
    """Key, value and average of the rows whose other side has not come yet."""

    def restore(self, spark: SparkSession) -> None:
        """Read the carried rows back from the tables of an earlier run."""
        newest = (
            f'SELECT *, row_number() OVER (PARTITION BY symbol ORDER BY "timestamp" DESC) AS newest FROM {self.table}'
        )
        tails = f'(SELECT symbol, "timestamp", {self.value} FROM ({newest}) x WHERE newest < {WINDOW_ROWS}) tails'
        met = 'SELECT FROM stock_analytics_data a WHERE (a.symbol, a."timestamp") = (s.symbol, s."timestamp")'
        lone = f'(SELECT symbol, "timestamp", {self.value}, {self.average} FROM {self.table} s WHERE NOT EXISTS ({met})) lone'
        self.tails = spark.read.jdbc(JDBC, tails, properties=OPTIONS).localCheckpoint()
        self.lone = spark.read.jdbc(JDBC, lone, properties=OPTIONS).localCheckpoint()

    def averaged(self, batch: DataFrame) -> DataFrame:
        """The rows of a batch with their averages. Also updates the tails."""
        rows = batch.where(f.col("topic") == self.topic).select(
            *KEY, self.value, *self.others, f.lit(True).alias("new")
        )
        both = rows.unionByName(self.tails.withColumn("new", f.lit(False)), allowMissingColumns=True)
        by_symbol = Window.partitionBy("symbol")
        window = by_symbol.orderBy("timestamp").rowsBetween(1 - WINDOW_ROWS, 0)
        newest = f.row_number().over(by_symbol.orderBy(f.desc("timestamp")))
        done = both.withColumn(self.average, f.avg(self.value).over(window)).withColumn("newest", newest).persist()
        self.tails = done.where(f.col("newest") < WINDOW_ROWS).select(*KEY, self.value).localCheckpoint()
        return done.where("new").select(*KEY, self.value, *self.others, self.average)


SIDES = (
    Side(
        os.environ["PEER_PRICES_TOPIC"],
        "stock_prices",
        "price",
        "price_moving_avg",
        ("open_price", "high_price", "low_price"),
    ),
    Side(os.environ["PEER_VOLUMES_TOPIC"], "stock_volumes", "volume", "trading_volume_moving_avg"),
)


def is_good() -> Column:
    """Whether a message is good. A condition that is null is not true, so the message is bad."""
    value = f.when(f.col("topic") == SIDES[0].topic, f.col("price")).otherwise(f.col("volume"))
    sent = f.col("sent")
    return (
        f.col("json").rlike(r'"symbol"\s*:\s*"')  # otherwise from_json would turn a number into a string
        & f.length("symbol").between(1, 64)
        & ~f.col("symbol").rlike(r"\p{Cntrl}")
        & (f.abs(value) <= 1e15)
        & f.coalesce(f.col("volume") >= 0, f.lit(True))
        & f.col("timestamp").between(sent - f.expr("INTERVAL 31 DAYS"), sent + f.expr("INTERVAL 1 DAY"))
        & f.coalesce(f.col("high_price") >= f.col("low_price"), f.lit(True))
    )


def write(rows: DataFrame, table: str) -> None:
    """Append ``rows``."""
    rows.write.jdbc(JDBC, table, mode="append", properties=OPTIONS)


def load(batch: DataFrame, _: int) -> None:
    """Write a batch into the three tables."""
    batch.persist()
    halves: list[DataFrame] = []
    for side in SIDES:
        averaged = side.averaged(batch)
        write(averaged, side.table)
        halves.append(averaged.select(*KEY, side.value, side.average).unionByName(side.lone))
    joined = halves[0].join(halves[1], KEY, "full_outer").persist()
    ratio = f.when(f.col("volume") != 0, f.col("price") / f.col("volume"))
    write(joined.dropna(subset=["price", "volume"]).withColumn("price_volume_ratio", ratio), "stock_analytics_data")
    for side, other in (SIDES, SIDES[::-1]):
        side.lone = joined.where(f.col(other.value).isNull()).select(*KEY, side.value, side.average).localCheckpoint()
    batch.sparkSession.catalog.clearCache()


def main() -> None:
    """Process the log up to its end at the start."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    jars = sorted(map(str, Path(os.environ["PEER_JARS_FOLDER"]).glob("*.jar")))
    spark = (
        SparkSession.builder.master("local[*]")
        .appName("ticks")
        .config("spark.jars", ",".join(jars))
        .config("spark.driver.memory", "2g")
        .config("spark.sql.shuffle.partitions", str(os.cpu_count()))
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    for side in SIDES:
        side.restore(spark)
    log = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", os.environ["PEER_BOOTSTRAP_SERVERS"])
        .option("subscribe", ",".join(side.topic for side in SIDES))
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", TRIGGER_MESSAGES)
        .load()
    )
    message = f.from_json("json", MESSAGE, {"allowNonNumericNumbers": "false"})
    query = (
        log.select("topic", f.col("timestamp").alias("sent"), f.col("value").cast("string").alias("json"))
        .select("topic", "sent", "json", message.alias("message"))
        .select("topic", "sent", "json", "message.*")
        .where(is_good())
        .drop("sent", "json")
        .writeStream.foreachBatch(load)
        .option("checkpointLocation", os.environ["PEER_STATE_FOLDER"])
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    spark.stop()


if __name__ == "__main__":
    main()
