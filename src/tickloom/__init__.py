"""Two Kafka topics of market data into exact, hourly-partitioned Postgres tables.

``drain(settings) -> Outcome`` does the work of ``tickloom run --once`` as a call; ``load_settings()`` reads the environment.
An ``Output`` declares one more table that is kept exact.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tickloom.core.model import Column
    from tickloom.core.outputs import Output
    from tickloom.daemon.drain import drain
    from tickloom.observe.outcome import Ended, Outcome
    from tickloom.settings import Partitioning, Settings
    from tickloom.settings import load as load_settings
    from tickloom.store.outputs import declare

try:
    __version__ = version("tickloom")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = [
    "Column",
    "Ended",
    "Outcome",
    "Output",
    "Partitioning",
    "Settings",
    "__version__",
    "declare",
    "drain",
    "load_settings",
]

_HOMES = {
    "Column": ("tickloom.core.model", "Column"),
    "Output": ("tickloom.core.outputs", "Output"),
    "Partitioning": ("tickloom.settings", "Partitioning"),
    "declare": ("tickloom.store.outputs", "declare"),
    "drain": ("tickloom.daemon.drain", "drain"),
    "Ended": ("tickloom.observe.outcome", "Ended"),
    "Outcome": ("tickloom.observe.outcome", "Outcome"),
    "Settings": ("tickloom.settings", "Settings"),
    "load_settings": ("tickloom.settings", "load"),
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: the commands set the allocator before the large imports."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
