"""The daemon with faults in it: ``FAULTS=08006@before_commit:2,kill@after_commit:3 python -m tests.acceptance.faulty run``.

The seams are the class of asyncpg's connections and the member's commit: production code holds nothing for it, so it
costs nothing there. ``before`` is before the statement is sent, ``after`` is when its answer is here.

=============================  ==========================================================
point                          statement
=============================  ==========================================================
``before/after_take_over``     the claim of the assigned partitions
``before/after_ledger``        the batch's compare-and-set
``before/after_copy``          the batch's first COPY
``before/after_commit``        the batch's COMMIT
``before/after_kafka_commit``  the courtesy commit
=============================  ==========================================================

Actions: ``kill`` (SIGKILL), ``freeze`` (SIGSTOP, until somebody sends SIGCONT), ``lose`` (the connection breaks there),
or a SQLSTATE (Postgres would have said so).
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncpg

from tickloom.source.membership import Member
from tickloom.store import ledger

STATEMENTS = ("take_over", "ledger", "copy", "commit", "kafka_commit")
POINTS = tuple(f"{when}_{statement}" for statement in STATEMENTS for when in ("before", "after"))


class Faults:
    """Each strikes once, at the given hit of its point (1 where none is given)."""

    def __init__(self, text: str) -> None:
        self._reached = dict.fromkeys(POINTS, 0)
        self._waiting: dict[tuple[str, int], str] = {}
        for fault in text.split(","):
            action, _, place = fault.partition("@")
            point, _, hit = place.partition(":")
            self._waiting[point, int(hit or 1)] = action

    def reach(self, point: str, connection: Any = None) -> None:
        """Say that the flow stands at ``point``."""
        self._reached[point] += 1
        action = self._waiting.get((point, self._reached[point]))
        if action is None:
            return
        print(f"fault: {action}@{point}:{self._reached[point]}", flush=True)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        if action == "lose":
            connection.terminate()
            raise ConnectionResetError("the connection was lost")
        raise asyncpg.PostgresError.new({"C": action, "M": "injected"})


def _connection_class(faults: Faults) -> type[asyncpg.Connection]:
    class Connection(asyncpg.Connection):  # type: ignore[misc]
        _loading = False  # between the compare-and-set and the COMMIT of one batch
        _copied = False

        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            if query != ledger._TAKE_OVER:
                return await super().fetch(query, *args, **options)
            return await self._around("take_over", partial(super().fetch, query, *args, **options))

        async def execute(self, query: str, *args: Any, **options: Any) -> Any:
            run = partial(super().execute, query, *args, **options)
            if query == ledger._COMPARE_AND_SET:
                self._loading, self._copied = True, False
                return await self._around("ledger", run)
            if self._loading and query.startswith("COMMIT"):
                self._loading = False
                return await self._around("commit", run)
            return await run()

        async def copy_to_table(self, *args: Any, **options: Any) -> Any:
            run = partial(super().copy_to_table, *args, **options)
            if self._copied:
                return await run()
            self._copied = True
            return await self._around("copy", run)

        async def _around(self, statement: str, run: Callable[[], Any]) -> Any:
            faults.reach(f"before_{statement}", self)
            answer = await run()
            faults.reach(f"after_{statement}", self)
            return answer

    return Connection


def install(faults: Faults) -> None:
    """Make the daemon fail at these points."""
    asyncpg.connect = partial(asyncpg.connect, connection_class=_connection_class(faults))
    commit = Member._commit_newest

    def faulty_commit(self: Member) -> None:
        if not self._to_commit:
            return
        faults.reach("before_kafka_commit")
        commit(self)
        faults.reach("after_kafka_commit")

    Member._commit_newest = faulty_commit  # type: ignore[method-assign]


if __name__ == "__main__":
    from tickloom.cli import main

    install(Faults(os.environ["FAULTS"]))
    main()
