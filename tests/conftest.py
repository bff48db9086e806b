"""Fixtures: real services, started when the first test asks for them, ended with the session."""

import uuid
from collections.abc import AsyncGenerator, Iterator

import pytest

from tests import services
from tickloom.libpq import VARIABLES
from tickloom.settings import Settings
from tickloom.store.migrate import migrate
from tickloom.store.postgres import Connection, connect


@pytest.fixture(autouse=True)
def no_other_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the developer's own database tools are not the tests'."""
    for name in ("DATABASE_URL", *VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def kafka() -> Iterator[services.Kafka | services.Given]:
    """A real broker; ``.bootstrap`` is its address."""
    with services.running_kafka(brief=True) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.Postgres | services.Given]:
    """A real Postgres; ``.url`` is its address as a superuser."""
    with services.running_postgres(brief=True) as running:
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


@pytest.fixture
async def settings(database_url: str) -> Settings:
    """Settings of a migrated database."""
    found = Settings(database_url=database_url)  # type: ignore[arg-type]
    connection = await connect(found)
    await migrate(connection, found)
    await connection.close()
    return found


@pytest.fixture
async def connection(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection to it."""
    connection = await connect(settings)
    yield connection
    await connection.close()
