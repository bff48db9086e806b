"""Any split of any log into batches leaves the tables that one SQL query over the whole log gives.

Decoded rows go through gather, join and load into a real Postgres, without a broker: thousands of logs a minute.
The judge is the reference of all tests, which shares nothing with the project.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.splits import Tick, differences, logs, run_log
from tests.services import new_database
from tickloom.core.model import Side
from tickloom.core.tails import ROW_BYTES, Tails
from tickloom.settings import Partitioning, Settings
from tickloom.store.loader import stage
from tickloom.store.migrate import migrate
from tickloom.store.postgres import connect

Database: TypeAlias = tuple[asyncio.Runner, Any, Any, Partitioning]


@pytest.fixture(scope="module", params=[Partitioning.NONE, Partitioning.HOURLY], ids=str)
def database(postgres: Any, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A loop, a connection to tables of that partitioning, and one for the judge, for all examples of the module."""
    with asyncio.Runner() as runner:
        widths = {f"{name}_partitioning": request.param for name in ("prices", "volumes", "analytics")}
        configured = Settings(database_url=new_database(postgres), **widths)  # type: ignore[arg-type]

        async def open_() -> Any:
            connection = await connect(configured)
            await migrate(connection, configured)
            await stage(connection)
            return connection

        connection, judge = runner.run(open_()), runner.run(asyncpg.connect(configured.database_dsn()))
        yield runner, connection, judge, request.param
        runner.run(connection.close())
        runner.run(judge.close())


@pytest.mark.parametrize("restarts", [False, True], ids=["one session", "restarts"])
@given(
    log=logs(),
    window=st.integers(1, 6),
    cache=st.integers(1, 4),
    spare=st.one_of(st.just(0), st.integers(0, 12)),
    cramped=st.booleans(),
    budget=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_gives_the_reference(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    restarts: bool,
    log: tuple[list[Tick], list[int]],
    window: int,
    cache: int,
    spare: int,
    cramped: bool,
    budget: int,
) -> None:
    """A user's averages would depend on how fast the messages happened to arrive."""
    runner, connection, judge, width = database
    ticks, cuts = log
    monkeypatch.setattr("tickloom.core.tails._FIRST_SLOTS", 1)  # so that four symbols make the cache grow
    monkeypatch.setattr("tickloom.core.tails._LOADED_ROWS", 1)  # and that less is loaded than there is room for
    monkeypatch.setattr("tickloom.store.history._GENEROUS_PARTITIONS", budget)  # and that it is not looked for far back
    # A cramped cache has room for the least rows of two symbols: its tails shrink as more come.
    tail = 2 * window + 6 + spare if cramped else max(1, window + spare)
    room = 2 * len(Side) * ROW_BYTES * (2 * window + 6) if cramped else 2**30
    runner.run(
        run_log(connection, ticks, cuts, window, restarts, lambda: Tails(window, tail, cache, room), width, budget)
    )
    assert runner.run(differences(judge, ticks, window)) == []
