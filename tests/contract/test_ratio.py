"""The quotient of price and volume in SQL, against IEEE division."""

import pytest

from tickloom.store.postgres import Connection


@pytest.mark.parametrize(
    ("price", "volume", "ratio"),
    [
        (1.0, 0.0, None),
        (1e15, 1e-300, None),
        (-1e15, 5e-324, None),
        (1e15, 5.57e-294, 1e15 / 5.57e-294),
        (5e-324, 1e15, 0.0),
        (-5e-324, 2.0, 0.0),
        (1e-300, 1e15, 1e-300 / 1e15),
        (3.0, 7.0, 3.0 / 7.0),
        (0.0, 5.0, 0.0),
    ],
)
async def test_ratio_in_sql(connection: Connection, price: float, volume: float, ratio: float | None) -> None:
    """Postgres raises where a quotient leaves float8: one such pair would hold up the flow."""
    assert await connection.fetchval("SELECT tickloom.ratio($1, $2)", price, volume) == ratio
