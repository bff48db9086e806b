"""consume: pulls raw Kafka messages, both topics side by side in record time, into a bounded queue.

``Reader`` fetches with two plain consumers (``assign()``, one for each topic) from the ledger's offsets on. It always reads
the side that is behind in record time, so that both halves of the join stay close together even in a backlog of hours. When
the queue is full, the reader stops reading; that is the only back-pressure, and no partition is ever paused. Membership of
the group is separate (``membership.py``).

The reader has a thread of its own, which talks to the event loop through ``call_soon_threadsafe`` only.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import confluent_kafka as kafka
import numpy as np

from tickloom.core.model import Chunk, EndOfPartition, Gap, ReadEvent, ReadFailed, Side, TopicPartition, side_of
from tickloom.errors import LogLost, Mistake, SourceRefuses, SourceUnavailable
from tickloom.logs import Logger
from tickloom.settings import GapPolicy, Settings
from tickloom.source.client_config import reader_config
from tickloom.source.clients import METADATA_TIMEOUT_SECONDS, make_consumer, translate

_log = Logger(__name__)

_CHUNK_MESSAGES = 10_000
_CHUNKS_HELD = 3
_BEHIND_WAIT_SECONDS = 0.05
_LIVE_WAIT_SECONDS = 0.02
_LINGER_SECONDS = 0.01
"""How long a live chunk waits for more messages, because the overhead of a chunk equals a hundred messages or more."""
_E = kafka.KafkaError


class ByteBudget:
    """Bounds the chunks between the reading thread and the event loop: their number, and the bytes of their values.

    One chunk is always admitted, regardless of its size. Both threads use this object, under its lock.
    """

    def __init__(self, max_chunks: int, max_bytes: int) -> None:
        self._max_chunks, self._max_bytes = max_chunks, max_bytes
        self._sizes: deque[int] = deque()  # of the chunks held, oldest first
        self._freed = threading.Condition()

    def take(self, size: int, timeout: float) -> bool:
        """Admit a chunk of ``size`` bytes; False if it did not fit within ``timeout`` seconds."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._fits(size), timeout):
                return False
            self._sizes.append(size)
            return True

    def give_back(self) -> None:
        """Release the oldest chunk."""
        with self._freed:
            self._sizes.popleft()
            self._freed.notify()

    def _fits(self, size: int) -> bool:
        return not self._sizes or (len(self._sizes) < self._max_chunks and sum(self._sizes) + size <= self._max_bytes)


