"""The job that people write first: collect a batch, compute with pandas, ``to_sql``, commit, repeat.

It skips bad messages as it reads them, by the rules that the Python jobs share.
"""

import os
from typing import Any

import pandas as pd
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rules import good
from sqlalchemy import Engine, create_engine

BATCH_MESSAGES = 5_000
WINDOW_ROWS = 5
PRICES, VOLUMES = os.environ["PEER_PRICES_TOPIC"], os.environ["PEER_VOLUMES_TOPIC"]
COLUMNS = {
    PRICES: ["symbol", "timestamp", "price", "open_price", "high_price", "low_price"],
    VOLUMES: ["symbol", "timestamp", "volume"],
}


def log_ends(consumer: Consumer, topic: str) -> dict[tuple[str, int], int]:
    """The current end of each partition of the topic that is not empty."""
    ends: dict[tuple[str, int], int] = {}
    for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
        if high:
            ends[topic, partition] = high
    return ends


def frame(rows: list[dict[str, Any]], columns: list[str], average: str) -> pd.DataFrame:
    """One side of a batch with its moving average, which is that of the third column."""
    side = pd.DataFrame(rows, columns=columns)
    side["timestamp"] = pd.to_datetime(side["timestamp"], utc=True, format="ISO8601")
    side = side.sort_values("timestamp")
    rolling = side.groupby("symbol")[columns[2]].rolling(WINDOW_ROWS, min_periods=1)
    side[average] = rolling.mean().reset_index(level=0, drop=True)
    return side


def load(engine: Engine, batch: dict[str, list[dict[str, Any]]]) -> None:
    """Write both sides of a batch and their joined rows into the tables."""
    frames: dict[str, pd.DataFrame] = {}
    if batch[PRICES]:
        frames["stock_prices"] = frame(batch[PRICES], COLUMNS[PRICES], "price_moving_avg")
    if batch[VOLUMES]:
        frames["stock_volumes"] = frame(batch[VOLUMES], COLUMNS[VOLUMES], "trading_volume_moving_avg")
    if len(frames) == 2:
        prices = frames["stock_prices"][["symbol", "timestamp", "price", "price_moving_avg"]]
        merged = prices.merge(frames["stock_volumes"], on=["symbol", "timestamp"])
        merged["price_volume_ratio"] = merged["price"] / merged["volume"].where(merged["volume"] != 0)
        frames["stock_analytics_data"] = merged
    with engine.begin() as connection:
        for table, rows in frames.items():
            rows.to_sql(table, connection, if_exists="append", index=False)


def collect(consumer: Consumer, value: str, ends: dict[tuple[str, int], int]) -> list[dict[str, Any]]:
    """Read a batch from one topic, or less at the end of the log. Removes the ends that it reaches from ``ends``."""
    rows: list[dict[str, Any]] = []
    while ends and len(rows) < BATCH_MESSAGES:
        for message in consumer.consume(BATCH_MESSAGES - len(rows), timeout=1.0):
            if message.error():
                raise KafkaException(message.error())
            row = good(message.value(), value, message.timestamp()[1])
            if row is not None:
                rows.append(row)
            at = (message.topic(), message.partition())
            if message.offset() + 1 >= ends.get(at, 0):
                ends.pop(at, None)
    return rows


def main() -> None:
    """Process the log up to its end at the start."""
    engine = create_engine(os.environ["PEER_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://"))
    settings = {
        "bootstrap.servers": os.environ["PEER_BOOTSTRAP_SERVERS"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    # One consumer per topic, because a single one would read a backlog topic by topic. Even so, each reads it partition by
    # partition in its own order, and a pair meets only if both consumers happen to be at the same place.
    consumers = {
        topic: Consumer(settings | {"group.id": f"{os.environ['PEER_GROUP']}-{topic}"}) for topic in (PRICES, VOLUMES)
    }
    ends = {topic: log_ends(consumer, topic) for topic, consumer in consumers.items()}
    for topic, consumer in consumers.items():
        consumer.subscribe([topic])
    while any(ends.values()):
        batch = {topic: collect(consumer, COLUMNS[topic][2], ends[topic]) for topic, consumer in consumers.items()}
        load(engine, batch)
        for topic, consumer in consumers.items():
            if batch[topic]:
                consumer.commit(asynchronous=False)
    for consumer in consumers.values():
        consumer.close()


if __name__ == "__main__":
    main()
