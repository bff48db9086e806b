"""All settings, typed once. Each is the environment variable ``TICKLOOM_`` + its name in capitals.

Each may also come from a file: ``TICKLOOM_DATABASE_PASSWORD_FILE=/run/secrets/db`` (any setting has such a ``_FILE``
twin, which wins over the variable), or from a directory of files named like the settings, ``TICKLOOM_SECRETS_DIR`` (over
which the variable wins). What is meant for us and would be ignored is refused by name.
"""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tickloom import options
from tickloom.errors import SettingsError

PREFIX = "TICKLOOM_"
DAY_SECONDS = 86_400
_OF_OTHERS = (
    f"{PREFIX}TEST_",
    f"{PREFIX}DAGSTER_",
)  # read by the project's own tests and tools; by its Dagster integration
_SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
_AN_OBJECT = 'write it like {"security.protocol": "SASL_SSL", "sasl.username": "…"}'


class Partitioning(StrEnum):
    """How wide one partition of a table is."""

    HOURLY = "hourly"
    DAILY = "daily"
    MONTHLY = "monthly"
    NONE = "none"


class GapPolicy(StrEnum):
    """What to do when offsets that the ledger expects are gone from the topic."""

    HALT = "halt"
    CONTINUE = "continue"


class Settings(BaseSettings):
    """The daemon's settings; ``load()`` reads them from the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    kafka_bootstrap_servers: str = Field(
        "localhost:9092", min_length=1, description="Brokers to start from, `host:port,…`."
    )
    kafka_group_id: str = Field("tickloom", min_length=1, description="Consumer group of all replicas.")
    kafka_options: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict,
        description="JSON object of librdkafka properties (SASL, TLS, …); wins over ours. Those that exactness rests on are refused.",
    )
    prices_topic: str = Field("stock_prices", min_length=1, description="Topic of prices.")
    volumes_topic: str = Field("stock_volumes", min_length=1, description="Topic of volumes.")

    database_url: SecretStr = Field(
        SecretStr("postgresql://myuser:mypassword@localhost:5432/mydatabase"),
        min_length=1,
        description="Postgres address; Unix sockets as `postgresql://user@/db?host=/dir`.",
    )
    database_password: SecretStr | None = Field(None, description="Password, where it is not in the URL.")
    database_connect_timeout_seconds: float = Field(10, gt=0, description="Limit of one connection attempt.")
    database_command_timeout_seconds: float = Field(
        300,
        ge=0.001,
        le=2**31 // 1000,
        description="Limit of one statement; past it the connection is dropped and the batch tried again.",
    )

    prices_partitioning: Partitioning = Field(Partitioning.HOURLY, description="Partition width of stock_prices.")
    volumes_partitioning: Partitioning = Field(Partitioning.HOURLY, description="Partition width of stock_volumes.")
    analytics_partitioning: Partitioning = Field(
        Partitioning.HOURLY, description="Partition width of stock_analytics_data."
    )
    partitions_ahead: int = Field(3, ge=0, le=1000, description="Partitions kept ready after the current one.")

    partitions_far_ahead: int = Field(
        24,
        ge=0,
        description="Partitions of a table that events may make further ahead of now than `EVENT_MAX_AHEAD`; past that they are "
        "`out_of_bounds`.",
    )

    window_rows: int = Field(5, ge=1, le=1000, description="Rows in a moving average, the row itself included.")
    event_max_ahead_seconds: float = Field(
        DAY_SECONDS,
        ge=0,
        allow_inf_nan=False,
        description="How far an event may lie after its Kafka record's timestamp.",
    )
    event_max_age_seconds: float = Field(
        31 * DAY_SECONDS,
        ge=0,
        allow_inf_nan=False,
        description="How far an event may lie before its Kafka record's timestamp.",
    )

    batch_max_messages: int = Field(70_000, ge=1, description="A batch closes at this many messages.")
    batch_max_bytes: int = Field(64 * 2**20, ge=1, description="A batch closes at this many bytes of values.")
    batch_max_age_seconds: float = Field(0.05, gt=0, description="A batch closes this long after its first message.")
    fetch_max_bytes: int = Field(4 * 2**20, ge=2**16, description="Messages held ready by each topic's reader.")
    cache_max_symbols: int = Field(100_000, ge=1, description="Symbols whose newest rows are kept in memory.")
    cache_max_bytes: int = Field(
        96 * 2**20, ge=2**20, description="Memory of these rows; with many symbols fewer rows are kept of each."
    )
    cache_tail_rows: int = Field(
        4096,
        ge=4,
        description="Newest rows kept for each cached symbol and side, at most; with many symbols it is fewer.",
    )

    reject_limit_ratio: float = Field(
        0.5, gt=0, le=1, description="Stop (exit 2) when more than this share of the recent messages is bad."
    )
    reject_limit_min_messages: int = Field(
        1_000, ge=1, description="Recent messages that must have been seen before the ratio counts."
    )
    gap_policy: GapPolicy = Field(
        GapPolicy.HALT, description="Offsets lost to retention: `halt`, or `continue` and record them in tickloom.gaps."
    )

    retry_initial_seconds: float = Field(0.2, gt=0, description="First wait after an outage; doubles, with jitter.")
    retry_max_seconds: float = Field(15, gt=0, description="Longest wait between two tries of an outage.")
    revoke_timeout_seconds: float = Field(
        20, gt=0, description="How long a revocation waits for the batch in flight before it is abandoned."
    )
    share_after_seconds: float = Field(
        60,
        ge=0,
        allow_inf_nan=False,
        description="After partitions were added one replica reads everything for this long, then replicas share again; and once "
        "more where a producer has not yet heard of them (its `metadata.max.age.ms`).",
    )
    stuck_after_seconds: float = Field(
        300, gt=0, description="`/livez` fails when there is work and nothing moved for this long."
    )

    http_host: str = Field("127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    http_port: int = Field(9464, ge=0, le=65535, description="Port of them; 0 takes a free one and logs it.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` is console on a terminal, JSON else."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")

    @field_validator("kafka_options", mode="before")
    @classmethod
    def _from_json(cls, given: object) -> object:
        """Variables and files hold text. No part of it may be in the error: there are passwords in it."""
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"not JSON ({error.msg}, line {error.lineno} column {error.colno}); {_AN_OBJECT}"
                ) from None
        if not isinstance(given, dict):
            raise ValueError(f"not a JSON object; {_AN_OBJECT}")
        return given  # pyright: ignore[reportUnknownVariableType]

    @field_validator("kafka_options")
    @classmethod
    def _no_owned_options(cls, given: dict[str, Any]) -> dict[str, Any]:
        if faults := options.faults(given):
            raise ValueError(". ".join(faults))
        return given

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.prices_topic == self.volumes_topic:
            raise ValueError(
                f"{PREFIX}PRICES_TOPIC and {PREFIX}VOLUMES_TOPIC are the same topic, {self.prices_topic}; name two"
            )
        return self

    @property
    def tail_rows(self) -> int:
        """Rows of a tail, C: somewhat more than two windows, so that late rows find their whole window in it."""
        return max(self.cache_tail_rows, 2 * self.window_rows + 6)

    def database_dsn(self) -> str:
        """The database URL with the password from its own setting, where that is given. Holds a secret."""
        url = self.database_url.get_secret_value()
        if self.database_password is None:
            return url
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        password = quote(self.database_password.get_secret_value(), safe="")
        return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))

    def shown(self) -> dict[str, Any]:
        """The settings as they may be logged: no URL, password or Kafka option in them."""
        hidden = {"database_url", "database_password", "kafka_options"}
        return self.model_dump(mode="json", exclude=hidden) | {"kafka_options": sorted(self.kafka_options)}


def load(*, tolerant: bool = False, **overrides: Any) -> Settings:
    """Settings from the environment, from ``_FILE`` twins and a secrets directory.

    Raises ``SettingsError``: one line a mistake, or all that is meant for us and would be ignored (see ``ignored``), but where
    ``tolerant`` of that. Reads files; blocks on nothing else.
    """
    if not tolerant:
        refuse_ignored()
    texts = _from_files(os.environ)
    values: dict[str, Any] = {name: text for name, (text, _) in texts.items()}
    try:
        return Settings(**values | overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, {name: source for name, (_, source) in texts.items()})) from None


def refuse_ignored() -> None:
    """Raise ``SettingsError`` where the environment holds what is meant for us and would be ignored."""
    if lines := ignored(os.environ):
        raise SettingsError(". ".join(lines))


def ignored(environment: Mapping[str, str]) -> list[str]:
    """What of ``environment`` is meant for us and would be ignored in silence: a line each, with the mend.

    Looks whether the folder of secrets exists and what is in it; blocks on nothing else.
    """
    lines = [refusal(name, nearest) for name, nearest in unknown_variables(environment).items()]
    folder = environment.get(_SECRETS_DIR)
    if folder and not Path(folder).is_dir():
        lines.append(f"{_SECRETS_DIR}: there is no folder {folder}; make it, or remove the variable")
    elif folder:
        twins = {os.path.realpath(environment.get(f"{name}_FILE", "")) for name in _variables()}
        known = {name.lower() for name in _variables()}
        files = [path.name for path in _secrets(folder).values() if os.path.realpath(path) not in twins]
        lines += [
            f"{_SECRETS_DIR}: file {refusal(name, nearest)}"
            for name, nearest in misspelt(files, known, set(), PREFIX).items()
        ]
    return lines


def refusal(name: str, nearest: str | None) -> str:
    """Why ``name`` is refused, and the mend. Pure."""
    guess = f"; did you mean {nearest}? Rename it, or remove it" if nearest else "; remove it"
    return f"{name} is no setting{guess}"


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """The names with our prefix that no setting has, each with the known one that is most like it, if any is. Pure."""
    fields = _variables()
    return misspelt(names, fields, {f"{name}_FILE" for name in fields} | {_SECRETS_DIR}, PREFIX)


def misspelt(names: Iterable[str], fields: set[str], exact: set[str], prefix: str) -> dict[str, str | None]:
    """Of ``names`` those that begin with ``prefix`` and are none of ``fields``, in whatever case, and none of ``exact``; each
    with the known one that is most like it, if any is. Others' names and those that Kubernetes sets are not meant for us. Pure.
    """
    names = list(names)
    known = {  # without the prefix, which all share: it would make all alike
        name[len(prefix) :].upper(): name for name in fields | exact
    }
    upper_fields = {name.upper() for name in fields}
    others = tuple(other for other in _OF_OTHERS if not prefix.startswith(other))
    nearest: dict[str, str | None] = {}
    for name in sorted(names):
        upper = name.upper()
        ours = upper.startswith(prefix) and not upper.startswith(others)
        if ours and upper not in upper_fields and name not in exact and not _of_a_service(name, names):
            alike = difflib.get_close_matches(upper.removeprefix(prefix), known, n=1)
            nearest[name] = known[alike[0]] if alike else None
    return nearest


def _variables() -> set[str]:
    return {PREFIX + name.upper() for name in Settings.model_fields}


def _of_a_service(name: str, names: Iterable[str]) -> bool:
    """Whether Kubernetes has set it, for a service called tickloom or tickloom-…: these come as a family."""
    services = {one.removesuffix("_SERVICE_HOST") for one in names if one.endswith("_SERVICE_HOST")}
    return any(
        name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
        for service in services
    )


def _from_files(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """By name of the setting: the text that a file has for it, and where that comes from."""
    found: dict[str, tuple[str, str]] = {}
    folder = environment.get(_SECRETS_DIR)
    secrets = _secrets(folder) if folder and Path(folder).is_dir() else {}
    given = {name.upper() for name in environment}
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if path := environment.get(f"{variable}_FILE"):
            found[name] = _read(f"{variable}_FILE", Path(path))
        elif variable in given:
            continue
        elif variable in secrets:
            found[name] = _read(_SECRETS_DIR, secrets[variable])
    return found


def _secrets(folder: str) -> dict[str, Path]:
    """The files of the folder, by their names in capitals."""
    try:
        return {path.name.upper(): path for path in Path(folder).iterdir()}
    except OSError as error:
        raise SettingsError(f"{_SECRETS_DIR}: {error.strerror}: {folder}; give a readable folder") from None


def _read(variable: str, path: Path) -> tuple[str, str]:
    """The text, without the byte order mark and the line's end that editors leave; and its source, for an error."""
    try:
        text = path.read_text("utf-8-sig").strip()
    except OSError as error:
        raise SettingsError(f"{variable}: {error.strerror}: {path}; give a readable file") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {path} is not UTF-8 text; write it anew as UTF-8") from None
    if not text:
        raise SettingsError(f"{variable}: {path} is empty; write the value into it")
    return text, f"{variable} ({path})"


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    lines: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        name, told = "_".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        lines.append(f"{sources.get(name, PREFIX + name.upper())}: {told}" if name else told)
    return "; ".join(lines) + "; mend the variable or its file and start again"
