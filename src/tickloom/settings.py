"""All settings, typed once. Each is the environment variable ``TICKLOOM_`` + its name in capitals.

Each may also come from a file: ``TICKLOOM_DATABASE_PASSWORD_FILE=/run/secrets/db`` (any setting has such a ``_FILE``
twin, which wins over the variable), or from a directory of files with the names of the variables,
``TICKLOOM_SECRETS_DIR``; the variable wins over that directory. Each property of librdkafka has a variable, too:
``TICKLOOM_KAFKA_SASL_USERNAME`` sets ``sasl.username``. A name with our prefix that no setting reads is refused.
"""

import json
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tickloom import environment, libpq, options
from tickloom.environment import PREFIX, Text
from tickloom.errors import SettingsError

DAY_SECONDS = 86_400
_AN_OBJECT = 'write it like {"security.protocol": "SASL_SSL", "sasl.username": "…"}'
_REMOVED = {f"{PREFIX}RETRY_INITIAL_SECONDS"}
_DATABASE_URL = f"{PREFIX}DATABASE_URL"


class Group(StrEnum):
    """How much an operator has to do with a setting."""

    MUST = "must set"
    MAY = "may set"
    TUNING = "tuning"


class Partitioning(StrEnum):
    """The width of one partition of a table."""

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

    _database_source: str = PrivateAttr("")

    kafka_bootstrap_servers: Annotated[str, Group.MUST] = Field(
        "localhost:9092", min_length=1, description="Brokers to connect to first, `host:port,…`."
    )
    kafka_group_id: Annotated[str, Group.MAY] = Field(
        "tickloom", min_length=1, description="Consumer group of all replicas."
    )
    kafka_options: Annotated[dict[str, Any], NoDecode, Group.MAY] = Field(
        default_factory=dict,
        description="JSON object of librdkafka properties (SASL, TLS, …), which win over tickloom's own. Each property is also a variable: `TICKLOOM_KAFKA_SASL_USERNAME` sets `sasl.username`. Properties that exactness depends on are refused.",
    )
    prices_topic: Annotated[str, Group.MAY] = Field("stock_prices", min_length=1, description="Topic of prices.")
    volumes_topic: Annotated[str, Group.MAY] = Field("stock_volumes", min_length=1, description="Topic of volumes.")

    database_url: Annotated[SecretStr, Group.MUST] = Field(
        SecretStr(libpq.DEFAULT_URL),
        min_length=1,
        description="Postgres address; a Unix socket is `postgresql://user@/db?host=/dir`. Without it: `DATABASE_URL`, else libpq's `PG…` variables and service files, else the default.",
    )
    database_password: Annotated[SecretStr | None, Group.MAY] = Field(
        None, description="Password, if the address has none."
    )
    database_connect_timeout_seconds: Annotated[float, Group.TUNING] = Field(
        10, gt=0, description="Time limit of one attempt to connect."
    )
    database_command_timeout_seconds: Annotated[float, Group.TUNING] = Field(
        300,
        ge=0.001,
        le=2**31 // 1000,
        description="Time limit of one statement. After it the connection is dropped and the batch is tried again.",
    )

    prices_partitioning: Annotated[Partitioning, Group.MAY] = Field(
        Partitioning.HOURLY, description="Partition width of stock_prices."
    )
    volumes_partitioning: Annotated[Partitioning, Group.MAY] = Field(
        Partitioning.HOURLY, description="Partition width of stock_volumes."
    )
    analytics_partitioning: Annotated[Partitioning, Group.MAY] = Field(
        Partitioning.HOURLY, description="Partition width of stock_analytics_data."
    )
    partitions_ahead: Annotated[int, Group.MAY] = Field(
        3, ge=0, le=1000, description="Partitions created in advance, after the current one."
    )

    partitions_far_ahead: Annotated[int, Group.TUNING] = Field(
        24,
        ge=0,
        description="How many partitions of a table may begin further ahead of now than `EVENT_MAX_AHEAD`. Events beyond them are "
        "rejected as `out_of_bounds`.",
    )

    window_rows: Annotated[int, Group.MAY] = Field(
        5, ge=1, le=1000, description="Rows in a moving average, the row itself included."
    )
    event_max_ahead_seconds: Annotated[float, Group.MAY] = Field(
        DAY_SECONDS,
        ge=0,
        allow_inf_nan=False,
        description="How far an event may lie after its Kafka record's timestamp.",
    )
    event_max_age_seconds: Annotated[float, Group.MAY] = Field(
        31 * DAY_SECONDS,
        ge=0,
        allow_inf_nan=False,
        description="How far an event may lie before its Kafka record's timestamp.",
    )

    batch_max_messages: Annotated[int, Group.TUNING] = Field(
        70_000, ge=1, description="A batch closes at this many messages."
    )
    batch_max_bytes: Annotated[int, Group.TUNING] = Field(
        64 * 2**20, ge=1, description="A batch closes at this many bytes of values."
    )
    batch_max_age_seconds: Annotated[float, Group.TUNING] = Field(
        0.05, gt=0, description="A batch closes this long after its first message."
    )
    fetch_max_bytes: Annotated[int, Group.TUNING] = Field(
        4 * 2**20, ge=2**16, description="Bytes of messages that each topic's reader fetches in advance."
    )
    cache_max_symbols: Annotated[int, Group.TUNING] = Field(
        100_000, ge=1, description="Symbols whose newest rows are kept in memory."
    )
    cache_max_bytes: Annotated[int, Group.TUNING] = Field(
        96 * 2**20, ge=2**20, description="Memory for these rows. With many symbols, fewer rows of each are kept."
    )
    cache_tail_rows: Annotated[int, Group.TUNING] = Field(
        4096,
        ge=4,
        description="The most rows that are kept of one cached symbol and side; fewer with many symbols.",
    )

    reject_limit_ratio: Annotated[float, Group.MAY] = Field(
        0.5, gt=0, le=1, description="Stop with exit code 2 when more than this share of the recent messages is bad."
    )
    reject_limit_min_messages: Annotated[int, Group.TUNING] = Field(
        1_000, ge=1, description="Fewer recent messages than this are too few to judge by `REJECT_LIMIT_RATIO`."
    )
    gap_policy: Annotated[GapPolicy, Group.MAY] = Field(
        GapPolicy.HALT,
        description="When retention has deleted offsets that were not read: `halt`, or `continue` and record them in tickloom.gaps.",
    )

    retry_max_seconds: Annotated[float, Group.TUNING] = Field(
        15, gt=0, description="Longest wait between two attempts during an outage."
    )
    revoke_timeout_seconds: Annotated[float, Group.TUNING] = Field(
        20, gt=0, description="How long a revocation waits for the batch in flight before the batch is abandoned."
    )
    share_after_seconds: Annotated[float, Group.TUNING] = Field(
        60,
        ge=0,
        allow_inf_nan=False,
        description="After partitions were added, one replica reads everything for this long; then replicas share again. The time starts again "
        "if a producer does not yet know the new partitions (its `metadata.max.age.ms`).",
    )
    stuck_after_seconds: Annotated[float, Group.TUNING] = Field(
        300, gt=0, description="`/livez` fails when there is work and nothing has moved for this long."
    )

    http_host: Annotated[str, Group.MAY] = Field("127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    http_port: Annotated[int, Group.MAY] = Field(
        9464, ge=0, le=65535, description="Their port; 0 takes a free one and logs it."
    )
    log_format: Annotated[Literal["auto", "console", "json"], Group.MAY] = Field(
        "auto", description="`auto` is console on a terminal, JSON elsewhere."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Group.MAY] = Field(
        "info", description="Lowest severity that is logged."
    )

    @field_validator("kafka_options", mode="before")
    @classmethod
    def _from_json(cls, given: object) -> object:
        """Variables and files hold text. The error must not quote it, because it may hold passwords."""
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

    @field_validator("database_url")
    @classmethod
    def _is_postgres_url(cls, given: SecretStr) -> SecretStr:
        if not given.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("not the URL of a Postgres database; write it like postgresql://user@host:5432/database")
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

    @property
    def retry_initial_seconds(self) -> float:
        """The first wait in an outage. Waits double, with jitter, up to ``retry_max_seconds``."""
        return min(0.2, self.retry_max_seconds)

    @property
    def database_source(self) -> str:
        """The place where the address of the database was found, for people. It holds no secret."""
        return self._database_source or (
            _DATABASE_URL if "database_url" in self.model_fields_set else libpq.DEFAULT_SOURCE
        )

    def database_dsn(self) -> str:
        """The database URL, with the password of ``database_password`` if that is set. It is a secret."""
        url = self.database_url.get_secret_value()
        if self.database_password is None:
            return url
        return libpq.with_password(url, quote(self.database_password.get_secret_value(), safe=""))

    def shown(self) -> dict[str, Any]:
        """The settings as they may be logged: without URL and password, and only with the names of Kafka options."""
        hidden = {"database_url", "database_password", "kafka_options"}
        return self.model_dump(mode="json", exclude=hidden) | {"kafka_options": sorted(self.kafka_options)}


