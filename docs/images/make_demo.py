"""Make ``docs/images/demo.svg``: the live view of ``tickloom demo``, taken from a real run of it.

    .venv/bin/python docs/images/make_demo.py

The demo runs for ``SECONDS``. The last thing that its view shows becomes the picture.
"""

import asyncio
import re
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from tickloom.demo import run as demo

SECONDS = 30
COLUMNS = 110
PICTURE = Path(__file__).with_name("demo.svg")
FRAMES: list[Any] = []


class Frames:
    """Takes the place of ``rich.live.Live`` in the demo and keeps what it would have shown."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, picture: Any, **_: Any) -> None:
        FRAMES.append(picture)


def main() -> None:
    """Run the demo as on a terminal, then draw its last frame, without the fonts that a browser would have to download."""
    demo.Live = Frames  # type: ignore[assignment, misc]
    demo.Console = lambda: Console(force_terminal=True)  # type: ignore[assignment, misc]
    asyncio.run(demo.run_demo(demo.DemoSettings(), SECONDS))
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(FRAMES[-1])
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="tickloom demo"), flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n")


if __name__ == "__main__":
    main()