class Reader:
    """Reads the assigned partitions of both topics, in one thread that lives from ``start`` to ``stop``.

    ``watermarks`` must come before ``start``; ``next_event`` belongs to one task of the event loop.
    """

    def __init__(self, settings: Settings, partitions: frozenset[TopicPartition]) -> None:
        """Raises ``SettingsError``. Connects lazily."""
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sides = side_of(settings)
        self._partitions = partitions
        self._chunk_messages = min(_CHUNK_MESSAGES, settings.batch_max_messages)  # a chunk is never split
        self._queue: asyncio.Queue[ReadEvent] = asyncio.Queue()
        self._budget = ByteBudget(_CHUNKS_HELD, settings.fetch_max_bytes)
        self._stop = threading.Event()
        self._asking = threading.Lock()  # so that no consumer is closed while another thread calls it
        self.cpu_seconds = 0.0  # of the thread so far; only the thread writes it
        config = reader_config(settings)
        self._consumers: dict[Side, Any] = {side: make_consumer(config) for side in self._sides.values()}
        self._positions: dict[TopicPartition, int] = {}
        self._newest_ms: dict[Side, dict[int, int]] = {side: {} for side in Side}  # by partition
        self._unfinished: dict[Side, set[int]] = {side: set() for side in Side}  # partitions not seen at their end
        self._thread = threading.Thread(target=self._run, name="tickloom-reader", daemon=True)

    def watermarks(self) -> dict[TopicPartition, tuple[int, int]]:
        """First offset and end of each partition's log. The end is the last stable offset, because later messages cannot be
        read yet. Blocks. Raises ``SourceUnavailable``, ``Mistake``.
        """
        with self._asking:
            return {at: self._watermark(at) for at in sorted(self._partitions)}

    def start(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read from ``positions`` on, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._positions = dict(positions)
        for topic, side in self._sides.items():
            mine = [
                kafka.TopicPartition(topic, at.partition, offset)
                for at, offset in positions.items()
                if at.topic == topic
            ]
            self._unfinished[side] = {at.partition for at in mine}
            self._newest_ms[side] = {at.partition: 0 for at in mine}
            self._consumers[side].assign(mine)
        self._thread.start()

    async def next_event(self, timeout: float | None) -> ReadEvent | None:
        """The next event; None when ``timeout`` seconds (None: no limit) pass without one."""
        try:
            async with asyncio.timeout(timeout):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(event, Chunk):
            self._budget.give_back()
        return event

    def stop(self) -> None:
        """End the thread and close the connections. Blocks for as long as one question to the brokers may take."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._asking:
            for consumer in self._consumers.values():
                with suppress(kafka.KafkaException, RuntimeError):
                    consumer.close()

    def _watermark(self, at: TopicPartition) -> tuple[int, int]:
        consumer = self._consumers[self._sides[at.topic]]
        try:
            found = consumer.get_watermark_offsets(
                kafka.TopicPartition(at.topic, at.partition), timeout=METADATA_TIMEOUT_SECONDS
            )
        except kafka.KafkaException as error:
            raise consumer.explain(error.args[0], idle=not self._thread.is_alive()) from None
        if found is None:
            raise SourceUnavailable(f"Kafka did not give the offsets of {at.topic} partition {at.partition} in time")
        return found

    def _post(self, event: ReadEvent) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, so the event is no longer needed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.cpu_seconds = time.thread_time()
                behind, ahead = sorted(Side, key=self._reached_ms)
                if self._unfinished[behind]:
                    if not self._read(behind, _BEHIND_WAIT_SECONDS):
                        self._read(ahead, 0)
                else:  # everything is read: ask both sides in every turn, and wait briefly for each
                    some = self._read(ahead, _LIVE_WAIT_SECONDS)
                    self._read(behind, 0 if some else _LIVE_WAIT_SECONDS)
        except BaseException as error:
            self._post(ReadFailed(translate(error.args[0]) if isinstance(error, kafka.KafkaException) else error))

    def _reached_ms(self, side: Side) -> float:
        """How far a side is in record time: the mean of its partitions, because they arrive one after the other, each in a
        run of thousands of messages. A partition that was read to its end counts as the furthest one.
        """
        newest, unfinished = self._newest_ms[side], self._unfinished[side]
        furthest = max(newest.values(), default=0)
        return sum(at if partition in unfinished else furthest for partition, at in newest.items()) / max(
            1, len(newest)
        )

    def _read(self, side: Side, wait: float) -> bool:
        """Read one side and post what it has; returns whether it had messages. Waits ``wait`` seconds for the first one, and
        then a little for more.
        """
        consumer = self._consumers[side]
        found: list[Any] = consumer.consume(1, wait)
        if not found:
            return False
        if self._chunk_messages > 1:
            found += consumer.consume(self._chunk_messages - 1, _LINGER_SECONDS if wait else 0)
        messages = [message for message in found if message.error() is None]
        if messages and not self._hand_on(side, messages):
            return True
        for message in found:
            if message.error() is not None:
                self._notice(side, message)
        return bool(messages)

    def _hand_on(self, side: Side, messages: Sequence[Any]) -> bool:
        """Post a chunk as soon as the budget allows it; False if the reader is stopped before that."""
        size = len(messages)
        chunk = Chunk(
            side=side,
            topic=messages[0].topic(),
            messages=messages,
            values=[message.value() for message in messages],
            partitions=np.fromiter((message.partition() for message in messages), np.int64, size),
            offsets=np.fromiter((message.offset() for message in messages), np.int64, size),
            timestamps_ms=np.fromiter((message.timestamp()[1] for message in messages), np.int64, size),
        )
        while not self._budget.take(chunk.value_bytes, timeout=0.1):
            if self._stop.is_set():
                return False
        for partition, _, last in chunk.last_by_partition():
            self._newest_ms[side][partition] = int(chunk.timestamps_ms[last])
            self._positions[TopicPartition(chunk.topic, partition)] = int(chunk.offsets[last]) + 1
            self._unfinished[side].add(partition)
        self._post(chunk)
        return True

    def _notice(self, side: Side, message: Any) -> None:
        error = message.error()
        code = error.code()
        if code == _E._PARTITION_EOF:
            at = TopicPartition(message.topic(), message.partition())
            self._unfinished[side].discard(at.partition)
            if message.offset() > self._positions[at]:  # the offsets between hold no record
                self._positions[at] = message.offset()
                self._post(EndOfPartition(at, message.offset()))
        elif code in (_E._AUTO_OFFSET_RESET, _E.OFFSET_OUT_OF_RANGE):
            self._out_of_range(TopicPartition(message.topic(), message.partition()))
        elif (
            isinstance(translated := self._consumers[side].explain(error, idle=False), Mistake | SourceRefuses)
            or error.fatal()
            or code == _E.UNKNOWN_TOPIC_OR_PART
        ):
            raise translated
        else:
            _log.debug("reading", error=error.str())

    def _out_of_range(self, at: TopicPartition) -> None:
        low, high = self._watermark(at)
        gap = find_gap(at, self._positions[at], low, high, self._settings.gap_policy)
        if gap is None:
            # The offset was out of range a moment ago, and now is not: the topic may have been deleted and created again.
            raise SourceUnavailable(f"{at.topic} partition {at.partition} changed while it was read; reading it again")
        self._post(gap)
        resume = self._positions[at] = gap.to_offset
        self._consumers[self._sides[at.topic]].seek(kafka.TopicPartition(at.topic, at.partition, resume))


def find_gap(at: TopicPartition, expected: int, low: int, high: int, policy: GapPolicy) -> Gap | None:
    """The missing offsets between ``expected`` and the log [``low``, ``high``); None if none are missing. Pure.

    Raises ``LogLost``.
    """
    where = f"{at.topic} partition {at.partition}"
    if expected > high:
        raise LogLost(
            f"{where} ends at offset {high}, before the ledger's {expected}: the topic was recreated or truncated; "
            f"restore it, or start with an empty database for the new topic"
        )
    if expected >= low:
        return None
    if policy is GapPolicy.HALT:
        raise LogLost(
            f"{where} has lost the offsets {expected} to {low - 1} to retention before they were read; "
            f"TICKLOOM_GAP_POLICY=continue records the gap in tickloom.gaps and goes on"
        )
    return Gap(at, expected, low)
