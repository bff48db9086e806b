"""The demo's producer: sends a history at once, and then each tick at its own time."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Protocol

from tickloom.synthetic import Tick, TickSettings, TopicSide, history, live

TOPICS: dict[TopicSide, str] = {"prices": "stock_prices", "volumes": "stock_volumes"}


class Stop(Protocol):
    """An event of threading or of asyncio; this module only asks whether it is set."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """``rate``: pairs a second. First ``history_pairs`` are sent, whose times spread over the last ``history_days``."""

    rate: float = 500.0
    symbols: int = 200
    history_pairs: int = 5_000
    history_days: float = 1.0
    bad_share: float = 0.01
    disorder_share: float = 0.05
    repeat_share: float = 0.02


def sender(producer: Any, settings: DemoSettings, stop: Stop) -> threading.Thread:
    """The producer's thread, not yet started. It ends when ``stop`` is set."""
    return threading.Thread(target=_send, args=(producer, settings, stop), daemon=True)


def _send(producer: Any, settings: DemoSettings, stop: Stop) -> None:
    started = datetime.now(UTC)
    ticks = TickSettings(
        symbols=settings.symbols,
        seed=int(started.timestamp()),
        disorder_share=settings.disorder_share,
        disorder_max_seconds=5,
        repeat_share=settings.repeat_share,
        bad_share=settings.bad_share,
        step_seconds=1 / settings.rate,
    )
    past = history(ticks, settings.history_pairs, settings.history_days, started)
    for tick in chain(past, live(ticks, started)):
        while (ahead := tick.timestamp_ms / 1_000 - time.time()) > 0 and not stop.is_set():
            producer.poll(0)
            time.sleep(min(ahead, 0.05))
        if stop.is_set():
            break
        _produce(producer, tick)
    producer.flush(5)


def _produce(producer: Any, tick: Tick) -> None:
    while True:
        try:
            producer.produce(TOPICS[tick.topic_side], tick.value, tick.key, timestamp=tick.timestamp_ms)
            return
        except BufferError:  # librdkafka's queue is full: let it send some
            producer.poll(0.05)
