"""``python -m producer``: a few days of history as fast as the broker takes it, then ticks in real time.

Every option is also an environment variable, ``PRODUCER_`` + its name in capitals. The broker and the topics fall back to
tickloom's own variables. Exit codes: 0 done, or stopped by a signal, and everything was delivered; 1 messages were not
delivered; 2 a mistake in the options.
"""

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, cast

import typer
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tickloom.shapes import PLAIN, Shape, reshaped, shape_named
from tickloom.synthetic import Tick, TickSettings, TopicSide, history, live

FLUSH_SECONDS = 30.0
ADMIN_SECONDS = 30.0
RETENTION_MS = 31 * 86_400_000
"""Retention of the topics created here: the largest age that tickloom accepts. The broker's usual week would lose a part of
ten days of history."""
EXAMPLE = (
    "Example: python -m producer --bootstrap-servers localhost:9092 --create-topics --disorder 0.1\n\n"
    "Only a history, for a benchmark: python -m producer --records 500000 --count 1000000"
)

console = Console(stderr=True)


class Sender:
    """Sends ticks with an idempotent producer, keyed by symbol, and counts the delivered ones.

    Belongs to the main thread: librdkafka calls back inside ``send``, ``poll`` and ``close`` only.
    """

    def __init__(self, bootstrap_servers: str, topics: dict[TopicSide, str]) -> None:
        self.delivered = 0
        self.failed = 0
        self.last_error = ""
        self.broken = threading.Event()
        self._topics = topics
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": "tickloom-producer",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                # Java's default, so that other producers of these topics send a symbol to the same partition
                "partitioner": "murmur2_random",
                "error_cb": self._on_error,
            }
        )

    def send(self, tick: Tick) -> None:
        """Hand a tick to librdkafka; blocks while its queue is full, unless the producer is broken."""
        topic = self._topics[tick.topic_side]
        while not self.broken.is_set():
            try:
                self._producer.produce(
                    topic, tick.value, tick.key, timestamp=tick.timestamp_ms, on_delivery=self._on_delivery
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def poll(self, seconds: float) -> None:
        """Handle delivery reports for up to ``seconds``."""
        self._producer.poll(seconds)

    def close(self) -> None:
        """Wait up to ``FLUSH_SECONDS`` for delivery; messages that are not delivered by then count as failed."""
        left = self._producer.flush(FLUSH_SECONDS)
        if left:
            self.failed += left
            self.last_error = self.last_error or f"still not delivered after {FLUSH_SECONDS:.0f} s"

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.delivered += 1
        else:
            self._note(error)
            self.failed += 1

    def _on_error(self, error: KafkaError) -> None:
        self._note(error)
        if error.fatal():  # an idempotent producer cannot go on without a duplicate or a gap
            self.broken.set()

    def _note(self, error: KafkaError) -> None:
        if not self.last_error:
            console.print(f"producer: {error.str()}", style="yellow", highlight=False, soft_wrap=True)
        self.last_error = error.str()


def create_missing_topics(bootstrap_servers: str, topics: Iterable[str], partitions: int) -> None:
    """Create the topics that do not exist, and leave the others unchanged. Raises ``KafkaException``, ``TimeoutError``."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    config = {"retention.ms": str(RETENTION_MS)}
    wanted = [NewTopic(topic, num_partitions=partitions, config=config) for topic in topics]
    creating = cast(  # the futures are not typed
        dict[str, Future[None]],
        admin.create_topics(wanted, operation_timeout=ADMIN_SECONDS),  # pyright: ignore[reportUnknownMemberType]
    )
    for topic, created in creating.items():
        try:
            created.result(ADMIN_SECONDS)
            console.print(f"created topic {topic} with {partitions} partitions", highlight=False, soft_wrap=True)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def send_history(sender: Sender, ticks: Iterable[Tick], total: int, stop: threading.Event) -> int:
    """Send all ticks as fast as possible, with a progress bar; returns how many were sent."""
    columns = (TextColumn("history"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    sent = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("history", total=total)
        for tick in _until(stop, sender.broken, ticks):
            sender.send(tick)
            sent += 1
            if sent % 1_000 == 0:
                progress.update(task, completed=sent)
        progress.update(task, completed=sent, total=sent)
    return sent


def send_live(sender: Sender, ticks: Iterable[Tick], stop: threading.Event) -> int:
    """Send each tick at its own time, or at once if that has passed; returns how many were sent."""
    sent = 0
    for tick in _until(stop, sender.broken, ticks):
        while (ahead := tick.timestamp_ms / 1_000 - time.time()) > 0 and not stop.is_set():
            sender.poll(0)
            stop.wait(min(ahead, 0.1))
        if stop.is_set():
            break
        sender.send(tick)
        sent += 1
    return sent


def _until(stop: threading.Event, broken: threading.Event, ticks: Iterable[Tick]) -> Iterator[Tick]:
    for tick in ticks:
        if stop.is_set() or broken.is_set():
            return
        yield tick


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def _report(sender: Sender) -> int:
    """Print the last line; returns the exit code."""
    console.print(f"delivered {sender.delivered}, failed {sender.failed}", highlight=False, soft_wrap=True)
    if sender.failed or sender.broken.is_set():
        console.print(
            f"not all messages were delivered: {sender.last_error}; check the broker, then run again",
            style="red",
        )
        return 1
    return 0


def _option(
    name: str, text: str, *fallbacks: str, min: float | None = None, max: float | None = None
) -> typer.models.OptionInfo:
    """An option with its environment variables; its ``PRODUCER_`` variable comes first."""
    own = "PRODUCER_" + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, envvar=[own, *fallbacks], help=text, min=min, max=max)


def main(
    bootstrap_servers: Annotated[
        str, _option("--bootstrap-servers", "Brokers, `host:port,…`.", "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS")
    ] = "localhost:9092",
    prices_topic: Annotated[
        str, _option("--prices-topic", "Topic of prices.", "TICKLOOM_PRICES_TOPIC")
    ] = "stock_prices",
    volumes_topic: Annotated[
        str, _option("--volumes-topic", "Topic of volumes.", "TICKLOOM_VOLUMES_TOPIC")
    ] = "stock_volumes",
    symbols: Annotated[int, _option("--symbols", "Number of symbols.", min=1)] = 5_000,
    days: Annotated[float, _option("--days", "How many days back the history begins.", min=0)] = 10,
    records: Annotated[int, _option("--records", "Pairs of history; 0 for none.", min=0)] = 10_000,
    rate: Annotated[float, _option("--rate", "Pairs per second when live.", min=0.001)] = 100,
    count: Annotated[
        int, _option("--count", "Messages to send in total, history included; 0 means without end.", min=0)
    ] = 0,
    disorder: Annotated[float, _option("--disorder", "Share of messages sent late.", min=0, max=1)] = 0,
    disorder_seconds: Annotated[float, _option("--disorder-seconds", "How late at most.", min=0)] = 60,
    late_days: Annotated[float, _option("--late-days", "Share of pairs 1 to 3 days late.", min=0, max=1)] = 0,
    repeats: Annotated[
        float, _option("--repeats", "Share of messages sent again, half of them corrected.", min=0, max=1)
    ] = 0,
    one_sided: Annotated[
        float, _option("--one-sided", "Share of pairs of which one side is missing.", min=0, max=1)
    ] = 0,
    bad: Annotated[float, _option("--bad", "Share of messages that must be rejected.", min=0, max=1)] = 0,
    shape: Annotated[str, _option("--shape", "How the messages are written, `realistic` for example.")] = PLAIN.name,
    seed: Annotated[int, _option("--seed", "The same seed gives the same prices, volumes and faults.")] = 1,
    create_topics: Annotated[bool, _option("--create-topics", "Create the topics that are missing.")] = False,
    partitions: Annotated[int, _option("--partitions", "Partitions of a created topic.", min=1)] = 4,
) -> None:
    """Fill the two topics with synthetic ticks: first a history, then live."""
    stop = _stop_on_signals()
    chosen_shape = _shape_or_exit(shape)
    settings = TickSettings(
        symbols=symbols,
        seed=seed,
        disorder_share=disorder,
        disorder_max_seconds=disorder_seconds,
        late_days_share=late_days,
        repeat_share=repeats,
        bad_share=bad,
        one_sided_share=one_sided,
        step_seconds=1 / rate,
    )
    topics: dict[TopicSide, str] = {"prices": prices_topic, "volumes": volumes_topic}
    try:
        past = reshaped(history(settings, records, days, datetime.now(UTC)), chosen_shape, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if create_topics:
        _create_or_exit(bootstrap_servers, topics.values(), partitions)
    sender = Sender(bootstrap_servers, topics)
    total = min(2 * records, count or 2 * records)
    sent = send_history(sender, islice(past, count or None), total, stop) if records else 0
    # the clock is read again: the history took time, and the live part must not begin with a burst
    live_ticks = reshaped(live(settings, datetime.now(UTC)), chosen_shape, seed)
    if not count or sent < count:
        send_live(sender, islice(live_ticks, count - sent if count else None), stop)
    sender.close()
    raise typer.Exit(_report(sender))


def _shape_or_exit(name: str) -> Shape:
    try:
        return shape_named(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shape") from error


def _create_or_exit(bootstrap_servers: str, topics: Iterable[str], partitions: int) -> None:
    try:
        create_missing_topics(bootstrap_servers, topics, partitions)
    except (KafkaException, TimeoutError) as error:
        console.print(
            f"cannot create the topics at {bootstrap_servers}: {error}; is the broker up? If not, start it, or fix "
            f"--bootstrap-servers",
            style="red",
        )
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLE)(main)
    app(prog_name="python -m producer")
