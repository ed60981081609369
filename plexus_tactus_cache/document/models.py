"""The models that a runtime holds in its hands.

`ProcedureMetadata`, `CheckpointEntry` and `SourceLocation` have the fields of Tactus's models of the same names
(tactus.protocols.models, 0.49 to 0.53), so a Tactus runtime cannot tell them apart.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterable
from typing import Any, SupportsIndex

from pydantic import BaseModel, Field

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

    replaced: set[int]
    shuffled: bool  # entries may have moved or gone: every position has to be looked at

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        super().__init__(entries)
        vars(self).update(self.as_stored())

    @staticmethod
    def as_stored() -> dict[str, Any]:
        """What a log knows that is stored as it is."""
        return {"replaced": set(), "shuffled": False}

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
