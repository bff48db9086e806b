"""Judges the tables of a run row by row, against the tests' SQL reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

COLUMNS = {
    "stock_prices": ("price", "open_price", "high_price", "low_price", "price_moving_avg"),
    "stock_volumes": ("volume", "trading_volume_moving_avg"),
    "stock_analytics_data": (
        "price",
        "volume",
        "price_moving_avg",
        "trading_volume_moving_avg",
        "price_volume_ratio",
    ),
}
"""The compared columns besides the key, in the order of the reference's rows."""
TOLERANCE = 1e-9
"""Relative difference of two averages below which they were only summed in another order. That is counted, but not wrong."""

Row = Sequence[Any]


@dataclass(frozen=True)
class TableVerdict:
    """One table: the number of rows of each kind. A row counts at most once per kind."""

    wanted: int
    found: int
    missing: int
    surplus: int
    values_wrong: int
    averages_wrong: int
    last_digits: int

    @property
    def wrong(self) -> int:
        """The number of faults."""
        return self.missing + self.surplus + self.values_wrong + self.averages_wrong


Verdict = Mapping[str, TableVerdict]


async def judge(database_url: str, expected: Mapping[str, list[Row]]) -> dict[str, TableVerdict]:
    """Compare the tables with ``expected``, the reference's rows by table."""
    connection = await asyncpg.connect(database_url)
    try:
        verdicts: dict[str, TableVerdict] = {}
        for table, columns in COLUMNS.items():
            found = await connection.fetch(f'SELECT symbol, "timestamp", {", ".join(columns)} FROM {table}')
            verdicts[table] = compare(columns, expected[table], found)
        return verdicts
    finally:
        await connection.close()


def compare(columns: Sequence[str], expected: Sequence[Row], found: Sequence[Row]) -> TableVerdict:
    """Compare rows. Each begins with its key (symbol and time), followed by ``columns``. Further columns of ``expected`` are
    ignored.
    """
    wanted = {(row[0], row[1]): tuple(row[2 : 2 + len(columns)]) for row in expected}
    surplus = values_wrong = averages_wrong = last_digits = 0
    seen: set[tuple[Any, Any]] = set()
    for row in found:
        key = (row[0], row[1])
        if key not in wanted or key in seen:
            surplus += 1
            continue
        seen.add(key)
        differ = [
            (name.endswith("moving_avg"), _close(right, actual))
            for name, right, actual in zip(columns, wanted[key], tuple(row)[2:], strict=True)
            if right != actual
        ]
        averages_wrong += any(average and not close for average, close in differ)
        values_wrong += any(not average and not close for average, close in differ)
        last_digits += bool(differ) and all(close for _, close in differ)
    return TableVerdict(
        len(wanted), len(found), len(wanted) - len(seen), surplus, values_wrong, averages_wrong, last_digits
    )


def _close(right: float | None, actual: float | None) -> bool:
    return right is not None and actual is not None and math.isclose(right, actual, rel_tol=TOLERANCE)


def describe(verdict: Verdict, averages: str = "averages wrong") -> str:
    """Describe the faults with their counts; ``averages`` is the wording for wrong averages."""
    sides = [verdict["stock_prices"], verdict["stock_volumes"]]
    joined = verdict["stock_analytics_data"]
    wanted = sum(side.wanted for side in sides)
    faults = [
        _of("rows missing", sum(side.missing for side in sides), wanted),
        _of("joined rows missing", joined.missing, joined.wanted),
        _of("rows that should not be there", sum(table.surplus for table in (*sides, joined))),
        _of("values wrong", sum(side.values_wrong for side in sides), wanted),
        _of(averages, sum(side.averages_wrong for side in sides), wanted),
        _of("joined rows with a wrong average", joined.averages_wrong, joined.wanted),
        _of("joined rows with a wrong ratio or value", joined.values_wrong, joined.wanted),
    ]
    if found := [fault for fault in faults if fault]:
        return "; ".join(found)
    rows = wanted + joined.wanted
    if differ := sum(table.last_digits for table in (*sides, joined)):
        return f"all {rows:,} rows right, {differ:,} of them but for the last digits"
    return f"all {rows:,} rows right, to the last bit"


def _of(what: str, count: int, total: int | None = None) -> str:
    if not count:
        return ""
    return f"{what}: {count:,}" + ("" if total is None else f" of {total:,}")
