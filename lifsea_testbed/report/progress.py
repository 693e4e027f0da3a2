"""What a person sees while a machine boots: a line with a spinner on a terminal, lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Spinner:
    """One line at the end of the terminal that says what is under way, and for how long; gone when it is stopped.

    It writes to a copy of standard output as that is now: what pytest captures later does not reach it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._console = Console(file=self._file)
        self._progress: Progress | None = None

    def show(self, line: str) -> None:
        """Says what is under way from now on."""
        if not self._console.is_terminal:
            self._say(line)
            return
        self.stop()
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._progress = Progress(*columns, console=self._console, transient=True, redirect_stdout=False,
                                  redirect_stderr=False)  # fmt: skip
        self._progress.add_task(line, total=None)
        self._progress.start()

    def stop(self) -> None:
        """Takes the line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def close(self) -> None:
        """Takes the line away for good."""
        self.stop()
        self._file.close()
