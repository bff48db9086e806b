"""Where the database is when no setting says so: ``DATABASE_URL``, libpq's variables and service files, or the default.

libpq's rules are in PostgreSQL's documentation: "Environment Variables", "The Connection Service File". asyncpg reads
``PGPASSWORD``, ``PGPASSFILE``, ``~/.pgpass`` and the TLS variables by itself, but no ``PGSERVICE``, ``PGHOSTADDR`` or
``PGOPTIONS``. A value in the service file wins over the variable, as in libpq.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tickloom.errors import SettingsError

DEFAULT_URL = "postgresql://myuser:mypassword@localhost:5432/mydatabase"
DEFAULT_SOURCE = "the default of TICKLOOM_DATABASE_URL"
_URL = "DATABASE_URL"
_PLACES = {"PGHOST": "host", "PGPORT": "port", "PGDATABASE": "dbname", "PGUSER": "user", "PGOPTIONS": "options"}
VARIABLES = (
    *("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE"),
    *(
        "PGSERVICEFILE",
        "PGOPTIONS",
        "PGSSLMODE",
        "PGSSLNEGOTIATION",
        "PGSSLCERT",
        "PGSSLKEY",
        "PGSSLROOTCERT",
        "PGSSLCRL",
    ),
    *("PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGTARGETSESSIONATTRS", "PGKRBSRVNAME", "PGGSSLIB"),
)
"""The variables that say which database to use and how to log in to it. An empty one counts as not set."""
_PASSED_ON = {
    *("host", "port", "dbname", "user", "password", "passfile", "options", "sslmode", "sslnegotiation", "sslcert"),
    *("sslkey", "sslpassword", "sslrootcert", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
}
_SET_BY_TICKLOOM = {
    *("application_name", "fallback_application_name", "client_encoding", "connect_timeout", "keepalives"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
}
"""Parameters of a service that are ignored, because the daemon needs values of its own."""


class Address(NamedTuple):
    """``url``: for asyncpg, perhaps with a password. ``source``: where it was found, for people."""

    url: str
    source: str


def database_address(environment: Mapping[str, str]) -> Address:
    """The database of an environment that holds no ``TICKLOOM_DATABASE_URL``. May read a service file.

    Raises ``SettingsError``.
    """
    if _URL in environment:
        if not environment[_URL]:
            raise SettingsError(f"{_URL} is empty; write the address into it, remove it, or set TICKLOOM_{_URL}")
        return Address(environment[_URL], _URL)
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not given:
        return Address(DEFAULT_URL, DEFAULT_SOURCE)
    values = {_PLACES[name]: value for name, value in given.items() if name in _PLACES}
    if "PGHOSTADDR" in given:
        values.setdefault("host", given["PGHOSTADDR"])
    if "PGSERVICE" not in given:
        return Address(_url(values), ", ".join(given))
    service, path = _service(given["PGSERVICE"], environment)
    return Address(_url(values | service), f"PGSERVICE {given['PGSERVICE']} in {path}")


def resolved(url: str, environment: Mapping[str, str]) -> str:
    """The URL with the service's parameters in place of ``service=``; the URL's own win. Raises ``SettingsError``."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    if "service" not in given:
        return url
    service, _ = _service(given.pop("service"), environment)
    query = urlencode(_for_asyncpg(service | given))
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}"


def with_password(url: str, password: str) -> str:
    """The URL with ``password`` (percent-encoded) in place of the one that it holds."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))


def _url(values: Mapping[str, str]) -> str:
    return f"postgresql://?{urlencode(_for_asyncpg(values))}"


def _for_asyncpg(values: Mapping[str, str]) -> dict[str, str]:
    """The values for asyncpg, which wants IPv6 addresses in brackets."""
    hosts = values.get("host", "").split(",")
    bare = [f"[{host}]" if ":" in host and not host.startswith(("[", "/")) else host for host in hosts]
    return {**values, **({"host": ",".join(bare)} if "host" in values else {})}


def _service(name: str, environment: Mapping[str, str]) -> tuple[dict[str, str], Path]:
    """The parameters of a service, and the file that defines it: the user's, else the system's."""
    files = _service_files(environment)
    for path in files:
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"PGSERVICE: {path} cannot be read ({error}); give a readable file") from None
        if (found := _parse(text, name)) is not None:
            return _checked(found, f"service {name} in {path}"), path
    looked = " or ".join(map(str, files))
    raise SettingsError(
        f"PGSERVICE: there is no service {name} in {looked}; add [{name}] to it, or name another service"
    )


def _service_files(environment: Mapping[str, str]) -> list[Path]:
    own = environment.get("PGSERVICEFILE")
    home = environment.get("HOME")
    folder = environment.get("PGSYSCONFDIR") or "/etc/postgresql-common"  # Debian's; libpq has it compiled in
    users = [Path(own)] if own else [Path(home, ".pg_service.conf")] if home else []
    return [*users, Path(folder, "pg_service.conf")]


def _parse(text: str, name: str) -> dict[str, str] | None:
    """The section ``[name]``; None if there is none. configparser would join an indented line to the line before."""
    found: dict[str, str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line == f"[{name}]" else None
        elif found is not None and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key.strip(), value.strip())
    return found


def _checked(values: dict[str, str], where: str) -> dict[str, str]:
    """The parameters for asyncpg. Refuses unknown ones, which asyncpg would take for settings of the server."""
    host = values.pop("hostaddr", "")
    if host:
        values.setdefault("host", host)
    if "database" in values:
        values.setdefault("dbname", values.pop("database"))
    if unknown := sorted(values.keys() - _PASSED_ON - _SET_BY_TICKLOOM):
        raise SettingsError(
            f"{where} has {', '.join(unknown)}, which tickloom cannot use; remove it, or set DATABASE_URL"
        )
    return {key: value for key, value in values.items() if key in _PASSED_ON}
