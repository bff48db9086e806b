"""Slices of time: whatever the partitions, every moment lies in exactly one slice."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tickloom.store.slices import BEGINNING, END, Part, Span, cut, pieces, slice_bytes

START = datetime(2026, 11, 24, tzinfo=UTC)
TABLES = ("stock_prices", "stock_volumes", "stock_analytics_data")
HOURS = st.integers(0, 60).map(lambda hours: START + timedelta(hours=hours))


@st.composite
def partitions(draw: st.DrawFn) -> list[Part]:
    """For each table: none, the whole table, or partitions of one width with holes between them."""
    found: list[Part] = []
    for table in TABLES:
        width = draw(st.sampled_from([0, 1, 24]))
        size = st.integers(0, 10**9)
        if width == 0:
            cuts = tuple(sorted(draw(st.sets(HOURS, max_size=3))))
            found += [Part(table, table, BEGINNING, END, draw(size), cuts)] * draw(st.integers(0, 1))
            continue
        for number in sorted(draw(st.sets(st.integers(0, 48 // width), max_size=8))):
            start = START + timedelta(hours=number * width)
            found.append(Part(table, f"{table}_{number}", start, start + timedelta(hours=width), draw(size)))
    return found


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start, stop = draw(st.one_of(st.just(BEGINNING), HOURS)), draw(st.one_of(st.just(END), HOURS))
    return Span(start, stop) if start < stop else Span()


@given(partitions(), spans(), st.integers(1, 10**9), st.integers(1, 9))
def test_slices_cover_the_span_once(parts: list[Part], span: Span, largest: int, most: int) -> None:
    """A row between two slices would never be checked, and one in two slices be counted twice."""
    slices = cut(parts, span, largest, most)
    assert (slices[0].start, slices[-1].stop) == (span.start, span.stop)
    assert all(before.stop == after.start for before, after in pairwise(slices))
    assert all(piece.start < piece.stop for piece in slices)


@given(partitions(), spans(), st.integers(1, 10**9))
def test_slices_know_which_tables_have_partitions(parts: list[Part], span: Span, largest: int) -> None:
    """A joined row whose raw partitions were dropped would be taken for one too many, and be deleted."""
    for piece in cut(parts, span, largest, 4):
        for moment in (piece.start, *(part.start for part in parts if piece.start <= part.start < piece.stop)):
            assert piece.tables == {part.table for part in parts if part.start <= moment < part.stop}


@given(partitions(), st.integers(1, 10**9))
def test_slices_share_out_the_bytes(parts: list[Part], least: int) -> None:
    """A progress bar would stand still, or a slice would be too large for the server's memory."""
    largest = slice_bytes(parts, least)
    assert all(1 <= pieces(part, largest) <= 16 for part in parts)
    slices = cut(parts, Span(), largest, 10**9)
    assert abs(sum(piece.size_bytes for piece in slices) - sum(part.size_bytes for part in parts)) < 1
    for before, after in pairwise(slices):
        assert before.tables != after.tables or before.size_bytes + after.size_bytes > largest


@given(partitions(), spans(), st.integers(1, 10**12), st.integers(1, 9))
def test_slices_hold_few_partitions(parts: list[Part], span: Span, largest: int, most: int) -> None:
    """One statement over too many partitions needs more locks than the server has."""
    for piece in cut(parts, span, largest, most):
        for table in TABLES if piece.size_bytes else ():
            assert (
                sum(part.start < piece.stop and part.stop > piece.start for part in parts if part.table == table)
                <= most
            )
