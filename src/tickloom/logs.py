"""Structured logs: a console on a terminal, one JSON object a line elsewhere. No secret enters them."""

import logging
import sys
from typing import Literal

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
