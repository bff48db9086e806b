"""Derived outputs follow from the raw tables after every batch, however a log is cut, and however late its rows are."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.splits import Tick, logs, run_log
from tests.services import new_database
from tests.toys import ACTUAL, EXPECTED, declaring, partitioned
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning, Settings
from tickloom.store.loader import stage
from tickloom.store.migrate import migrate
from tickloom.store.postgres import Connection, connect
from tickloom.store.slices import Span
from tickloom.store.verify import verify


@pytest.fixture(scope="module", params=[Partitioning.NONE, Partitioning.HOURLY], ids=str)
def database(postgres: Any, request: pytest.FixtureRequest) -> Iterator[tuple[asyncio.Runner, Settings, Any]]:
    """A loop, settings and a connection to tables of that partitioning, with the toys declared."""
    with asyncio.Runner() as runner, declaring(*partitioned(request.param)):
        widths = {f"{name}_partitioning": request.param for name in ("prices", "volumes", "analytics")}
        configured = Settings(
            database_url=new_database(postgres), prices_topic="p", volumes_topic="v", window_rows=3, **widths
        )  # type: ignore[arg-type]

        async def open_() -> Connection:
            connection = await connect(configured)
            await migrate(connection, configured)
            await stage(connection)
            return connection

        connection = runner.run(open_())
        yield runner, configured, connection
        runner.run(connection.close())


@pytest.mark.parametrize("restarts", [False, True], ids=["one session", "restarts"])
@given(log=logs(), budget=st.integers(1, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_gives_what_the_query_gives(
    database: tuple[asyncio.Runner, Settings, Any], restarts: bool, log: tuple[list[Tick], list[int]], budget: int
) -> None:
    """A user's bars would be wrong from the first late tick until the next repair."""
    runner, configured, connection = database
    ticks, cuts = log

    async def compare() -> None:
        for name, query in EXPECTED.items():
            expected = [tuple(row) for row in await connection.fetch(query)]
            assert [tuple(row) for row in await connection.fetch(ACTUAL[name])] == expected, name

    width = configured.prices_partitioning
    tails = lambda: Tails(3, 12, 4, 2**30)  # noqa: E731
    runner.run(run_log(connection, ticks, cuts, 3, restarts, tails, width, budget, compare))
    report = runner.run(verify(configured, Span(), least_slice_bytes=1))
    assert not report.wrong, report.first
    assert not report.left_out
