"""Fixtures that several files of integration tests share."""

from typing import Any

import pytest

from tests import services
from tests.integration.filled import Worlds, fill


@pytest.fixture(scope="session")
def worlds(kafka: Any, postgres: services.Postgres | services.Given) -> Worlds:
    """A world of each layout, filled by the daemon once; every call gives a fresh copy of its database."""
    return fill(kafka, postgres)
