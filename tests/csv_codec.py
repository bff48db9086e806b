"""A toy codec, for CSV values: symbol, timestamp and the feed's numbers, separated by commas; an empty cell is absent."""

import csv
import re
from collections.abc import Sequence

from tickloom.core.codecs.codec import Columns, Fault, Fields, read_each
from tickloom.core.model import Feed, Reason
from tickloom.core.timestamps import parse_number, parse_text

NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


class Csv:
    """One line a value, in UTF-8, without a header."""

    def read(self, feed: Feed, values: Sequence[bytes]) -> Columns:
        return read_each(feed, values, fields_of)


def fields_of(feed: Feed, value: bytes) -> Fields | Fault:
    try:
        ((symbol, time, *cells),) = csv.reader([value.decode()], strict=True)
        numbers = dict(zip(feed.numbers, cells, strict=True))
    except (ValueError, csv.Error):
        return Fault(Reason.SCHEMA, f"not a line of {2 + len(feed.numbers)} cells")
    if not numbers[feed.value]:
        return Fault(Reason.SCHEMA, f"{feed.value} is missing")
    for name, cell in numbers.items():
        if cell and not NUMBER.fullmatch(cell):
            return Fault(Reason.SCHEMA, f"{name} is not a number")
    micros = parse_number(time) if NUMBER.fullmatch(time) else parse_text(time)
    return Fields(symbol, time if micros is None else micros, {n: float(cell) for n, cell in numbers.items() if cell})
