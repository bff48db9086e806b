"""Messages that are keyed and spread in ways which only one replica can read."""

import zlib
from dataclasses import replace

from tests.hostile import Thing


def without_keys(things: list[Thing]) -> list[Thing]:
    return [replace(thing, key=None, partition=index % 6) for index, thing in enumerate(things)]


def with_other_keys(things: list[Thing]) -> list[Thing]:
    """Prices keyed by symbol, volumes by something else."""
    return [replace(thing, key=(thing.key or b"")[::-1] + thing.side.encode()) for thing in things]


def into_other_partitions(things: list[Thing]) -> list[Thing]:
    """Keyed by symbol on both sides, but by different partitioners: no replica ever sees both halves."""
    return [
        replace(thing, partition=(zlib.crc32(thing.key or b"") + (thing.side == "volumes")) % 2) for thing in things
    ]


def into_unequal_topics(things: list[Thing]) -> list[Thing]:
    count = {"prices": 8, "volumes": 6}
    return [replace(thing, partition=zlib.crc32(thing.key or b"") % count[thing.side]) for thing in things]
