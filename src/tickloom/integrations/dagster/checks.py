"""The asset checks of the rows that a run has loaded. A check that runs alone checks the rows of the last run."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from tickloom.integrations.dagster import results
from tickloom.integrations.dagster.queries import exactness, gaps_since, is_fresh, ledger_faults, sides_of, spans_of
from tickloom.integrations.dagster.resource import TickloomResource
from tickloom.integrations.dagster.results import EXACT, FRESH, GAPS, JOIN, LEDGER, REJECTS

_JOINED = dg.AssetKey("joined_stock_data")
_RAW = [dg.AssetKey(name) for name in ("stock_prices_asset", "stock_volume")]
_DESCRIPTIONS = {
    LEDGER: "The ledger counts every offset once: stored, superseded, dead, skipped or missing.",
    EXACT: "`tickloom verify` of the hours that the run touched: averages, join and numbers, to the last bit.",
    FRESH: "The event of the newest joined row is younger than `fresh_seconds`.",
    GAPS: "The topics' retention removed no unread message in the last `gap_hours`.",
    JOIN: "In the hours that the run touched, the share of keys on one side only is at most `one_sided_share`.",
}
SPECS = [
    *(dg.AssetCheckSpec(name, asset=_JOINED, description=description) for name, description in _DESCRIPTIONS.items()),
    *(
        dg.AssetCheckSpec(
            REJECTS, asset=key, description="The share of bad messages in the run is at most `reject_share`."
        )
        for key in _RAW
    ),
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The messages that a run loaded for one asset, from its metadata. ``reasons``: rejects of both topics by reason."""

    messages: int
    rejected: int
    reasons: dict[str, int]
    hours: list[datetime]


def loaded_by(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> Loaded:
    """The messages that this run loaded for the asset; if this run did not materialise it, those of the last run that did."""
    event = None
    for record in context.instance.all_logs(context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        if record.asset_materialization is not None and record.asset_materialization.asset_key == key:
            event = record
    event = event or context.instance.get_latest_materialization_event(key)
    metadata = event.asset_materialization.metadata if event is not None and event.asset_materialization else {}
    values: dict[str, Any] = {name: value.value for name, value in metadata.items()}
    return Loaded(
        values.get("messages", 0),
        values.get("rejected", 0),
        values.get("rejects", {}),
        [datetime.fromisoformat(hour) for hour in values.get("hours", {})],
    )


@dg.multi_asset_check(specs=SPECS, can_subset=True)
def stock_data_checks(
    context: dg.AssetCheckExecutionContext, tickloom: TickloomResource
) -> Iterator[dg.AssetCheckResult]:
    """Checks the loaded rows. A failed check does not fail the run, whose rows are committed."""
    for check in sorted(context.selected_asset_check_keys, key=lambda key: (key.name, key.asset_key.to_user_string())):
        yield _run_check(tickloom, check.name, check.asset_key, loaded_by(context, check.asset_key))


def _run_check(tickloom: TickloomResource, name: str, key: dg.AssetKey, loaded: Loaded) -> dg.AssetCheckResult:
    settings, now = tickloom.settings(), datetime.now(UTC)
    spans = spans_of(loaded.hours, tickloom.verify_hours)
    if name == LEDGER:
        return results.ledger(key, ledger_faults(settings))
    if name == EXACT:
        skipped_hours = max(0, len(loaded.hours) - tickloom.verify_hours)
        return results.exact(key, exactness(settings, spans) if spans else [], skipped_hours)
    if name == REJECTS:
        return results.rejects(key, loaded.messages, loaded.rejected, tickloom.reject_share, loaded.reasons)
    if name == FRESH:
        return results.fresh(
            key, is_fresh(settings, now - timedelta(seconds=tickloom.fresh_seconds)), tickloom.fresh_seconds
        )
    if name == GAPS:
        return results.gaps(key, gaps_since(settings, now - timedelta(hours=tickloom.gap_hours)), tickloom.gap_hours)
    return results.one_sided(key, sides_of(settings, spans), tickloom.one_sided_share)
