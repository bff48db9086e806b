"""Tables and charts in Markdown, for Dagster's page. Pure."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

_WIDTH, _HEIGHT, _FOOT = 480, 96, 16
_MINUTE = timedelta(minutes=1)
_BLOCKS = " ▁▂▃▄▅▆▇█"


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; without rows, a sentence instead."""
    if not rows:
        return "No rows in this range."
    lines = [names, ["---"] * len(names), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value as one cell, with every character escaped that would end the cell or the line."""
    match value:
        case None:
            return ""
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S.%f}"
        case float():
            return f"{value:,.4f}" if abs(value) < 1e12 else f"{value:.6g}"
        case _:
            return "".join(f"&#{ord(char)};" if char in "|\\`*_[]<>&\n\r" else char for char in str(value))


def sparkline(minutes: Mapping[datetime, int], last: datetime) -> str:
    """Rows by minute as a line of block characters, for the hour that ends with ``last``. Dagster shows it without a click."""
    counts = [minutes.get(minute, 0) for minute in _minutes(last)]
    highest = max(*counts, 1)
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // highest)] for count in counts)


def chart(minutes: Mapping[datetime, int], last: datetime) -> str:
    """Rows by minute as bars, for the hour that ends with ``last``: an image that is embedded in the text."""
    shown = _minutes(last)
    counts = [minutes.get(minute, 0) for minute in shown]
    highest, step, full_height = max(*counts, 1), _WIDTH / len(shown), _HEIGHT - 2 * _FOOT
    bars = "".join(
        f'<rect x="{number * step:.1f}" y="{_FOOT + full_height - full_height * count / highest:.1f}" width="{step - 1.5:.1f}" '
        f'height="{full_height * count / highest:.1f}"/>'
        for number, count in enumerate(counts)
    )
    text = (
        f'<text x="0" y="11">{highest:,} rows per minute at most</text>'
        f'<text x="0" y="{_HEIGHT - 3}">{shown[0]:%H:%M}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{shown[-1]:%H:%M} UTC</text>'
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/><g fill="#4f43dd">{bars}</g>'
        f'<g fill="#5f6773">{text}</g></svg>'
    )
    return f"![rows by minute](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _minutes(last: datetime) -> list[datetime]:
    """The sixty minutes that end with the minute of ``last``, oldest first."""
    end = last.replace(second=0, microsecond=0)
    return [end - number * _MINUTE for number in reversed(range(60))]
