"""The three assets, and the drain that materialises all of them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from tickloom.core.model import ANALYTICS, PRICES, VOLUMES, Table
from tickloom.integrations.dagster import pictures
from tickloom.integrations.dagster.hours import note_hours
from tickloom.integrations.dagster.looks import preview, rows_by_table, spans_of
from tickloom.integrations.dagster.resource import TickloomResource
from tickloom.observe.outcome import Ended, Outcome
from tickloom.settings import Settings

GROUP = "stock_data"
TABLE_OF = {"stock_prices_asset": PRICES, "stock_volume": VOLUMES, "joined_stock_data": ANALYTICS}


def _spec(key: str, description: str, *deps: str) -> dg.AssetSpec:
    table = TABLE_OF[key]
    columns = [
        dg.TableColumn(
            column.name,
            column.sql.split()[0],
            constraints=dg.TableColumnConstraints(nullable="NOT NULL" not in column.sql),
        )
        for column in table.columns
    ]
    return dg.AssetSpec(
        key,
        deps=deps,
        description=description,
        group_name=GROUP,
        kinds={"kafka", "postgres"} if table is not ANALYTICS else {"postgres"},
        metadata={"dagster/table_name": table.name, "dagster/column_schema": dg.TableSchema(columns=columns)},
    )


SPECS = (
    _spec("stock_prices_asset", "`stock_prices`: prices with their moving average, from the topic of prices."),
    _spec("stock_volume", "`stock_volumes`: volumes with their moving average, from the topic of volumes."),
    _spec(
        "joined_stock_data",
        "`stock_analytics_data`: a row for each symbol and time that has both a price and a volume.",
        *("stock_prices_asset", "stock_volume"),
    ),
)


@dg.multi_asset(name="stock_data", specs=SPECS)
def stock_data(context: dg.AssetExecutionContext, tickloom: TickloomResource) -> Iterator[dg.MaterializeResult[Any]]:
    """Loads the log up to its end, or for as long as a run may take. Safe beside other runs and a daemon, also killed."""
    settings = tickloom.settings()
    outcome = tickloom.drain()
    for line in outcome.lines():
        context.log.info(line)
    if outcome.ended is Ended.STOPPED:
        raise dg.Failure("the drain was stopped; what it had loaded is committed, and the next run goes on from there")
    note_hours(context, outcome)
    rows = rows_by_table(settings, spans_of(list(outcome.hours), tickloom.verify_hours))
    for key, table in TABLE_OF.items():
        yield dg.MaterializeResult(asset_key=key, metadata=_metadata(settings, outcome, table, rows[table.name]))


def _metadata(settings: Settings, outcome: Outcome, table: Table, rows: int) -> dict[str, Any]:
    """What people look at, and what the checks read (``hours``, ``messages``, ``rejected``)."""
    topics = {PRICES.name: [settings.prices_topic], VOLUMES.name: [settings.volumes_topic]}.get(
        table.name, [settings.prices_topic, settings.volumes_topic]
    )
    told: dict[str, Any] = {}
    if outcome.first_event is not None and outcome.last_event is not None:
        seen = preview(settings, table, outcome.last_event)
        told |= {
            "rows by minute, the last hour": pictures.sparkline(seen.minutes, outcome.last_event),
            "chart": dg.MetadataValue.md(pictures.chart(seen.minutes, outcome.last_event)),
            "preview": dg.MetadataValue.md(pictures.table(seen.names, seen.rows)),
            "first event": dg.MetadataValue.timestamp(outcome.first_event),
            "last event": dg.MetadataValue.timestamp(outcome.last_event),
        }
    if outcome.lag is not None:
        told["lag"] = sum(outcome.lag.get(topic, 0) for topic in topics)
    if table is ANALYTICS:
        told |= {"rows stored": outcome.stored, "rows superseded": outcome.superseded}
    told |= {
        "messages": sum(outcome.read.get(topic, 0) for topic in topics),
        "rejected": sum(outcome.dead.get(topic, 0) for topic in topics),
        "rejects": dg.MetadataValue.json(dict(outcome.rejects)),
        "rows in touched hours": rows,
        "drained": outcome.drained,
        "ended by": outcome.ended.value,
        "seconds": round(outcome.seconds, 2),
        "hours": dg.MetadataValue.json({hour.isoformat(): count for hour, count in outcome.hours.items()}),
    }
    return told
