"""The bench from its start to its document."""

import asyncio
import os
import platform
import signal
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tickloom.bench import latency, steady, throughput
from tickloom.bench.broker import client_versions
from tickloom.bench.ground import Progress, prepared
from tickloom.bench.plan import Plan
from tickloom.bench.report import Found, document
from tickloom.errors import TickloomError
from tickloom.settings import Settings


async def bench(settings: Settings, plan: Plan, progress: Progress) -> dict[str, Any]:
    """The document that this package's docstring describes. Takes minutes; leaves nothing behind, also when stopped.

    Raises ``Mistake`` where the settings do not allow it, ``TickloomError`` for what went wrong on the way.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began, messages = datetime.now(UTC), plan.log.messages
    try:
        async with prepared(settings, progress) as ground:
            postgres = await ground.databases.check()
            await ground.offload(ground.broker.check)
            found = Found(
                throughput=await throughput.measure(ground, plan, began) if messages and not plan.shapes else None,
                shapes=await throughput.measure_shapes(ground, plan, began) if messages and plan.shapes else None,
                latency=[await latency.measure(ground, plan, rate) for rate in plan.rates],
                idle_share=await steady.idle_share(ground, plan) if plan.idle else None,
                restart=await steady.restart(ground, plan) if plan.restart else None,
            )
    except asyncio.CancelledError:
        raise TickloomError("stopped; the topics and databases of this bench are removed") from None
    return document(plan, settings, found, began, versions(postgres), machine())


def versions(postgres: str) -> dict[str, str | None]:
    """Of all that the figures depend on. A Kafka client cannot ask a broker for its own."""
    return {
        "python": platform.python_version(),
        "polars": pl.__version__,
        **client_versions(),
        "postgres": postgres,
        "kafka": None,
    }


def machine() -> dict[str, Any]:
    """Where it ran; nothing that names it."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
