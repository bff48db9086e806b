"""A batch holds all that was read, counted by offset, and closes when it is full."""

import polars as pl

from tests.builders import AT, decoded_at
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import Chunk, Decoded, EndOfPartition, Gap, Reason, Reject, Side, rows_schema


def test_a_dead_letter_counts_whole() -> None:
    """Bad messages whose keys and headers are large would fill the memory, for only their values were counted."""
    gatherer = Gatherer(BatchLimits(10**9, 1_000, 1), {AT: 0})
    headers = (("trace", b"x" * 500), ("none", None))
    letter = Reject(AT, 0, b"k" * 500, b"?", headers, 0, Reason.NOT_JSON, "")
    chunk = Chunk(Side.PRICES, "p", [], [b"?"], [0], [0], [0])
    gatherer.add(Decoded(chunk, pl.DataFrame(schema=rows_schema(Side.PRICES)), [letter]), 0)
    assert gatherer.full()


def test_gather_counts_every_offset() -> None:
    """An offset that is counted nowhere is a message that nobody misses."""
    gatherer = Gatherer(BatchLimits(100, 10_000, 1), {AT: 10})
    gatherer.add(decoded_at([10, 11, 14], bad=1), 0)
    gatherer.add(Gap(AT, 15, 20), 0)
    gatherer.add(EndOfPartition(AT, 22), 0)
    gatherer.add(EndOfPartition(AT, 22), 0)
    step = gatherer.close().progress[AT]
    assert (step.expected, step.next_offset) == (10, 22)
    assert (step.messages, step.dead, step.skipped, step.missing) == (3, 1, 4, 5)
    assert step.next_offset - step.expected == step.messages + step.skipped + step.missing
    assert gatherer.empty
    assert gatherer.positions == {AT: 22}
