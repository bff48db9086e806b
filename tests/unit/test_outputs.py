"""Declarations of derived outputs, and what a batch touches of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.toys import NOTIONAL, ROWS, TOYS, declaring
from tickloom import Column, Output, Partitioning
from tickloom.core.copy_binary import SymbolBytes
from tickloom.core.join import Joined, SideRows
from tickloom.core.model import TABLES, Side
from tickloom.core.partitioning import ALWAYS, Range
from tickloom.core.touched import Recomputed, recomputed, touched_by
from tickloom.errors import SettingsError
from tickloom.store.derived import statement_of
from tickloom.store.outputs import declare, declared, tables

HOUR = 3_600 * 10**6
DAY = 24 * HOUR
NOW = 20_000 * DAY
SYMBOLS = pl.Series(["A", "B"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "stock_prices"}, "this name is taken"),
        ({"name": "Toy"}, "lower-case letters"),
        ({"name": "touched_toy"}, "this name is taken or cannot be used"),
        ({"name": "x" * 41}, "up to 40"),
        ({"columns": ()}, "at least one column"),
        ({"columns": (Column("symbol", "text"),)}, "without symbol and timestamp"),
        ({"columns": (Column("n", "int"), Column("n", "int"))}, "a name of its own"),
        ({"sources": ()}, "name one or more of stock_prices"),
        ({"sources": ("toy_bars",)}, "name one or more of stock_prices"),
        ({"bucket": timedelta(minutes=7)}, "does not divide a day"),
        ({"bucket": timedelta(milliseconds=500)}, "whole seconds"),
        ({"bucket": timedelta(days=2)}, "does not divide a day"),
        ({"bucket": timedelta(hours=2), "partitioning": Partitioning.HOURLY}, "partition it daily"),
    ],
    ids=str,
)
def test_a_declaration_that_cannot_work_is_refused_with_the_fix(change: dict[str, Any], words: str) -> None:
    """Otherwise the daemon would find out with a batch in its hands."""
    with pytest.raises(SettingsError, match=words):
        replace(ROWS, **change)


def test_one_declaration_is_enough() -> None:
    """A table that some part of the program does not know would be neither made, nor checked, nor repaired."""
    assert tables() == TABLES
    with declaring(*TOYS):
        assert {output.name for output in declared()} == {toy.name for toy in TOYS}
        assert tables()[:3] == TABLES
        assert len(tables()) == 3 + len(TOYS)
        declare(ROWS)  # the same again
        with pytest.raises(SettingsError, match="two outputs are named toy_rows"):
            declare(replace(ROWS, bucket=timedelta(hours=2)))


def test_a_definition_tells_what_decides_about_the_rows() -> None:
    """A changed query whose old rows stay would be noticed by nobody."""
    assert replace(ROWS, partitioning=Partitioning.MONTHLY).definition == ROWS.definition
    others = [
        replace(ROWS, select=ROWS.select.replace("count(*)", "count(price)")),
        replace(ROWS, bucket=timedelta(minutes=1)),
        replace(ROWS, sources=("stock_prices", "stock_volumes")),
        replace(ROWS, columns=(Column("rows", "int NOT NULL"),)),
    ]
    assert len({output.definition for output in (ROWS, *others)}) == 5


def test_a_statement_names_the_columns_and_casts_them() -> None:
    """Without the cast a loaded value and a verified one could differ in their last digits."""
    statement = statement_of(NOTIONAL)
    assert 's."notional"::numeric' in statement
    assert 's."average"::numeric(40, 3)' in statement
    assert "FROM stock_analytics_data r" in statement
    assert "symbol, bucket;" not in statement


def joined(**frames: list[tuple[int, int]]) -> Joined:
    """A batch that writes rows of these (code, ts): ``prices_new``, ``prices_revised``, ``pairs`` and so on."""
    schema = {"code": pl.UInt32, "ts": pl.Int64}
    found = {name: pl.DataFrame(rows, schema, orient="row") for name, rows in frames.items()}
    empty = pl.DataFrame(schema=schema)
    kinds = ("new", "corrected", "revised")
    sides = {
        side: SideRows(*(found.get(f"{side}_{kind}", empty) for kind in kinds), stored={}, superseded={}, collapsed=0)
        for side in Side
    }
    return Joined(SYMBOLS, sides, found.get("pairs", empty), found.get("changed_pairs", empty), empty)


def widths(width: Partitioning, output: Output) -> dict[str, Partitioning]:
    """Of the three tables, and of the output as it says itself."""
    return {table.name: width for table in TABLES} | {output.name: output.partitioning}


def loaded(batch: Joined, width: Partitioning, output: Output) -> Recomputed:
    """What a batch recomputes of an output."""
    (one,) = touched_by(batch, [output])
    return recomputed(one, SymbolBytes.of(SYMBOLS), widths(width, output))


def test_a_batch_touches_each_bucket_once() -> None:
    """A key that is missed stays wrong until somebody runs verify."""
    batch = joined(
        prices_new=[(0, NOW + 1), (0, NOW + HOUR - 1)],
        prices_corrected=[(1, NOW + HOUR)],
        prices_revised=[(0, NOW - 1), (0, NOW + 2)],
    )
    one = loaded(batch, Partitioning.HOURLY, ROWS)
    assert one.needed.tolist() == [NOW - HOUR, NOW, NOW + HOUR]
    assert (one.keys.count(b"A"), one.keys.count(b"B")) == (2, 1)
    assert one.runs == [Range(NOW - HOUR, NOW + 2 * HOUR)]
    assert one.touched["toy_rows"] == [Range(NOW - DAY, NOW), Range(NOW, NOW + DAY)]
    assert one.touched["stock_prices"] == [Range(NOW + n * HOUR, NOW + (n + 1) * HOUR) for n in (-1, 0, 1)]


def test_rows_of_other_tables_touch_nothing() -> None:
    """Otherwise every output would cost something with every batch."""
    assert touched_by(joined(volumes_new=[(0, NOW)], pairs=[(0, NOW)]), [ROWS]) == []
    assert len(touched_by(joined(pairs=[(0, NOW)]), [ROWS, NOTIONAL])) == 1


def test_buckets_whose_partition_was_detached_are_left_out() -> None:
    """A row that has no place must not stop all others."""
    (one,) = touched_by(joined(prices_new=[(0, NOW), (1, NOW + HOUR), (0, NOW + HOUR)]), [ROWS])
    assert one.without(np.array([NOW + HOUR])).keys.rows() == [(0, NOW)]


def test_a_wide_bucket_counts_all_partitions_that_it_reads() -> None:
    """A transaction that locks more partitions than were counted takes the locks of everybody else."""
    one = loaded(joined(changed_pairs=[(0, NOW + HOUR)]), Partitioning.HOURLY, NOTIONAL)
    assert one.needed.tolist() == [NOW]
    assert one.runs == [Range(NOW, NOW + DAY)]
    assert len(one.touched["stock_analytics_data"]) == 24
    assert len(one.touched["toy_notional"]) == 1


def test_tables_without_partitions_are_one_run() -> None:
    """A statement for each hour of a backlog would cost more than it saves."""
    output = replace(ROWS, partitioning=Partitioning.NONE)
    one = loaded(joined(prices_new=[(0, NOW), (0, 0)]), Partitioning.NONE, output)
    assert one.runs == [ALWAYS]
    assert one.touched == {"toy_rows": [ALWAYS], "stock_prices": [ALWAYS]}


def test_buckets_before_1970_begin_before_their_rows() -> None:
    """Rounded towards zero, a row would be counted in the bucket after its own."""
    assert ROWS.starts(np.array([-1, 0, HOUR - 1])).tolist() == [-HOUR, 0, 0]
