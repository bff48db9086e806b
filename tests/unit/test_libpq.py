"""The database of an environment in which only libpq's variables and service files name one."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from tickloom.errors import SettingsError
from tickloom.libpq import DEFAULT_URL, database_address, resolved

SERVICES = """
# a comment
[other]
host=elsewhere
  [market]
host=db.internal
  port=6432
dbname = market
user=reader
# password=old
password=50%=#x
sslmode=require
host=ignored, for the first one counts
application_name=psql
[last]
hostaddr=::1
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a service file."""
    (tmp_path / ".pg_service.conf").write_text(SERVICES)
    return tmp_path


def parameters(url: str) -> dict[str, str]:
    """What stands in the query of a URL."""
    return dict(parse_qsl(urlsplit(url).query))


MARKET = {
    "host": "db.internal",
    "port": "6432",
    "dbname": "market",
    "user": "reader",
    "password": "50%=#x",
    "sslmode": "require",
}


def test_nothing_is_set(home: Path) -> None:
    """Variables of other programs, and empty ones, would send the rows to a database by chance."""
    given = {"HOME": str(home), "PGDATA": "/var/lib/postgresql", "PG_MAJOR": "18", "PGHOST": "", "PGSERVICE": ""}
    assert database_address(given).url == DEFAULT_URL


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"PGHOST": "/run/postgresql", "PGPORT": "5433"}, "postgresql://?host=%2Frun%2Fpostgresql&port=5433"),
        ({"PGHOST": "::1,b", "PGUSER": "a b"}, "postgresql://?host=%5B%3A%3A1%5D%2Cb&user=a+b"),
        ({"PGHOSTADDR": "10.0.0.1", "PGDATABASE": "d"}, "postgresql://?dbname=d&host=10.0.0.1"),
        ({"PGHOST": "db", "PGHOSTADDR": "10.0.0.1"}, "postgresql://?host=db"),
        ({"PGPASSWORD": "x"}, "postgresql://?"),
        ({"PGSSLMODE": "require"}, "postgresql://?"),
        ({"PGOPTIONS": "-c search_path=x"}, "postgresql://?options=-c+search_path%3Dx"),
    ],
)
def test_variables(given: dict[str, str], url: str) -> None:
    """psql would reach the database, and tickloom another one."""
    assert database_address(given) == (url, ", ".join(sorted(given, key=list(given).index)))


def test_a_service(home: Path) -> None:
    """asyncpg reads PGSERVICE only after the service file, so the service would be ignored in silence."""
    found = database_address({"HOME": str(home), "PGSERVICE": "market", "PGHOST": "not used", "PGUSER": "nor this"})
    assert found.source == f"PGSERVICE market in {home / '.pg_service.conf'}"
    assert parameters(found.url) == MARKET


def test_what_the_service_does_not_say_comes_from_variables(home: Path) -> None:
    """A service for many databases would be of no use."""
    found = database_address({"HOME": str(home), "PGSERVICE": "last", "PGDATABASE": "d", "PGUSER": "u"})
    assert parameters(found.url) == {"host": "[::1]", "user": "u", "dbname": "d"}


def test_the_users_service_file_comes_before_the_systems(home: Path, tmp_path: Path) -> None:
    """An administrator's entry would take the place of the user's own."""
    system = tmp_path / "system"
    system.mkdir()
    (system / "pg_service.conf").write_text("[market]\nhost=system\n[shared]\nhost=system\n")
    given = {"HOME": str(home), "PGSYSCONFDIR": str(system)}
    assert "host=db.internal" in database_address(given | {"PGSERVICE": "market"}).url
    assert database_address(given | {"PGSERVICE": "shared"}).url == "postgresql://?host=system"
    own = {"PGSERVICEFILE": str(system / "pg_service.conf")}
    assert database_address({"HOME": str(home), "PGSERVICE": "market"} | own).url == "postgresql://?host=system"


def test_a_service_that_does_not_exist(home: Path) -> None:
    """The rows would go to whatever server listens on this machine."""
    with pytest.raises(SettingsError, match=r"no service markte in .*\.pg_service\.conf") as raised:
        database_address({"HOME": str(home), "PGSERVICE": "markte"})
    assert "name another service" in str(raised.value)


def test_a_parameter_that_cannot_be_kept(home: Path) -> None:
    """A demand for more security would be dropped without a word."""
    (home / ".pg_service.conf").write_text("[market]\nhost=db\nchannel_binding=require\n")
    with pytest.raises(SettingsError, match="channel_binding"):
        database_address({"HOME": str(home), "PGSERVICE": "market"})


def test_a_service_in_the_url(home: Path) -> None:
    """asyncpg passes over a service that it cannot find, and a percent sign in a password ends it."""
    given = {"HOME": str(home)}
    assert resolved("postgresql://a:b@h/d?sslmode=disable", given) == "postgresql://a:b@h/d?sslmode=disable"
    url = resolved("postgresql:///d?service=market&sslmode=disable", given)
    assert url.startswith("postgresql:///d?")
    assert parameters(url) == MARKET | {"sslmode": "disable"}
    with pytest.raises(SettingsError, match=r"no service other2"):
        resolved("postgresql:///d?service=other2", given)