def load(*, tolerant: bool = False, **overrides: Any) -> Settings:
    """Settings from the environment, from ``_FILE`` twins and a secrets directory.

    Raises ``SettingsError`` with a line for each mistake. Unless ``tolerant``, each name that ``ignored`` finds is one.
    Reads files; blocks on nothing else.
    """
    if not tolerant:
        refuse_ignored()
    texts = environment.texts(os.environ, _variables())
    found = {name: texts[variable] for name in Settings.model_fields if (variable := _variable(name)) in texts}
    if "database_url" not in found and "database_url" not in overrides:
        found["database_url"] = Text(*libpq.database_address(os.environ))
    values: dict[str, Any] = {name: text.value for name, text in found.items()}
    try:
        settings = Settings(**values | overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, found)) from None
    update: dict[str, Any] = {"kafka_options": _with_properties(settings.kafka_options, texts)}
    if "database_url" in found:
        url = libpq.resolved(settings.database_url.get_secret_value(), os.environ)
        update["database_url"] = SecretStr(url)
    settings = settings.model_copy(update=update)
    settings._database_source = found["database_url"].source if "database_url" in found else ""  # pyright: ignore[reportPrivateUsage]
    return settings


def refuse_ignored() -> None:
    """Raise ``SettingsError`` if ``ignored`` finds a name in the environment."""
    if lines := ignored(os.environ):
        raise SettingsError(". ".join(lines))


