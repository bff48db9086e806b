"""A Quix Streams application: a stateful mean a symbol, an interval join, and its own Postgres sink."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Consumer, TopicPartition
from quixstreams import Application, State
from quixstreams.sinks.community.postgresql import PostgreSQLSink

WINDOW_ROWS = 5
PRICES, VOLUMES = os.environ["PEER_PRICES_TOPIC"], os.environ["PEER_VOLUMES_TOPIC"]
BOOTSTRAP_SERVERS = os.environ["PEER_BOOTSTRAP_SERVERS"]
Row = dict[str, Any]


def log_ends() -> dict[tuple[str, int], int]:
    """Where the log ends now, for every partition that holds something."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP_SERVERS, "group.id": "ends"})
    ends: dict[tuple[str, int], int] = {}
    for topic in (PRICES, VOLUMES):
        for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            if high:
                ends[topic, partition] = high
    consumer.close()
    return ends


def averaged(value: str, average: str) -> Callable[[Row, State], Row]:
    """A row with its moving average; the window is in the state of its key."""

    def add(row: Row, state: State) -> Row:
        window = [*state.get("window", [])[-(WINDOW_ROWS - 1) :], row[value]]
        state.set("window", window)
        return row | {average: sum(window) / len(window)}

    return add


def event_ms(row: Row, *_: Any) -> int:
    """What the join goes by: the time in the message, not that of its sending."""
    return int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)


def met(price: Row, volume: Row) -> Row | None:
    """The row of a pair; the join is by milliseconds, the key is not."""
    if price["timestamp"] != volume["timestamp"]:
        return None
    ratio = price["price"] / volume["volume"] if volume["volume"] else None
    columns = ("symbol", "timestamp", "price", "price_moving_avg")
    return {name: price[name] for name in columns} | volume | {"price_volume_ratio": ratio}


def table(name: str) -> PostgreSQLSink:
    """The sink of a table that is there already."""
    url = urlsplit(os.environ["PEER_DATABASE_URL"])
    return PostgreSQLSink(
        host=url.hostname or "",
        port=url.port or 5432,
        dbname=url.path[1:],
        user=url.username or "",
        password=url.password or "",
        table_name=name,
        schema_auto_update=False,
        primary_key_columns=["symbol", "timestamp"],
        upsert_on_primary_key=True,
        include_metadata=False,
    )


def main() -> None:
    """Up to the log's end as it is at the start."""
    ends = log_ends()

    def on_message_processed(topic: str, partition: int, offset: int) -> None:
        if offset + 1 >= ends.get((topic, partition), 0) and ends.pop((topic, partition), None) and not ends:
            app.stop()

    app = Application(
        broker_address=BOOTSTRAP_SERVERS,
        consumer_group=os.environ["PEER_GROUP"],
        auto_offset_reset="earliest",
        state_dir=os.environ["PEER_STATE_FOLDER"],
        on_message_processed=on_message_processed,
    )
    prices, volumes = (app.dataframe(app.topic(topic, timestamp_extractor=event_ms)) for topic in (PRICES, VOLUMES))
    prices = prices.apply(averaged("price", "price_moving_avg"), stateful=True)
    volumes = volumes.apply(averaged("volume", "trading_volume_moving_avg"), stateful=True)
    pairs = prices.join_interval(volumes, on_merge=met, grace_ms=timedelta(hours=1))
    pairs.filter(lambda pair: pair is not None).sink(table("stock_analytics_data"))
    prices.sink(table("stock_prices"))
    volumes.sink(table("stock_volumes"))
    app.run()


if __name__ == "__main__":
    main()
