"""The tables by hour of event time, as Dagster sees them: ``stock_data_hours``, one partition an hour.

The three assets are a stream without partitions, because a drain does not know in advance which hours its messages are
from. Each drain marks the hours that it touched here, with their number of messages. Materialising an hour counts and
checks its rows.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from tickloom.integrations.dagster.queries import exactness, rows_by_table, sides_of
from tickloom.integrations.dagster.resource import DEFAULTS, TickloomResource
from tickloom.integrations.dagster.results import EXACT, JOIN, exact, one_sided
from tickloom.observe.outcome import Outcome
from tickloom.store.slices import Span

MAX_MARKED_HOURS = 744
"""31 days. A limit, because each mark is an event in Dagster's storage."""

KEY = dg.AssetKey("stock_data_hours")
HOURS = dg.HourlyPartitionsDefinition(start_date=DEFAULTS.first_hour(datetime.now(UTC)), timezone="UTC", end_offset=1)


def mark_hours(context: dg.AssetExecutionContext, outcome: Outcome) -> None:
    """Mark the hours that a drain touched, at most the newest ``MAX_MARKED_HOURS``."""
    for hour, messages in list(outcome.hours.items())[-MAX_MARKED_HOURS:]:
        if hour >= HOURS.start:
            context.log_event(
                dg.AssetMaterialization(
                    KEY,
                    description="touched by a drain",
                    partition=hour.strftime(HOURS.fmt),
                    metadata={"messages": messages},
                )
            )


@dg.asset(
    key=KEY,
    partitions_def=HOURS,
    deps=["joined_stock_data"],
    group_name="by_hour",  # a group of its own, or "Materialize all" of the three assets would ask for hours
    kinds={"postgres"},
    check_specs=[
        dg.AssetCheckSpec(EXACT, asset=KEY, description="`tickloom verify` of this hour."),
        dg.AssetCheckSpec(
            JOIN, asset=KEY, description="The share of keys on one side only is at most `one_sided_share`."
        ),
    ],
)
def stock_data_hours(
    context: dg.AssetExecutionContext, tickloom: TickloomResource
) -> Iterator[dg.MaterializeResult[Any]]:
    """One hour of event time in all three tables. Materialising it counts and checks its rows, and loads nothing."""
    settings, spans = tickloom.settings(), [_span(context.partition_key)]
    rows = rows_by_table(settings, spans)
    yield dg.MaterializeResult(
        metadata={f"rows of {table}": count for table, count in rows.items()},
        check_results=[
            exact(KEY, exactness(settings, spans), skipped_hours=0),
            one_sided(KEY, sides_of(settings, spans), tickloom.one_sided_share),
        ],
    )


def _span(key: str) -> Span:
    window = HOURS.time_window_for_partition_key(key)
    return Span(window.start.astimezone(UTC), window.end.astimezone(UTC))
