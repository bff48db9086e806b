"""The three assets, and the drain that materialises all of them."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from tickloom.core.model import ANALYTICS, PRICES, VOLUMES, Table
from tickloom.integrations.dagster import markdown
from tickloom.integrations.dagster.hours import mark_hours
from tickloom.integrations.dagster.queries import preview, rows_by_table, spans_of
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
    """Loads the log up to its end, or until the time limit of a run. It may run beside other runs and a daemon, and may be
    killed.
    """
    settings = tickloom.settings()
    outcome = tickloom.drain()
    for line in outcome.lines():
        context.log.info(line)
    if outcome.ended is Ended.STOPPED:
        raise dg.Failure(
            "the drain was stopped; its loaded batches are committed, and the next run continues from there"
        )
    mark_hours(context, outcome)
    rows = rows_by_table(settings, spans_of(list(outcome.hours), tickloom.verify_hours))
    for key, table in TABLE_OF.items():
        yield dg.MaterializeResult(asset_key=key, metadata=_metadata(settings, outcome, table, rows[table.name]))


def _metadata(settings: Settings, outcome: Outcome, table: Table, rows: int) -> dict[str, Any]:
    """The metadata for people, and for the checks (``hours``, ``messages``, ``rejected``, ``rejects``)."""
    topics = {PRICES.name: [settings.prices_topic], VOLUMES.name: [settings.volumes_topic]}.get(
        table.name, [settings.prices_topic, settings.volumes_topic]
    )
    metadata: dict[str, Any] = {}
    if outcome.first_event is not None and outcome.last_event is not None:
        newest = preview(settings, table, outcome.last_event)
        metadata |= {
            "rows by minute, the last hour": markdown.sparkline(newest.minutes, outcome.last_event),
            "chart": dg.MetadataValue.md(markdown.chart(newest.minutes, outcome.last_event)),
            "preview": dg.MetadataValue.md(markdown.table(newest.names, newest.rows)),
            "first event": dg.MetadataValue.timestamp(outcome.first_event),
            "last event": dg.MetadataValue.timestamp(outcome.last_event),
        }
    if outcome.lag is not None:
        metadata["lag"] = sum(outcome.lag.get(topic, 0) for topic in topics)
    if table is ANALYTICS:
        metadata |= {"rows stored": outcome.stored, "rows superseded": outcome.superseded}
    metadata |= {
        "messages": sum(outcome.read.get(topic, 0) for topic in topics),
        "rejected": sum(outcome.dead.get(topic, 0) for topic in topics),
        "rejects": dg.MetadataValue.json(dict(outcome.rejects)),
        "rows in touched hours": rows,
        "drained": outcome.drained,
        "ended by": outcome.ended.value,
        "seconds": round(outcome.seconds, 2),
        "hours": dg.MetadataValue.json({hour.isoformat(): count for hour, count in outcome.hours.items()}),
    }
    return metadata
