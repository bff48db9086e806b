"""All settings, typed once. Each is the environment variable ``TICKLOOM_`` + its name in capitals.

Secrets may also come from a file: ``TICKLOOM_DATABASE_PASSWORD_FILE=/run/secrets/db`` (any setting
has such a ``_FILE`` twin), or from a directory of files named like the settings in ``TICKLOOM_SECRETS_DIR``.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tickloom.errors import SettingsError

PREFIX = "TICKLOOM_"
DAY_SECONDS = 86_400
_OF_OTHERS = (
    f"{PREFIX}TEST_",
    f"{PREFIX}DAGSTER_",
)  # read by the project's own tests and tools; by its Dagster integration
_SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
_OWNED_OPTIONS = {
    *("group.id", "bootstrap.servers", "metadata.broker.list"),
    *("enable.auto.commit", "auto.commit.enable", "enable.auto.offset.store"),
    *("isolation.level", "auto.offset.reset", "enable.partition.eof", "default.topic.config"),
}
"""librdkafka's properties, with their other names, that decide which messages are read: a reset, for one, would jump over
offsets that are gone from the topic where the daemon has to halt."""


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

    kafka_bootstrap_servers: str = Field("localhost:9092", description="Brokers to start from, `host:port,…`.")
    kafka_group_id: str = Field("tickloom", min_length=1, description="Consumer group of all replicas.")
    kafka_options: dict[str, Any] = Field(
        default_factory=dict, description="JSON object of any librdkafka properties (SASL, TLS, …); wins over ours."
    )
    prices_topic: str = Field("stock_prices", min_length=1, description="Topic of prices.")
    volumes_topic: str = Field("stock_volumes", min_length=1, description="Topic of volumes.")

    database_url: SecretStr = Field(
        SecretStr("postgresql://myuser:mypassword@localhost:5432/mydatabase"),
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
        300,
        ge=0,
        allow_inf_nan=False,
        description="After partitions were added one replica reads everything for this long, until all producers know of them "
        "(their `metadata.max.age.ms`); then replicas share again.",
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

    @field_validator("kafka_options")
    @classmethod
    def _no_owned_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OWNED_OPTIONS & options.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be overridden: exactness rests on it; remove it")
        return options

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.prices_topic == self.volumes_topic:
            raise ValueError("prices_topic and volumes_topic are the same topic; name two")
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


def load(**overrides: Any) -> Settings:
    """Settings from the environment, from ``_FILE`` twins and a secrets directory.

    Raises ``SettingsError`` with one line a mistake. Reads files; blocks on nothing else.
    """
    values = _from_files() | overrides
    try:
        return Settings(_secrets_dir=os.environ.get(_SECRETS_DIR), **values)  # pyright: ignore[reportCallIssue]
    except (ValidationError, ValueError) as error:
        raise SettingsError(_explain(error)) from None


def ignored(environment: Mapping[str, str]) -> list[str]:
    """What of ``environment`` is meant for us and would be ignored in silence: a line each, with the mend.

    Looks whether the folder of secrets exists; blocks on nothing else.
    """
    lines: list[str] = []
    for name, nearest in unknown_variables(environment).items():
        guess = f"; did you mean {nearest}? Rename it, or remove it" if nearest else "; remove it"
        lines.append(f"{name} is no setting{guess}")
    folder = environment.get(_SECRETS_DIR)
    if folder and not Path(folder).is_dir():
        lines.append(f"{_SECRETS_DIR}: there is no folder {folder}; make it, or remove the variable")
    return lines


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """The names with our prefix that no setting has, each with the known one that is most like it, if any is. Pure."""
    fields = {PREFIX + name.upper() for name in Settings.model_fields}
    exact = {f"{name}_FILE" for name in fields} | {_SECRETS_DIR}
    known = {
        name.removeprefix(PREFIX): name for name in fields | exact
    }  # the prefix, which all share, would make all alike
    names = list(names)
    nearest: dict[str, str | None] = {}
    for name in sorted(names):
        upper = name.upper()
        ours = upper.startswith(PREFIX) and not upper.startswith(_OF_OTHERS)
        if ours and upper not in fields and name not in exact and not _of_a_service(name, names):
            alike = difflib.get_close_matches(upper.removeprefix(PREFIX), known, n=1)
            nearest[name] = known[alike[0]] if alike else None
    return nearest


def _of_a_service(name: str, names: Iterable[str]) -> bool:
    """Whether Kubernetes has set it, for a service called tickloom or tickloom-…: these come as a family."""
    services = {one.removesuffix("_SERVICE_HOST") for one in names if one.endswith("_SERVICE_HOST")}
    return any(
        name == f"{service}_PORT" or name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
        for service in services
    )


def _from_files() -> dict[str, str]:
    values: dict[str, str] = {}
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}_FILE"
        if path := os.environ.get(variable):
            try:
                values[name] = Path(path).read_text().strip()
            except OSError as error:
                raise SettingsError(f"{variable}: {error.strerror}: {path}; give a readable file") from None
    return values


def _explain(error: ValidationError | ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"{error}; see `tickloom check --help`"
    lines = [
        f"{PREFIX}{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_url=False)
    ]
    return "; ".join(lines) + "; mend the variable and start again"
