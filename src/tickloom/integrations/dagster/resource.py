"""The resource ``tickloom``: the daemon's settings, the limits of a run and the thresholds of the checks.

Topics and database come from the environment, as for the daemon (``TICKLOOM_…``). The limits and thresholds are fields
with defaults from ``TICKLOOM_DAGSTER_…``; a run's configuration may override them.
"""

import os
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tickloom import drain
from tickloom.environment import PREFIX, unknown_names, why_unknown
from tickloom.errors import SettingsError
from tickloom.observe.outcome import Outcome
from tickloom.settings import Settings, load

_PREFIX = f"{PREFIX}DAGSTER_"


class DagsterSettings(BaseSettings):
    """``TICKLOOM_DAGSTER_…``: read once, when the code location loads. Raises pydantic's ``ValidationError``."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="ignore", frozen=True)

    max_seconds: float = Field(
        100, gt=0, description="Time limit of a run's reading. The schedule starts a run every 120 s."
    )
    max_messages: int = Field(0, ge=0, description="Largest number of messages that a run loads; 0 means no limit.")
    reject_share: float = Field(
        0.05, ge=0, le=1, description="Largest share of bad messages in a topic that the check `rejects` allows."
    )
    one_sided_share: float = Field(
        0.05, ge=0, le=1, description="Largest share of keys on one side only that the check `join` allows."
    )
    fresh_seconds: float = Field(600, gt=0, description="The check `fresh` fails if no joined row has a younger event.")
    gap_hours: float = Field(24, gt=0, description="The check `gaps` fails for this long after messages were lost.")
    verify_hours: int = Field(
        48, ge=1, description="The checks cover at most this many hours of those that a run touched: the newest ones."
    )
    hours_from: datetime | None = Field(
        None, description="Start of the first hourly partition; by default the first day of the month 31 days ago."
    )
    alert_url: str = Field("", description="Address to which failed runs are posted, as JSON with a `text`.")

    def first_hour(self, now: datetime) -> datetime:
        """The start of Dagster's hourly partitions. By default it moves with the month, and so leaves out the hours that are
        too old for tickloom to accept.
        """
        if self.hours_from is not None:
            given = self.hours_from if self.hours_from.tzinfo else self.hours_from.replace(tzinfo=UTC)
            return given.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return (now - timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def read_defaults() -> DagsterSettings:
    """Read the environment. Raises ``SettingsError`` for an unknown name, and pydantic's ``ValidationError`` for a wrong
    value.
    """
    known = {_PREFIX + name.upper() for name in DagsterSettings.model_fields}
    if unknown := unknown_names(os.environ, known, set(), _PREFIX):
        raise SettingsError(". ".join(why_unknown(name, nearest) for name, nearest in unknown.items()))
    return DagsterSettings()  # pyright: ignore[reportCallIssue]


DEFAULTS = read_defaults()


class TickloomResource(dg.ConfigurableResource["TickloomResource"]):
    """The limits of a run and the thresholds of the checks; ``settings()`` are the daemon's."""

    max_seconds: float = DEFAULTS.max_seconds
    max_messages: int = DEFAULTS.max_messages
    reject_share: float = DEFAULTS.reject_share
    one_sided_share: float = DEFAULTS.one_sided_share
    fresh_seconds: float = DEFAULTS.fresh_seconds
    gap_hours: float = DEFAULTS.gap_hours
    verify_hours: int = DEFAULTS.verify_hours

    def settings(self) -> Settings:
        """The daemon's settings, from the environment as it is now. Raises ``SettingsError``."""
        return load()

    def drain(self) -> Outcome:
        """Call ``tickloom.drain`` with the limits of this resource. Blocks, and raises the same errors."""
        return drain(self.settings(), max_seconds=self.max_seconds, max_messages=self.max_messages or None)
