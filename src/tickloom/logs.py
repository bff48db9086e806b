"""Structured logs: a console on a terminal, one JSON object a line elsewhere. No secret enters them.

In a process that has not set up structlog, for example an orchestrator that calls ``tickloom.drain``, the same lines go to
Python's ``logging``.
"""

import logging
import sys
from typing import Any, Literal

import structlog


def configure(log_format: Literal["auto", "console", "json"], level: str) -> None:
    """Set up structlog for the process, on standard error."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class Logger:
    """Writes lines with their values through the process's structlog, or through ``logging`` if structlog is not set up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._structured: Any = structlog.get_logger(name)

    def debug(self, event: str, **values: Any) -> None:
        self._log(logging.DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._log(logging.WARNING, event, values)

    def error(self, event: str, **values: Any) -> None:
        self._log(logging.ERROR, event, values)

    def _log(self, level: int, event: str, values: dict[str, Any]) -> None:
        if structlog.is_configured():
            self._structured.log(level, event, **values)
            return
        plain = logging.getLogger(self._name)
        if plain.isEnabledFor(level):
            plain.log(level, "%s", " ".join((event, *(f"{name}={value!r}" for name, value in values.items()))))
