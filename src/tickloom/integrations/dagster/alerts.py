"""Tells people that a run has failed."""

import json
import urllib.request

import dagster as dg

from tickloom.integrations.dagster.resource import KNOBS

_POST_SECONDS = 10.0


def alert(url: str, job: str, run_id: str, error: str) -> str:
    """Say that a run of ``job`` has failed; by POST where there is a ``url``: JSON with ``text``, as chat hooks take it.

    Gives the line. Blocks for ten seconds at most. Raises ``OSError`` where the address does not take it.
    """
    text = f"Dagster run {run_id} of {job} has failed: {error}"
    if url:
        body = json.dumps({"text": text, "job": job, "run_id": run_id, "error": error}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_POST_SECONDS):
            pass
    return text


@dg.run_failure_sensor(name="stock_data_alert", default_status=dg.DefaultSensorStatus.RUNNING)
def stock_data_alert(context: dg.RunFailureSensorContext) -> None:
    """A failed run is logged as an error, and posted to TICKLOOM_DAGSTER_ALERT_URL where that is set."""
    run = context.dagster_run
    causes = [str(event.message) for event in context.get_step_failure_events()]
    text = alert(KNOBS.alert_url, run.job_name, run.run_id, "; ".join(causes) or context.failure_event.message or "")
    context.log.error(text)
