"""What a person sees while the bench runs: a bar on a terminal, a line for each step elsewhere. On standard error."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LOOKS_PER_SECOND = 2  # a busier bar would take from what is measured


class Shown:
    """The ``Progress`` of the command line."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TimeElapsedColumn(), TextColumn("{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=self._console, refresh_per_second=_LOOKS_PER_SECOND, transient=True)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def step(self, told: str, total: int | None = None) -> None:
        """The next piece of work."""
        if self._console.is_terminal:
            self._bar.reset(self._task, description=told, total=total, start=True)
        else:
            self._console.print(told, highlight=False, soft_wrap=True)

    def done(self, parts: int) -> None:
        """How many parts of it are done."""
        self._bar.update(self._task, completed=parts)

    def warn(self, told: str) -> None:
        """Something that a person should know."""
        self._console.print(told, style="yellow", highlight=False, soft_wrap=True)
