"""A Quix Streams application: a stateful mean per symbol, an interval join, and its own Postgres sink.

Quix Streams' callback for it (``on_consumer_error``) skips messages that are not JSON. Other bad messages, by the rules that
the Python jobs share, get no event time, and ``filter`` drops them.
"""

import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import Consumer, TopicPartition
from quixstreams import Application, State
from quixstreams.models.serializers.exceptions import SerializationError
from quixstreams.sinks.community.postgresql import PostgreSQLSink
from rules import is_good

WINDOW_ROWS = 5
PRICES, VOLUMES = os.environ["PEER_PRICES_TOPIC"], os.environ["PEER_VOLUMES_TOPIC"]
BOOTSTRAP_SERVERS = os.environ["PEER_BOOTSTRAP_SERVERS"]
Row = dict[str, Any]
KEY = ("symbol", "timestamp")
PRICE, VOLUME = ("price", "open_price", "high_price", "low_price"), ("volume",)


def log_ends() -> dict[tuple[str, int], int]:
    """The current end of each partition that is not empty."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP_SERVERS, "group.id": "ends"})
    ends: dict[tuple[str, int], int] = {}
    for topic in (PRICES, VOLUMES):
        for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions:
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            if high:
                ends[topic, partition] = high
    consumer.close()
    return ends


def averaged(columns: tuple[str, ...], average: str) -> Callable[[Row, State], Row]:
    """Adds to a row the moving average of the first of ``columns``. The window is in the state of the row's key."""

    def add(row: Row, state: State) -> Row:
        window = [*state.get("window", [])[-(WINDOW_ROWS - 1) :], row[columns[0]]]
        state.set("window", window)
        return {name: row[name] for name in KEY + columns} | {average: sum(window) / len(window)}

    return add


def event_time_of(value_name: str) -> Callable[[Any, Any, int, Any], int]:
    """The timestamp for the join: the time in the message instead of the record's time; 0 for a bad message.

    Messages are judged here, because only here the record's time is known.
    """

    def event_ms(row: Any, _: Any, record_ms: int, __: Any) -> int:
        if not is_good(row, value_name, record_ms):
            return 0
        return int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)

    return event_ms


def is_good_message(_: Any, __: Any, event_ms: int, ___: Any) -> bool:
    """Whether the message is good."""
    return event_ms > 0


def joined_row(price: Row, volume: Row) -> Row | None:
    """The joined row of a pair; None if the times are equal only to the millisecond, by which Quix Streams joins."""
    if price["timestamp"] != volume["timestamp"]:
        return None
    ratio = price["price"] / volume["volume"] if volume["volume"] else None
    columns = ("symbol", "timestamp", "price", "price_moving_avg")
    return {name: price[name] for name in columns} | volume | {"price_volume_ratio": ratio}


def table(name: str) -> PostgreSQLSink:
    """The sink for an existing table."""
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
    """Process the log up to its end at the start."""
    ends = log_ends()

    def on_message_processed(topic: str, partition: int, offset: int) -> None:
        if offset + 1 >= ends.get((topic, partition), 0) and ends.pop((topic, partition), None) and not ends:
            app.stop()

    def on_consumer_error(error: Exception, message: Any, _: Any) -> bool:
        """Skip a message that is not JSON, by returning True."""
        if not isinstance(error, SerializationError):
            return False
        logging.warning("a bad message is skipped: %s", error)
        on_message_processed(message.topic(), message.partition(), message.offset())
        return True

    app = Application(
        broker_address=BOOTSTRAP_SERVERS,
        consumer_group=os.environ["PEER_GROUP"],
        auto_offset_reset="earliest",
        state_dir=os.environ["PEER_STATE_FOLDER"],
        on_message_processed=on_message_processed,
        on_consumer_error=on_consumer_error,
    )
    prices, volumes = (
        app.dataframe(app.topic(topic, timestamp_extractor=event_time_of(name))).filter(is_good_message, metadata=True)
        for topic, name in ((PRICES, "price"), (VOLUMES, "volume"))
    )
    prices = prices.apply(averaged(PRICE, "price_moving_avg"), stateful=True)
    volumes = volumes.apply(averaged(VOLUME, "trading_volume_moving_avg"), stateful=True)
    pairs = prices.join_interval(volumes, on_merge=joined_row, grace_ms=timedelta(hours=1))
    pairs.filter(lambda pair: pair is not None).sink(table("stock_analytics_data"))
    prices.sink(table("stock_prices"))
    volumes.sink(table("stock_volumes"))
    app.run()


if __name__ == "__main__":
    main()
