"""The tables by hour of event time, as Dagster sees them: ``stock_data_hours``, one partition an hour.

The three assets are a stream, so they have no partitions: a drain is not told which hours it will meet. Each drain marks
the hours that it touched here, with what it brought. To materialise an hour is to look at it: it is counted and checked.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from tickloom.integrations.dagster.looks import exactness, rows_by_table, sides_of
from tickloom.integrations.dagster.resource import KNOBS, TickloomResource
from tickloom.integrations.dagster.results import EXACT, JOIN, exact, one_sided
from tickloom.observe.outcome import Outcome
from tickloom.store.slices import Span

MOST_MARKED = 744
"""Hours of 31 days: each mark is an event in Dagster's storage."""

KEY = dg.AssetKey("stock_data_hours")
HOURS = dg.HourlyPartitionsDefinition(start_date=KNOBS.first_hour(datetime.now(UTC)), timezone="UTC", end_offset=1)


def note_hours(context: dg.AssetExecutionContext, outcome: Outcome) -> None:
    """Mark the hours that a drain touched, the newest ``MOST_MARKED``."""
    for hour, messages in list(outcome.hours.items())[-MOST_MARKED:]:
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
    group_name="by_hour",  # apart: else "Materialize all" of the three would ask for hours
    kinds={"postgres"},
    check_specs=[
        dg.AssetCheckSpec(EXACT, asset=KEY, description="`tickloom verify` of this hour."),
        dg.AssetCheckSpec(
            JOIN, asset=KEY, description="The share of keys on one side only is below `one_sided_share`."
        ),
    ],
)
def stock_data_hours(
    context: dg.AssetExecutionContext, tickloom: TickloomResource
) -> Iterator[dg.MaterializeResult[Any]]:
    """One hour of event time in all three tables. To materialise it counts and checks its rows; it loads nothing."""
    settings, spans = tickloom.settings(), [_span(context.partition_key)]
    rows = rows_by_table(settings, spans)
    yield dg.MaterializeResult(
        metadata={f"rows of {table}": count for table, count in rows.items()},
        check_results=[
            exact(KEY, exactness(settings, spans), left_out=0),
            one_sided(KEY, sides_of(settings, spans), tickloom.one_sided_share),
        ],
    )


def _span(key: str) -> Span:
    window = HOURS.time_window_for_partition_key(key)
    return Span(window.start.astimezone(UTC), window.end.astimezone(UTC))
