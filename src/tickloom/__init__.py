"""Two Kafka topics of market data into exact, hourly-partitioned Postgres tables."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tickloom")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
