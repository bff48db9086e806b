"""consume: pulls raw Kafka messages, both topics side by side in record time, into a bounded queue.

``Reader`` fetches with two plain consumers (``assign()``, one a topic) from the ledger's offsets, always from the
side that is behind in record time, so that a lag of hours is worked off with both halves of the join close together.
Not reading is the back-pressure; nothing in the data path is ever paused. Membership is apart (``membership.py``).

The thread belongs to the reader; it talks to the event loop by ``call_soon_threadsafe`` only.
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
from tickloom.source.kafka import METADATA_TIMEOUT_SECONDS, make_consumer, reader_config, translate

_log = Logger(__name__)

_CHUNK_MESSAGES = 10_000
_CHUNKS_HELD = 3
_BEHIND_WAIT_SECONDS = 0.05
_LIVE_WAIT_SECONDS = 0.02
_LINGER_SECONDS = 0.01
"""A chunk costs as much as some hundred messages, so one that comes live waits for company."""
_E = kafka.KafkaError


class Room:
    """What may lie between the reading thread and the loop: so many chunks, and so many bytes of values.

    One chunk is always let in, however large. Used by both threads, under its lock.
    """

    def __init__(self, max_chunks: int, max_bytes: int) -> None:
        self._max_chunks, self._max_bytes = max_chunks, max_bytes
        self._sizes: deque[int] = deque()  # of the chunks within, oldest first
        self._freed = threading.Condition()

    def enter(self, size: int, timeout: float) -> bool:
        """Take a chunk of ``size`` bytes in; False when there was no room for it in ``timeout`` seconds."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._fits(size), timeout):
                return False
            self._sizes.append(size)
            return True

    def leave(self) -> None:
        """The oldest chunk is gone."""
        with self._freed:
            self._sizes.popleft()
            self._freed.notify()

    def _fits(self, size: int) -> bool:
        return not self._sizes or (len(self._sizes) < self._max_chunks and sum(self._sizes) + size <= self._max_bytes)


class Reader:
    """Reads the assigned partitions of both topics; one thread from ``start`` to ``stop``.

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
        self._room = Room(_CHUNKS_HELD, settings.fetch_max_bytes)
        self._stop = threading.Event()
        self._asking = threading.Lock()  # a consumer must not be closed while another thread asks it something
        self.cpu_seconds = 0.0  # of the thread so far; only the thread writes it
        config = reader_config(settings)
        self._consumers: dict[Side, Any] = {side: make_consumer(config) for side in self._sides.values()}
        self._positions: dict[TopicPartition, int] = {}
        self._newest_ms: dict[Side, dict[int, int]] = {side: {} for side in Side}  # by partition
        self._unfinished: dict[Side, set[int]] = {side: set() for side in Side}  # partitions not seen at their end
        self._thread = threading.Thread(target=self._run, name="tickloom-reader", daemon=True)

    def watermarks(self) -> dict[TopicPartition, tuple[int, int]]:
        """First offset and end of each partition's log, which is its last stable offset: what an open transaction holds
        back cannot be read. Blocks. Raises ``SourceUnavailable``, ``Mistake``.
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
        """What comes next, or None when ``timeout`` seconds (None: no limit) pass without it."""
        try:
            async with asyncio.timeout(timeout):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(event, Chunk):
            self._room.leave()
        return event

    def stop(self) -> None:
        """End the thread and the connections; blocks for as long as one question to the brokers may take."""
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
            raise SourceUnavailable(f"Kafka did not tell the offsets of {at.topic} {at.partition} in time")
        return found

    def _post(self, event: ReadEvent) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.cpu_seconds = time.thread_time()
                behind, ahead = sorted(Side, key=self._reached_ms)
                if self._unfinished[behind]:
                    if not self._read(behind, _BEHIND_WAIT_SECONDS):
                        self._read(ahead, 0)
                else:  # all of it is read: whoever has something, and neither for long, however much the other has
                    some = self._read(ahead, _LIVE_WAIT_SECONDS)
                    self._read(behind, 0 if some else _LIVE_WAIT_SECONDS)
        except BaseException as error:
            told = translate(error.args[0]) if isinstance(error, kafka.KafkaException) else error
            self._post(ReadFailed(told))

    def _reached_ms(self, side: Side) -> float:
        """How far a side is in record time: the mean of its partitions, which come one after the other, each in a run
        of thousands. One that was read to its end keeps up with the furthest.
        """
        newest, unfinished = self._newest_ms[side], self._unfinished[side]
        furthest = max(newest.values(), default=0)
        return sum(at if partition in unfinished else furthest for partition, at in newest.items()) / max(
            1, len(newest)
        )

    def _read(self, side: Side, wait: float) -> bool:
        """Hand on what one side has, waiting ``wait`` seconds for a first message and then a little for more; whether
        there was any.
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
        """Post a chunk once there is room for it; False when told to stop meanwhile."""
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
        while not self._room.enter(chunk.value_bytes, timeout=0.1):
            if self._stop.is_set():
                return False
        for partition, _, last in chunk.lasts():
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
            if message.offset() > self._positions[at]:  # what lay between holds no record
                self._positions[at] = message.offset()
                self._post(EndOfPartition(at, message.offset()))
        elif code in (_E._AUTO_OFFSET_RESET, _E.OFFSET_OUT_OF_RANGE):
            self._out_of_range(TopicPartition(message.topic(), message.partition()))
        elif (
            isinstance(told := self._consumers[side].explain(error, idle=False), Mistake | SourceRefuses)
            or error.fatal()
            or code == _E.UNKNOWN_TOPIC_OR_PART
        ):
            raise told
        else:
            _log.debug("reading", error=error.str())

    def _out_of_range(self, at: TopicPartition) -> None:
        low, high = self._watermark(at)
        gap = find_gap(at, self._positions[at], low, high, self._settings.gap_policy)
        if gap is None:
            # The offset was out of range a moment ago, and is no longer: the topic may have been deleted and made anew.
            raise SourceUnavailable(f"{at.topic} partition {at.partition} changed under the reader; looking at it anew")
        self._post(gap)
        resume = self._positions[at] = gap.to_offset
        self._consumers[self._sides[at.topic]].seek(kafka.TopicPartition(at.topic, at.partition, resume))


def find_gap(at: TopicPartition, expected: int, low: int, high: int, policy: GapPolicy) -> Gap | None:
    """What lies between the offset ``expected`` and the log [``low``, ``high``). Raises ``LogLost``. Pure."""
    where = f"{at.topic} partition {at.partition}"
    if expected > high:
        raise LogLost(
            f"{where} ends at offset {high}, before the ledger's {expected}: the topic was made anew or truncated; "
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
