"""Tables and charts as the Markdown that Dagster's page shows. Pure."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

_WIDTH, _HEIGHT, _FOOT = 480, 96, 16
_MINUTE = timedelta(minutes=1)
_BLOCKS = " ▁▂▃▄▅▆▇█"


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; a line that says so where there is no row."""
    if not rows:
        return "No row in this range."
    lines = [names, ["---"] * len(names), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value as one cell: nothing in it ends the cell or the line."""
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
    """Rows by minute as a line of blocks, for the hour that ends with ``last``; it is seen without a click."""
    counts = [minutes.get(minute, 0) for minute in _minutes(last)]
    highest = max(*counts, 1)
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // highest)] for count in counts)


def chart(minutes: Mapping[datetime, int], last: datetime) -> str:
    """Rows by minute as bars, for the hour that ends with ``last``: a picture that is in the text itself."""
    shown = _minutes(last)
    counts = [minutes.get(minute, 0) for minute in shown]
    highest, step, tall = max(*counts, 1), _WIDTH / len(shown), _HEIGHT - 2 * _FOOT
    bars = "".join(
        f'<rect x="{number * step:.1f}" y="{_FOOT + tall - tall * count / highest:.1f}" width="{step - 1.5:.1f}" '
        f'height="{tall * count / highest:.1f}"/>'
        for number, count in enumerate(counts)
    )
    text = (
        f'<text x="0" y="11">{highest:,} rows a minute at most</text>'
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
    """The sixty minutes up to that of ``last``, oldest first."""
    end = last.replace(second=0, microsecond=0)
    return [end - number * _MINUTE for number in reversed(range(60))]
