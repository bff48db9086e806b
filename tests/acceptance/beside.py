"""Work that a thread does beside the test."""

import threading
from types import TracebackType
from typing import Self


class Beside:
    """Runs ``run`` in a thread while inside; ``run`` must return soon after ``stop`` is set."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.run)

    def run(self) -> None:
        """The work of the thread."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop.set()
        self._thread.join()
