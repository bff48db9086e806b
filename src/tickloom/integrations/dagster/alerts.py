"""Alerts people when a run has failed."""

import json
import urllib.request

import dagster as dg

from tickloom.integrations.dagster.resource import DEFAULTS

_POST_SECONDS = 10.0


def alert(url: str, job: str, run_id: str, error: str) -> str:
    """Returns the message that a run of ``job`` has failed. Posts it to ``url`` first, unless that is empty: as JSON with a
    ``text``, which chat webhooks accept.

    Blocks for up to ten seconds. Raises ``OSError`` if the POST fails.
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
    """Logs each failed run as an error, and posts it to TICKLOOM_DAGSTER_ALERT_URL if that is set."""
    run = context.dagster_run
    causes = [str(event.message) for event in context.get_step_failure_events()]
    text = alert(DEFAULTS.alert_url, run.job_name, run.run_id, "; ".join(causes) or context.failure_event.message or "")
    context.log.error(text)
