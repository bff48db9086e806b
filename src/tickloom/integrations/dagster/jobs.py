"""The job and its schedule. Existing deployments refer to them by these names."""

import dagster as dg

from tickloom.integrations.dagster.assets import SPECS

stock_data_job = dg.define_asset_job(
    "stock_data_job",
    selection=dg.AssetSelection.assets(*(spec.key for spec in SPECS)),
    description="One exactly-once drain of both topics into all three tables; then the checks.",
    executor_def=dg.in_process_executor,
)
stock_data_schedule = dg.ScheduleDefinition(
    name="stock_data_schedule",
    job=stock_data_job,
    cron_schedule="*/2 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every two minutes. Overlapping runs are safe; TICKLOOM_DAGSTER_MAX_SECONDS avoids them.",
)
