"""Reports to health, metrics and the log whether Kafka or Postgres can be reached."""

import time

from tickloom.logs import Logger
from tickloom.observe.health import Service
from tickloom.observe.metrics import Metrics

_log = Logger(__name__)


class Reachability:
    """Collects what the clients of one service report, and announces each change. Belongs to the event loop."""

    def __init__(self, service: Service, target: str, metrics: Metrics) -> None:
        """``target``: the service's label in the metrics."""
        self._service = service
        self._up = metrics.up.labels(target)
        self._changed = metrics.up_changed.labels(target)

    def failed(self, client: object, error: Exception) -> None:
        """The service did not serve ``client``."""
        seconds_up = time.time() - self._service.since
        if self._service.failed(client, str(error), time.time()):
            self._show(0)
            _log.warning(f"{self._service.name} is away", error=str(error), seconds_up=round(seconds_up))

    def answered(self, client: object) -> None:
        """The service served ``client``."""
        was_up, seconds = self._service.up, time.time() - self._service.since
        if self._service.answered(client, time.time()):
            self._show(1)
            if was_up is False:
                _log.info(f"{self._service.name} is back", seconds_away=round(seconds, 1))

    def forget(self, client: object) -> None:
        """``client`` no longer uses the service."""
        self._service.forget(client)

    def _show(self, up: int) -> None:
        self._up.set(up)
        self._changed.set(self._service.since)
