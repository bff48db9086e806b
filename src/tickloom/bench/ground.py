"""What all measurements stand on: the settings, broker and databases of this run, and the removal of all that it made."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

from tickloom.bench.broker import Broker
from tickloom.bench.databases import Databases
from tickloom.settings import Settings
from tickloom.synthetic import TopicSide

T = TypeVar("T")


class Progress(Protocol):
    """Where a person sees what is being done."""

    def step(self, told: str, total: int | None = None) -> None:
        """The next piece of work, of ``total`` parts where that is known."""
        ...

    def done(self, parts: int) -> None:
        """How many parts of the current piece are done. From any thread."""
        ...

    def warn(self, told: str) -> None:
        """Something that a person should know, and that stops nothing."""
        ...


@dataclass(slots=True)
class Ground:
    """One run of the bench. ``folder`` is for files of this run."""

    settings: Settings
    broker: Broker
    databases: Databases
    progress: Progress
    folder: Path
    name: str
    groups: int = 0

    async def offload(self, work: Callable[[], T]) -> T:
        """Blocking ``work`` in a thread; when this is cancelled, the work is told to stop and waited for."""
        future = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.broker.stop.set()
            await asyncio.wait({future})
            raise

    @asynccontextmanager
    async def topics(self, label: str, partitions: int) -> AsyncGenerator[dict[TopicSide, str]]:
        """A pair of fresh, empty topics while inside."""
        names: dict[TopicSide, str] = {
            "prices": f"{self.name}_{label}_prices",
            "volumes": f"{self.name}_{label}_volumes",
        }
        try:
            await self.offload(lambda: self.broker.create(names.values(), partitions))
            yield names
        finally:
            for left in await self.offload(lambda: self.broker.delete(names.values(), [])):
                self.progress.warn(left)

    @asynccontextmanager
    async def group(self, database: Settings, topics: dict[TopicSide, str]) -> AsyncGenerator[Settings]:
        """The settings of daemons with a fresh group while inside; its offsets are deleted after them."""
        self.groups += 1
        name = f"{self.name}_{self.groups}"
        try:
            yield database.model_copy(
                update={
                    "prices_topic": topics["prices"],
                    "volumes_topic": topics["volumes"],
                    "kafka_group_id": name,
                }
            )
        finally:
            for left in await self.offload(lambda: self.broker.delete([], [name])):
                self.progress.warn(left)


@asynccontextmanager
async def prepared(settings: Settings, progress: Progress) -> AsyncGenerator[Ground]:
    """A ground with a random name. Raises ``Mistake`` where the settings do not allow a bench."""
    name = f"tickloom_bench_{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="tickloom-bench-") as folder:
        yield Ground(settings, Broker(settings), Databases(settings, name), progress, Path(folder), name)
