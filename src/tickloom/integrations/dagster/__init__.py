"""The Dagster code location: ``dagster dev -m tickloom.integrations.dagster`` (``pip install "tickloom[dagster]"``).

One exactly-once drain materialises the three assets. Asset checks then check the loaded rows, both as a whole and by the
hour. Runs may overlap with each other and with a daemon, and may be killed: see ``tickloom.drain``. The guide is
docs/how-to/dagster.md.
"""

try:
    import dagster as dg
except ImportError:
    raise ImportError("tickloom's Dagster code location needs Dagster; pip install 'tickloom[dagster]'") from None

from tickloom.integrations.dagster.alerts import stock_data_alert
from tickloom.integrations.dagster.assets import stock_data
from tickloom.integrations.dagster.checks import stock_data_checks
from tickloom.integrations.dagster.hours import stock_data_hours
from tickloom.integrations.dagster.jobs import stock_data_job, stock_data_schedule
from tickloom.integrations.dagster.resource import TickloomResource

__all__ = [
    "TickloomResource",
    "defs",
    "stock_data",
    "stock_data_alert",
    "stock_data_checks",
    "stock_data_hours",
    "stock_data_job",
    "stock_data_schedule",
]

defs = dg.Definitions(
    assets=[stock_data, stock_data_hours],
    asset_checks=[stock_data_checks],
    jobs=[stock_data_job],
    schedules=[stock_data_schedule],
    sensors=[stock_data_alert],
    resources={"tickloom": TickloomResource()},
    executor=dg.in_process_executor,  # the same process loads the rows and checks them
)
