"""Replay: where a run stands in its execution log, and which entries are its own.

Tactus replays the entry at a position if its run_id is that of the run, and else executes and replaces it. We keep
that rule, and extend it to checkpoints inside checkpoints (a sub-procedure that has steps), which Tactus takes for
one another when it resumes:

- While a checkpoint at position p runs and others are logged inside it, p holds a *filler* and they follow it, all
  under the run_id `<run>/<p>`, the *scope* of p. When it is done, its result takes their place.
- So a resume that finds the filler at p executes that checkpoint again, and replays those inside it; one that finds
  the result replays it.
- After `Checkpoint.clear_*` the run goes on as `<run>#<n>`: a resume does not take what was logged after the clearing
  for what was cleared, and executes both again.

Nothing here knows of Tactus or Lua.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Frame:
    """A checkpoint whose function is running."""

    position: int
    type: str
    run_id: str | None  # of the run or scope that it belongs to
    atomic: bool  # nothing inside it is logged
    open: bool = False  # something inside it is
    cleared: bool = False  # its place in the log was cleared while it ran

    @property
    def scope(self) -> str:
        return f"{self.run_id or ''}/{self.position}"


@dataclass
class Journal:
    """The log of one procedure as its run goes along it; sub-procedures share it."""

    metadata: Any = None  # ProcedureMetadata
    run_id: str | None = None  # of the run, or of the scope that it is in
    frames: list[Frame] = field(default_factory=list)
    suspended: BaseException | None = None  # on its way out through whatever may wrap it
    _clearings: int = 0

    @property
    def log(self) -> list[Any]:
        found: list[Any] = self.metadata.execution_log
        return found

    @property
    def position(self) -> int:
        found: int = self.metadata.replay_index
        return found

    def found(self) -> Any | None:
        """The entry that this run has at its position, or None."""
        return self._of(self.position, self.run_id)

    def _of(self, position: int, run_id: str | None) -> Any | None:
        if position < len(self.log) and self.log[position].run_id == run_id:
            return self.log[position]
        return None

    @property
    def atomic(self) -> bool:
        return any(frame.atomic for frame in self.frames)

    @contextmanager
    def running(self, frame: Frame) -> Iterator[None]:
        """The function of the checkpoint at the present position runs."""
        self.frames.append(frame)
        if not frame.atomic and self._of(frame.position, frame.scope) and self._of(frame.position + 1, frame.scope):
            self._open(frame)  # a former life got as far as inside it
        try:
            yield
        finally:
            self.frames.pop()
            self.run_id = frame.run_id
            if frame.cleared:  # then its result goes where the run now stands
                frame.position = self.position
            self.metadata.replay_index = frame.position

    def enter(self) -> None:
        """A checkpoint is about to begin: if it does so inside another, from here on things inside that are logged."""
        self.suspended = None  # if there was one, the procedure caught it
        if self.frames and not self.frames[-1].open:
            self._open(self.frames[-1])

    def _open(self, frame: Frame) -> None:
        frame.open = True
        self.run_id = frame.scope
        self.metadata.replay_index = frame.position + 1

    def fillers(self) -> list[Frame]:
        """The checkpoints around the present one that have no place in the log yet."""
        return [frame for frame in self.frames if not frame.cleared and self._of(frame.position, frame.scope) is None]

    def put(self, entry: Any) -> None:
        """`entry` at its position."""
        if entry.position < len(self.log):
            self.log[entry.position] = entry
        else:
            self.log.append(entry)

    def done(self, frame: Frame, entry: Any) -> None:
        """The result of the checkpoint at `frame` takes the place of all that was logged for it."""
        self.put(entry)
        if frame.open:
            # What is after it was logged inside it, or by an older run that this one is replacing. It is older
            # than the entry, and a reset in Plexus, which goes by time, would tear a hole into the log.
            del self.log[frame.position + 1 :]
        self.metadata.replay_index = frame.position + 1

    def cleared(self, position: int) -> None:
        """The entry at `position` and those after it were cleared."""
        self._clearings += 1
        self.run_id = self._after_clearing(self.run_id)
        for frame in self.frames:
            if frame.position >= position:
                frame.run_id = self._after_clearing(frame.run_id)
                frame.cleared = True

    def _after_clearing(self, run_id: str | None) -> str:
        return f"{(run_id or '').partition('#')[0]}#{self._clearings}"
