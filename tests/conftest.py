"""Fixtures: real services, started when the first test asks for them, ended with the session."""

import uuid
from collections.abc import Iterator

import pytest

from tests import services


@pytest.fixture(scope="session")
def kafka() -> Iterator[services.Kafka | services.Given]:
    """A real broker; ``.bootstrap`` is its address."""
    with services.running_kafka() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.Postgres | services.Given]:
    """A real Postgres; ``.url`` is its address as a superuser."""
    with services.running_postgres() as running:
        yield running


@pytest.fixture
def database_url(postgres: services.Postgres | services.Given) -> str:
    """A fresh, empty database."""
    return services.new_database(postgres)


@pytest.fixture
def topics() -> tuple[str, str]:
    """Names of a pair of topics that do not exist yet: prices, volumes."""
    unique = uuid.uuid4().hex[:8]
    return f"prices-{unique}", f"volumes-{unique}"
