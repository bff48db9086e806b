"""Records as bytes on Kafka's wire: what the protocol allows, and no client would send."""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reversed


@dataclass(frozen=True)
class Raw:
    """A record; its headers' names are bytes, and its timestamp any 64 bits (-1 is none)."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]]
    timestamp_ms: int


def produce(bootstrap: str, topic: str, partition: int, records: Sequence[Raw]) -> None:
    """Each in a batch of its own, in order. The broker at ``bootstrap`` must lead the partition."""
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for record in records:
            connection.sendall(_sized(_request(topic, partition, record)))
            (size,) = struct.unpack(">i", _read(connection, 4))
            answer = _read(connection, size)
            (error,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(topic) + 4 + 4)
            assert error == 0, f"Kafka's error {error} for {record}"


def _request(topic: str, partition: int, record: Raw) -> bytes:
    """Produce, version 3: all replicas, one topic, one partition."""
    head = struct.pack(">hhihhhi", 0, 3, 1, -1, -1, -1, 30_000)
    name = struct.pack(">ih", 1, len(topic)) + topic.encode()
    return head + name + struct.pack(">ii", 1, partition) + _sized(_batch(record))


def _batch(record: Raw) -> bytes:
    """A record batch, version 2, without a producer's id."""
    headers = b"".join(_bytes(name) + _bytes(value) for name, value in record.headers)
    body = b"\x00\x00\x00" + _bytes(record.key) + _bytes(record.value) + _varint(len(record.headers)) + headers
    at = record.timestamp_ms
    checked = struct.pack(">hiqqqhii", 0, 0, at, at, -1, -1, -1, 1) + _varint(len(body)) + body
    tail = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(tail)) + tail


def _bytes(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(number: int) -> bytes:
    left = (number << 1) ^ (number >> 63)  # zigzag: the sign goes last
    found = bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes((*found, left))


def _sized(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        assert more, "the broker hung up: it could not read the request"
        found += more
    return found


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_CRCS = _table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRCS[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
