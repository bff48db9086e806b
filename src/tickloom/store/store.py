"""``Store``: a database connection that opens again after an outage, so that its callers see none."""

import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol, TypeVar

from tickloom.errors import LocksExhausted, Mistake, StoreUnavailable
from tickloom.patience import Failure, outlast
from tickloom.retry import Backoff, RetryPolicy
from tickloom.settings import Settings
from tickloom.store import ledger
from tickloom.store.loader import stage
from tickloom.store.postgres import Connection, connect

_LOCKS_EXHAUSTED_SECONDS = 60.0
"""Another application's locks may fill the server's lock table for a while. Where it stays full, a person must act."""
T = TypeVar("T")


class StoreObserver(Protocol):
    """Learns how Postgres answers. Called on the event loop; must not block.

    ``store`` identifies the caller: Postgres may serve one connection and refuse another at the same time.
    """

    def postgres_failed(self, store: object, failure: Failure[StoreUnavailable]) -> None:
        """An attempt has failed; the store waits and tries again."""
        ...

    def postgres_answered(self, store: object) -> None:
        """Postgres has done the store's work."""
        ...

    def store_closed(self, store: object) -> None:
        """The store asks for nothing any more."""
        ...


class Store:
    """A connection that opens again after an outage. Only one task may use it at a time."""

    def __init__(self, settings: Settings, observer: StoreObserver, *, ledger_owner: str | None = None) -> None:
        """``ledger_owner``: for a store that writes the ledger, the name of the replica that owns the ledger's rows.

        Its connection bears that name, and ends the connection that it replaces: that one may still hold locks on the
        ledger's rows, cut off by the network.
        """
        self._settings = settings
        self._observer = observer
        self._ledger_owner = ledger_owner
        self._backoff = Backoff(RetryPolicy.of(settings), Random())
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` until it succeeds, however long an outage lasts.

        Raises every error of ``work`` that is not ``StoreUnavailable``, and ``Mistake`` when the server's lock table stays full.
        """
        started = time.monotonic()

        async def attempt() -> T:
            try:
                return await work(await self._connected())
            except BaseException:
                await self._disconnect()
                raise

        def failed(failure: Failure[StoreUnavailable]) -> None:
            waited = time.monotonic() - started
            if isinstance(failure.error, LocksExhausted) and waited > _LOCKS_EXHAUSTED_SECONDS:
                raise Mistake(str(failure.error)) from failure.error
            self._observer.postgres_failed(self, failure)

        try:
            result = await outlast(StoreUnavailable, self._backoff, attempt, failed)
        except BaseException:
            self._observer.store_closed(self)
            raise
        self._observer.postgres_answered(self)
        return result

    async def close(self) -> None:
        """Close the connection; ``run`` would open another one."""
        self._observer.store_closed(self)
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            if self._ledger_owner is None:
                self._connection = await connect(self._settings)
            else:
                self._connection = await connect(self._settings, ledger.session_name(self._ledger_owner))
                await ledger.end_idle_sessions(self._connection, [self._ledger_owner])
                await stage(self._connection)
        return self._connection
