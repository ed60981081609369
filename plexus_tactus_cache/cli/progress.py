"""What `plexus-tactus-cache run` shows while a procedure runs, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape

from plexus_tactus_cache.printable import printable


class Progress:
    """A line for each checkpoint, above a line that says where the run stands. Tactus's log handler."""

    def __init__(self, procedure_id: str, run_id: str, stored: int, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._title = f"procedure [bold]{_shown(procedure_id)}[/], run {_shown(run_id)}"
        self._stored = stored
        self._made = 0
        self._status = self._console.status(self._line())

    def __enter__(self) -> Self:
        if self._stored:
            self.say(f"going on after {self._stored} stored checkpoints")
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def log(self, event: Any) -> None:
        """An event of Tactus's."""
        kind = getattr(event, "event_type", None)
        if kind == "checkpoint_created":
            self._made += 1
            self._console.print(
                f"  [green]✓[/] {event.checkpoint_position:>4} {_shown(event.checkpoint_type)} "
                f"[dim]{event.duration_ms or 0:.0f} ms[/]"
            )
            self._status.update(self._line())
        elif kind == "log":
            for line in str(event.message).split("\n"):
                self._console.print(f"    {_shown(line)}")

    def say(self, *lines: str) -> None:
        """A message of ours."""
        for line in lines:
            self._console.print(_shown(line), soft_wrap=True)

    def _line(self) -> str:
        return f"{self._title}: {self._made} checkpoints stored"


def _shown(text: str) -> str:
    return escape(printable(text))
