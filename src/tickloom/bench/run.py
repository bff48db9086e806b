"""The whole bench: runs the requested measurements and returns the document."""

import asyncio
import os
import platform
import signal
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tickloom.bench import latency, steady, throughput
from tickloom.bench.broker import client_versions
from tickloom.bench.plan import Plan
from tickloom.bench.report import Measurements, document
from tickloom.bench.rig import Progress, rig_for
from tickloom.errors import TickloomError
from tickloom.settings import Settings


async def bench(settings: Settings, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run the bench; returns the document that this package's docstring describes. Takes minutes.

    Removes everything that it created, even if it is stopped. Raises ``Mistake`` if the settings do not allow a bench,
    and ``TickloomError`` if a measurement fails.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began, messages = datetime.now(UTC), plan.log.messages
    try:
        async with rig_for(settings, progress) as rig:
            postgres = await rig.databases.check()
            await rig.offload(rig.broker.check)
            found = Measurements(
                throughput=await throughput.measure(rig, plan, began) if messages and not plan.shapes else None,
                shapes=await throughput.measure_shapes(rig, plan, began) if messages and plan.shapes else None,
                latency=[await latency.measure(rig, plan, rate) for rate in plan.rates],
                idle_share=await steady.idle_share(rig, plan) if plan.idle else None,
                restart=await steady.restart(rig, plan) if plan.restart else None,
            )
    except asyncio.CancelledError:
        raise TickloomError("stopped; the bench removed its topics and databases, so it can be run again") from None
    return document(plan, settings, found, began, versions(postgres), machine())


def versions(postgres: str) -> dict[str, str | None]:
    """The versions that the figures depend on. A Kafka client cannot ask a broker for its version."""
    return {
        "python": platform.python_version(),
        "polars": pl.__version__,
        **client_versions(),
        "postgres": postgres,
        "kafka": None,
    }


def machine() -> dict[str, Any]:
    """The size of this machine and its system, without its name."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
