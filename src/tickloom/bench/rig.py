"""The rig of one run: its settings, broker, databases and folder. It removes everything that it created."""

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
    """Shows a person what the bench is doing."""

    def step(self, message: str, total: int | None = None) -> None:
        """Begin the next step, of ``total`` parts if that is known."""
        ...

    def done(self, parts: int) -> None:
        """Show how many parts of the current step are done. May be called from any thread."""
        ...

    def warn(self, message: str) -> None:
        """Show a warning. The bench goes on."""
        ...


@dataclass(slots=True)
class Rig:
    """Everything that the measurements of one run share. ``folder`` holds the files of this run."""

    settings: Settings
    broker: Broker
    databases: Databases
    progress: Progress
    folder: Path
    name: str
    groups: int = 0

    async def offload(self, work: Callable[[], T]) -> T:
        """Run blocking ``work`` in a thread. If this call is cancelled, it stops the work and waits for its end."""
        future = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.broker.stop.set()
            await asyncio.wait({future})
            raise

    @asynccontextmanager
    async def topics(self, label: str, partitions: int) -> AsyncGenerator[dict[TopicSide, str]]:
        """Create a pair of empty topics, and delete them at the end of the block."""
        names: dict[TopicSide, str] = {
            "prices": f"{self.name}_{label}_prices",
            "volumes": f"{self.name}_{label}_volumes",
        }
        try:
            await self.offload(lambda: self.broker.create(names.values(), partitions))
            yield names
        finally:
            for warning in await self.offload(lambda: self.broker.delete(names.values(), [])):
                self.progress.warn(warning)

    @asynccontextmanager
    async def group(self, database: Settings, topics: dict[TopicSide, str]) -> AsyncGenerator[Settings]:
        """Yields settings for daemons in a new group, and deletes the group at the end of the block."""
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
            for warning in await self.offload(lambda: self.broker.delete([], [name])):
                self.progress.warn(warning)


@asynccontextmanager
async def rig_for(settings: Settings, progress: Progress) -> AsyncGenerator[Rig]:
    """A rig with a random name. Raises ``Mistake`` if the settings do not allow a bench."""
    name = f"tickloom_bench_{uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="tickloom-bench-") as folder:
        yield Rig(settings, Broker(settings), Databases(settings, name), progress, Path(folder), name)