def ignored(given: Mapping[str, str]) -> list[str]:
    """The names in the environment ``given`` that look like our settings but that nothing reads: a line each, with the fix.

    Looks into the folder of secrets; blocks on nothing else.
    """
    gone = sorted(name for name in given if name.upper().removesuffix("_FILE") in _REMOVED)
    lines = [f"{name} is no longer a setting: tickloom chooses it; remove it" for name in gone]
    return lines + environment.unread({name: given[name] for name in given if name not in gone}, _variables())


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """The names with our prefix that no setting has, each with the most similar known name, if any. Pure."""
    return environment.unknown_variables(names, _variables())


def group_of(name: str) -> Group:
    """The group that a setting belongs to. Pure."""
    return next(mark for mark in Settings.model_fields[name].metadata if isinstance(mark, Group))


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _variables() -> set[str]:
    """The variables of all settings and of librdkafka's properties."""
    return {_variable(name) for name in Settings.model_fields} | options.VARIABLES.keys()


def _with_properties(given: dict[str, Any], texts: Mapping[str, Text]) -> dict[str, Any]:
    """``TICKLOOM_KAFKA_OPTIONS`` together with the variables of single properties. Raises ``SettingsError``."""
    single = {variable: texts[variable] for variable in options.VARIABLES if variable in texts}
    merged, faults = options.merged(given, single)
    if faults:
        raise SettingsError(". ".join(faults))
    return merged


def _explain(error: ValidationError, found: Mapping[str, Text]) -> str:
    lines: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        name, message = "_".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
        source = found[name].source if name in found else _variable(name)
        lines.append(f"{source}: {message}" if name else message)
    return "; ".join(lines) + "; fix the variable or its file and start again"
