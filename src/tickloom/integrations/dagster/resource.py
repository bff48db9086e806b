"""The resource ``tickloom``: the settings of the daemon, and what a run may take and the checks let pass.

Where to read and write comes from the environment, as for the daemon (``TICKLOOM_…``). The rest are fields, with
defaults from ``TICKLOOM_DAGSTER_…``, that a run's configuration may set anew.
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
        100, gt=0, description="A run reads for at most this long; the schedule starts one every 120 s."
    )
    max_messages: int = Field(0, ge=0, description="A run loads at most this many messages; 0 for all.")
    reject_share: float = Field(
        0.05, ge=0, le=1, description="The check `rejects` allows this share of a topic's messages to be bad."
    )
    one_sided_share: float = Field(
        0.05, ge=0, le=1, description="The check `join` allows this share of keys to be on one side only."
    )
    fresh_seconds: float = Field(600, gt=0, description="The check `fresh` wants a joined row whose event is younger.")
    gap_hours: float = Field(24, gt=0, description="The check `gaps` fails for this long after messages were lost.")
    verify_hours: int = Field(
        48, ge=1, description="The checks cover at most this many of the hours that a run touched, the newest ones."
    )
    hours_from: datetime | None = Field(
        None, description="The first hourly partition; by default the first of the month that was 31 days ago."
    )
    alert_url: str = Field("", description="A failed run is posted to this address, as JSON with a `text`.")

    def first_hour(self, now: datetime) -> datetime:
        """Where Dagster's hourly partitions begin. It moves with the month: what is older than tickloom takes is out of view."""
        if self.hours_from is not None:
            given = self.hours_from if self.hours_from.tzinfo else self.hours_from.replace(tzinfo=UTC)
            return given.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return (now - timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def read_knobs() -> DagsterSettings:
    """From the environment. Raises ``SettingsError`` for a name that nobody reads, ``ValidationError`` for a wrong value."""
    known = {_PREFIX + name.upper() for name in DagsterSettings.model_fields}
    if unknown := unknown_names(os.environ, known, set(), _PREFIX):
        raise SettingsError(". ".join(why_unknown(name, nearest) for name, nearest in unknown.items()))
    return DagsterSettings()  # pyright: ignore[reportCallIssue]


KNOBS = read_knobs()


class TickloomResource(dg.ConfigurableResource["TickloomResource"]):
    """What a run may take, and what the checks let pass; ``settings()`` are the daemon's own."""

    max_seconds: float = KNOBS.max_seconds
    max_messages: int = KNOBS.max_messages
    reject_share: float = KNOBS.reject_share
    one_sided_share: float = KNOBS.one_sided_share
    fresh_seconds: float = KNOBS.fresh_seconds
    gap_hours: float = KNOBS.gap_hours
    verify_hours: int = KNOBS.verify_hours

    def settings(self) -> Settings:
        """The environment as it is now. Raises ``SettingsError``."""
        return load()

    def drain(self) -> Outcome:
        """``tickloom.drain`` within the bounds of this resource. Blocks; raises as it does."""
        return drain(self.settings(), max_seconds=self.max_seconds, max_messages=self.max_messages or None)
