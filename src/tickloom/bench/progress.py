"""Shows the progress of a bench on standard error: a bar on a terminal, otherwise a line for each step."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_REFRESHES_PER_SECOND = 2  # more would take CPU time from what is measured


class ConsoleProgress:
    """The ``Progress`` of the command line (see ``rig``)."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TimeElapsedColumn(), TextColumn("{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def step(self, message: str, total: int | None = None) -> None:
        """Begin the next step."""
        if self._console.is_terminal:
            self._bar.reset(self._task, description=message, total=total, start=True)
        else:
            self._console.print(message, highlight=False, soft_wrap=True)

    def done(self, parts: int) -> None:
        """Show how many parts of the step are done."""
        self._bar.update(self._task, completed=parts)

    def warn(self, message: str) -> None:
        """Show a warning."""
        self._console.print(message, style="yellow", highlight=False, soft_wrap=True)
