"""Dead letters and gaps: the rows of ``tickloom.dead_letters`` and ``tickloom.gaps`` that a batch brings."""

import base64
import json
from datetime import datetime

from tickloom.core.model import Batch, Reject
from tickloom.core.timestamps import EARLIEST, LATEST, moment
from tickloom.store.postgres import Connection

_COLUMNS = (
    *("topic", "partition", "offset", "key", "value", "headers"),
    *("record_timestamp", "reason", "detail", "rejected_at"),
)
_INSERT_GAP = (
    "INSERT INTO tickloom.gaps (topic, partition, from_offset, to_offset, noticed_at, policy) "
    "VALUES ($1, $2, $3, $4, $5, 'continue')"
)


async def note(connection: Connection, batch: Batch, now: datetime, copy_seconds: float) -> None:
    """Write the dead letters and gaps of ``batch``, inside its transaction. ``copy_seconds``: the limit of the COPY.

    Raises ``StoreUnavailable``, ``DataRefused``, ``Mistake``.
    """
    if batch.rejects:
        records = [_record(letter, now) for letter in batch.rejects]
        await connection.copy_records_in(("tickloom", "dead_letters"), _COLUMNS, records, copy_seconds)
    for gap in batch.gaps:
        source = gap.source
        await connection.execute(_INSERT_GAP, source.topic, source.partition, gap.from_offset, gap.to_offset, now)


def _record(letter: Reject, now: datetime) -> tuple[object, ...]:
    return (
        letter.source.topic,
        letter.source.partition,
        letter.offset,
        letter.key,
        letter.value,
        json.dumps([_header(name, value) for name, value in letter.headers]),
        _record_time(letter.timestamp_ms),
        letter.reason.value,
        letter.detail.encode(errors="replace").decode().replace("\x00", "\\0"),
        now,
    )


def _header(name: str, value: bytes | None) -> dict[str, str | None]:
    encoded = None if value is None else base64.b64encode(value).decode()
    return {"name": name.replace("\x00", "\\0"), "base64": encoded}


def _record_time(timestamp_ms: int) -> datetime | None:
    if (
        timestamp_ms == -1 or not EARLIEST <= timestamp_ms * 1_000 < LATEST
    ):  # the record has no timestamp, or one beyond ``datetime``
        return None
    return moment(timestamp_ms * 1_000)
