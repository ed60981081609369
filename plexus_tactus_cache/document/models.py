"""The models: what callers hold in their hands.

`ProcedureMetadata`, `CheckpointEntry` and `SourceLocation` have the fields of Tactus's models of the same names
(tactus.protocols.models, 0.49 to 0.53), so a Tactus runtime cannot tell them apart.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable
from typing import Any, Literal, SupportsIndex

from pydantic import BaseModel, ConfigDict, Field

ASYNC_PROCEDURES = "async_procedures"  # Tactus keeps handles in __dict__ under this name (plexus-facts.md §9)


BUILTIN = "builtin:"


def is_builtin(procedure_id: str) -> bool:
    """Whether it is one of the procedures that come with Plexus: never stored there (plexus-facts.md §6), nor here."""
    return procedure_id.startswith(BUILTIN)


class SourceLocation(BaseModel):
    """Where in a .tac file a checkpoint was made; `line` counts from 1."""

    file: str
    line: int
    function: str | None = None
    code_context: str | None = None


class CheckpointEntry(BaseModel):
    """One entry of the execution log; `position` counts from 0."""

    position: int
    type: str
    result: Any
    timestamp: dt.datetime
    duration_ms: float | None = None
    input_hash: str | None = None
    run_id: str | None = None
    source_location: SourceLocation | None = None
    captured_vars: dict[str, Any] | None = None


class NamedCheckpoint(CheckpointEntry):
    """An entry written under a name, by `checkpoint_save`."""

    name: str


class ProcedureMetadata(BaseModel):
    """Everything about one procedure that its runtime reads and writes."""

    procedure_id: str
    execution_log: list[Any] = Field(default_factory=list, description="CheckpointEntry, ours or Tactus's")
    replay_index: int = 0
    state: dict[str, Any] = Field(default_factory=dict)
    lua_state: dict[str, Any] = Field(default_factory=dict)
    status: str = "RUNNING"
    waiting_on_message_id: str | None = None


def _for_tactus(models: Any, entry: CheckpointEntry) -> Any:
    """One of our entries as one of Tactus's, if Tactus is loaded."""
    if models is None:
        return entry
    place = entry.source_location
    fields = {name: getattr(entry, name) for name in CheckpointEntry.model_fields}
    fields["source_location"] = None if place is None else models.SourceLocation(**place.model_dump())
    return models.CheckpointEntry(**fields)


class ExecutionLog(list[Any]):
    """A log that knows which of its entries were replaced, so that a save need not look at every one.

    Appending leaves no mark: the store knows how many entries it has.
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        super().__init__(entries)
        self.acknowledge()

    def acknowledge(self) -> None:
        """The log as it is now is stored."""
        self.replaced: set[int] = set()
        self.shuffled = False  # entries may have moved or gone: every position has to be looked at

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        if isinstance(index, slice):
            self.shuffled = True
        else:
            self.replaced.add(index if index >= 0 else len(self) + index)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        self.shuffled = True
        super().__delitem__(index)

    def __imul__(self, count: SupportsIndex) -> ExecutionLog:
        self.shuffled = True
        super().__imul__(count)
        return self

    def insert(self, index: SupportsIndex, value: Any) -> None:
        self.shuffled = True
        super().insert(index, value)

    def pop(self, index: SupportsIndex = -1) -> Any:
        self.shuffled = True
        return super().pop(index)

    def remove(self, value: Any) -> None:
        self.shuffled = True
        super().remove(value)

    def clear(self) -> None:
        self.shuffled = True
        super().clear()

    def copy(self) -> list[Any]:
        """The entries as a plain list, for Tactus: in its own class, as it will have no other in an ExecutionRun."""
        models = sys.modules.get("tactus.protocols.models")
        return [_for_tactus(models, entry) if isinstance(entry, CheckpointEntry) else entry for entry in self]

    def sort(self, **options: Any) -> None:
        self.shuffled = True
        super().sort(**options)

    def reverse(self) -> None:
        self.shuffled = True
        super().reverse()


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


Connection = Literal["unknown", "online", "offline", "throttled", "unauthorized", "no client"]


class ProcedureStatus(_Report):
    """Where one procedure of the local store stands. Times are seconds since the epoch."""

    procedure_id: str
    version: int
    pushed_version: int
    dirty: bool
    entries: int
    status: str | None
    parked_reason: str | None
    last_error: str | None
    attempts: int
    next_attempt: float | None
    dirty_since: float | None


class Conflict(_Report):
    """A value that reconciling set aside, or could not decide about. `at`: seconds since the epoch.

    `part` is `execution_log`, `state`, `lua_state`, `status` or `async_procedures`; `key` a key of the state, or for
    the log the position from which on `local` and `remote` hold its entries; the status comes with the message it
    waits for. `absent` names the sides that do not have the value at all (or, for the base, where it is not known);
    `kept` is None for a log that went two ways and waits for a decision.
    """

    id: str
    procedure_id: str
    part: str
    key: Any
    local: Any
    remote: Any
    base: Any
    absent: tuple[str, ...]
    kept: Literal["local", "remote"] | None
    reason: str
    at: float
    resolved: Literal["local", "remote"] | None


class CacheStatus(_Report):
    """The truth about one cache: what is not in Plexus yet, why, and what happens next.

    `dirty`, `parked`, `conflicts` (open ones) and `procedures` are counts; a parked procedure with local changes
    counts as dirty too; ages are seconds, other times seconds since the epoch.
    """

    directory: str
    endpoint: str | None
    connection: Connection
    problem: str | None
    procedures: int
    dirty: int
    oldest_dirty_age: float | None
    parked: int
    conflicts: int
    last_success: float | None
    next_attempt: float | None
    leader: bool
    store_problem: str | None


class SyncReport(_Report):
    """What one foreground pass did, as procedure ids; `pending` is what is still not in Plexus."""

    pushed: tuple[str, ...] = ()
    pulled: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
