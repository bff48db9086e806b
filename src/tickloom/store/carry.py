"""The rows that a walk through slices of time carries from one slice to the next: the last ones of each symbol. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

Row: TypeAlias = tuple[str, datetime, float | None]
"""symbol, timestamp, value."""


@dataclass(slots=True)
class Carry:
    """The last ``rows`` rows of each symbol before the present slice: as many as a window reaches back."""

    rows: int
    _held: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list[Row]))

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._held

    def of(self, symbols: Iterable[str]) -> list[Row]:
        """The rows of these symbols, in order of time for each."""
        return [row for symbol in symbols if symbol in self._held for row in self._held[symbol]]

    def add(self, rows: Iterable[Row]) -> None:
        """Carry these rows, too. They come in order of time, after all rows of their symbols that are held."""
        touched: set[str] = set()
        for row in rows:
            self._held[row[0]].append(row)
            touched.add(row[0])
        for symbol in touched:
            del self._held[symbol][: -self.rows or None]
