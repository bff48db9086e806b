"""What join computes by itself: keys as numbers, means and ratios to the last bit."""

import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import new_engine, supply_nothing
from tickloom.core.join import Joined
from tickloom.core.merge import keys_of
from tickloom.core.model import Batch, Side, rows_schema
from tickloom.core.tails import Events

KEYS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(-(2**60), 2**63 - 1) | st.integers(0, 9)), max_size=9)


def join_alone(prices: list[float], volumes: list[float]) -> Joined:
    """One symbol's rows, a second apart, as the first batch."""
    rows = {}
    for side, values in ((Side.PRICES, prices), (Side.VOLUMES, volumes)):
        columns = {"symbol": ["A"] * len(values), "ts": range(len(values)), "value": values}
        columns |= {"partition": [0] * len(values), "offset": range(len(values)), "logged": [0] * len(values)}
        schema = rows_schema(side)
        rows[side] = pl.DataFrame({name: columns.get(name, [None] * len(values)) for name in schema}, schema=schema)
    batch = Batch(rows, [], [], [], {}, len(prices) + len(volumes), 0.0)
    engine = new_engine({})
    supply_nothing(engine, batch)
    return engine.joined(batch)


@given(st.lists(KEYS, min_size=1, max_size=4))
def test_numbers_stand_for_keys(parts: list[list[tuple[int, int]]]) -> None:
    """Two events under one number would be one row, and a wrong order a wrong average."""
    events = [
        Events(
            np.array([code for code, _ in part], dtype=np.int64),
            np.array([ts for _, ts in part], dtype=np.int64),
            np.zeros(len(part)),
            np.zeros(len(part), dtype=np.int32),
            *(np.zeros(len(part), dtype=np.int64) for _ in ("offset", "logged")),
        )
        for part in parts
    ]
    numbers = [number for keys in keys_of(events) for number in keys.tolist()]
    pairs = [pair for part in parts for pair in part]
    assert len(numbers) == len(pairs)
    rank = {pair: place for place, pair in enumerate(sorted(set(pairs)))}
    assert np.unique(numbers, return_inverse=True)[1].tolist() == [rank[pair] for pair in pairs]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_mean_of_negative_zeros_is_zero(size: int) -> None:
    """Postgres's avg() says 0 and not -0; the two would print differently."""
    averages = join_alone([-0.0] * size, []).sides[Side.PRICES].new["average"].to_list()
    assert [struct.pack("d", average) for average in averages] == [struct.pack("d", 0.0)] * size


@given(
    st.lists(
        st.tuples(st.floats(-1e15, 1e15), st.floats(0, 1e15) | st.sampled_from([0.0, 1e-300, 5e-324])),
        min_size=1,
        max_size=9,
    )
)
def test_ratios_are_divisions(rows: list[tuple[float, float]]) -> None:
    """A ratio that differs in its last bit would show how the messages were cut into batches."""
    found = join_alone([price for price, _ in rows], [volume for _, volume in rows]).met["ratio"].to_list()
    wanted = [price / volume if volume else None for price, volume in rows]
    assert found == [None if ratio is None or np.isinf(ratio) else ratio for ratio in wanted]
