"""DurableContext, and the primitives on it: how a procedure's Lua code meets the log and the state of its run.

The part of plexus_tactus_cache.tactus that works while a procedure runs; what fits which Tactus is checked there.
"""

from __future__ import annotations

import copy
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from tactus.core import exceptions
from tactus.core.execution_context import BaseExecutionContext
from tactus.primitives.procedure import ProcedureHandle, ProcedurePrimitive
from tactus.primitives.state import StatePrimitive
from tactus.primitives.step import CheckpointPrimitive
from tactus.protocols import models

from plexus_tactus_cache.document.lua import as_tables, freeze, revive
from plexus_tactus_cache.errors import ReplayDiverged, ValueNotSerializable
from plexus_tactus_cache.tactus.effects import Effects
from plexus_tactus_cache.tactus.replay import Frame, Journal

log = logging.getLogger("plexus_tactus_cache")

EFFECTS = "effects"  # in an entry's captured_vars

# The exceptions with which Tactus leaves a run that waits; 0.49 knows only the first.
_Suspensions: tuple[type[Exception], ...] = (
    exceptions.ProcedureWaitingForHuman,
    *(
        getattr(exceptions, name)
        for name in ("ProcedureWaitingForChildren", "ProcedureWaitingForTime")
        if hasattr(exceptions, name)
    ),
)
_WAITS = ("external_children_wait", "scheduled_continuation")


class DurableContext(BaseExecutionContext):  # type: ignore[misc]  # Tactus has no type hints
    """Tactus's execution context on a Journal: checkpoints that replay as Lua values, and inside one another."""

    _inside_checkpoint: bool

    def __init__(self, runtime: Any, *, journal: Journal, **options: Any) -> None:
        self.journal = journal
        self._effects = Effects(runtime, self)
        self.state: DurableState | None = None
        self._touched: list[set[Any]] = []  # for each running checkpoint, the keys of State that it changed
        super().__init__(**options)

    def _load_and_reset_metadata(self, procedure_id: str) -> None:
        if self.journal.metadata is None:  # else this is a sub-procedure, and its caller has it
            super()._load_and_reset_metadata(procedure_id)

    @property
    def metadata(self) -> Any:
        return self.journal.metadata

    @metadata.setter
    def metadata(self, metadata: Any) -> None:
        self.journal.metadata = metadata

    @property
    def current_run_id(self) -> str | None:
        return self.journal.run_id

    @current_run_id.setter
    def current_run_id(self, run_id: str | None) -> None:
        if not self.journal.frames:  # a sub-procedure starts in its caller's scope
            self.journal.run_id = run_id

    @property
    def replaying(self) -> bool:
        """Whether the log has something yet to be replayed."""
        return self.journal.found() is not None

    def new_table(self) -> Any:
        """An empty table of the Lua runtime that this context serves."""
        return self.lua_sandbox.lua.table()

    # --- checkpoints --------------------------------------------------------------------------------------

    def checkpoint(self, fn: Callable[[], Any], checkpoint_type: str, source_info: dict[str, Any] | None = None) -> Any:
        """The stored result, if this run has one here; else what `fn` returns, once it is stored."""
        journal = self.journal
        if journal.atomic:
            return fn()
        journal.enter()
        found = journal.found()
        if found is not None and found.type != checkpoint_type:
            raise ReplayDiverged(journal.position, found.type, checkpoint_type)
        if found is not None and not _is_pending(found):
            journal.metadata.replay_index += 1
            self._effects.redo((found.captured_vars or {}).get(EFFECTS) or {})
            return revive(found.result, self.new_table)
        # What a model does is not repeatable, so a turn is replayed as a whole or not at all.
        frame = Frame(journal.position, checkpoint_type, journal.run_id, atomic=checkpoint_type.startswith("agent_"))
        location, started = self._location(source_info), time.monotonic()
        inside, self._inside_checkpoint = self._inside_checkpoint, True
        self._touched.append(set())
        before = self._effects.mark()
        try:
            with journal.running(frame):
                result = fn()
        except Exception as error:
            suspended = error if isinstance(error, _Suspensions) else journal.suspended
            if suspended is None:
                raise
            if journal.suspended is None:  # else a checkpoint inside this one has seen to it
                journal.suspended = suspended
                self._store_waiting(frame, suspended, location, _milliseconds(started))
            if suspended is error:
                raise
            raise suspended from error
        finally:
            self._inside_checkpoint = inside
            changed = self._touched.pop()
            self.touch(changed)
        duration = _milliseconds(started)
        try:
            frozen = freeze(result)
        except ValueNotSerializable as error:
            raise error.inside(f"the result of checkpoint {frame.position} ({checkpoint_type})") from None
        self._store_result(frame, frozen, location, duration, self._effects.since(before, changed))
        self._announce(frame, location, duration)
        return result

    def _store_waiting(self, frame: Frame, suspended: Any, location: Any, duration: float) -> None:
        """The entry of a checkpoint that suspends, as Tactus writes it."""
        result = freeze({"pending": True, "request": suspended.request}) if frame.type in _WAITS else None
        entry = self._entry(frame, result, location, duration)
        if not _is_pending(entry):  # Tactus would take nil for its result; in its own scope it is executed again
            entry.run_id = frame.scope
        self._put_fillers()
        self.journal.put(entry)
        self.storage.save_procedure_metadata(self.procedure_id, self.metadata)

    def _store_result(self, frame: Frame, result: Any, location: Any, duration: float, effects: dict[str, Any]) -> None:
        entry = self._entry(frame, result, location, duration)
        if effects:
            entry.captured_vars[EFFECTS] = effects
        self._put_fillers()
        self.journal.done(frame, entry)
        self.storage.save_procedure_metadata(self.procedure_id, self.metadata)

    def _entry(self, frame: Frame, result: Any, location: Any, duration: float) -> Any:
        return models.CheckpointEntry(
            position=frame.position,
            type=frame.type,
            result=result,
            timestamp=dt.datetime.now(dt.UTC),
            duration_ms=duration,
            run_id=frame.run_id,
            source_location=location,
            captured_vars=dict(self.metadata.state),
        )

    def _put_fillers(self) -> None:
        now = dt.datetime.now(dt.UTC)
        for around in self.journal.fillers():
            self.journal.put(
                models.CheckpointEntry(
                    position=around.position, type=around.type, result=None, timestamp=now, run_id=around.scope
                )
            )

    def _location(self, source_info: dict[str, Any] | None) -> Any:
        if source_info:
            file, line = source_info["file"], source_info["line"]
            context = self._get_code_context(file, line)
            return models.SourceLocation(
                file=file, line=line, function=source_info.get("function"), code_context=context
            )
        if self.current_tac_file:
            return models.SourceLocation(file=self.current_tac_file, line=0, function="unknown")
        return None

    def _announce(self, frame: Frame, location: Any, duration: float) -> None:
        if self.log_handler is None:
            return
        event = models.CheckpointCreatedEvent(
            checkpoint_position=frame.position,
            checkpoint_type=frame.type,
            duration_ms=duration,
            source_location=location,
            procedure_id=self.procedure_id,
        )
        try:
            self.log_handler.log(event)
        except Exception as error:  # noqa: BLE001  # as in Tactus: who listens must not stop the run
            log.warning("the log handler failed on a checkpoint: %s", error)

    def checkpoint_clear_all(self) -> None:
        """Forget all entries: a resume executes them again, and what came after the clearing."""
        super().checkpoint_clear_all()
        self.journal.cleared(0)

    def checkpoint_clear_after(self, position: int) -> None:
        """Forget the entry at `position` and those after it: a resume executes them again, and what came later."""
        super().checkpoint_clear_after(position)
        self.journal.cleared(position)

    # --- state --------------------------------------------------------------------------------------------

    def touch(self, keys: set[Any]) -> None:
        """State was changed by the innermost running checkpoint."""
        if self._touched:
            self._touched[-1] |= keys


class DurableState(StatePrimitive):  # type: ignore[misc]  # Tactus has no type hints
    """State that begins as the run began, and is stored whenever nothing is being replayed."""

    def __init__(
        self, schema: dict[str, Any], context: DurableContext, start: dict[str, Any], *, persist: bool
    ) -> None:
        super().__init__(schema)
        self._context = context
        self._persist = persist
        self._state_values.update((key, as_tables(value, context.new_table)) for key, value in start.items())

    def set(self, key: Any, value: Any) -> None:
        """Set one key. Raises what the storage backend raises."""
        super().set(key, value)
        self._keep(key)

    def increment(self, key: Any, amount: float = 1) -> float:
        """Add to a number: the new value. Raises what the storage backend raises."""
        value: float = super().increment(key, amount)
        self._keep(key)
        return value

    def append(self, key: Any, value: Any) -> None:
        """Append to a list. Raises what the storage backend raises."""
        super().append(key, value)
        self._keep(key)

    def clear(self) -> None:
        """Forget all keys, in the storage too (Tactus's own stay there, and are back in the next run)."""
        keys = set(self._state_values)
        super().clear()
        self._context.touch(keys)
        if self._stored:
            metadata = self._context.metadata
            for key in keys:
                metadata.state.pop(key, None)
            self._context.storage.save_procedure_metadata(self._context.procedure_id, metadata)

    @property
    def _stored(self) -> bool:
        return self._persist and not self._context.replaying

    def _keep(self, key: Any) -> None:
        self._context.touch({key})
        if self._stored:
            self._context.storage.state_set(self._context.procedure_id, key, self._state_values[key])

    def changes(self, keys: Iterable[Any]) -> dict[str, Any]:
        """What became of `keys`, to be done again in a replay that does not run what did it."""
        present = sorted((key for key in keys if key in self._state_values), key=repr)
        return {
            "set": {key: freeze(self._state_values[key]) for key in present},
            "removed": sorted((key for key in keys if key not in self._state_values), key=repr),
        }

    def redo(self, changes: dict[str, Any]) -> None:
        """Do again what `changes` returned, without storing it."""
        for key, value in changes["set"].items():
            self._state_values[key] = revive(value, self._context.new_table)
        for key in changes["removed"]:
            self._state_values.pop(key, None)
        self._context.touch({*changes["set"], *changes["removed"]})


class DurableCheckpoints(CheckpointPrimitive):  # type: ignore[misc]  # Tactus has no type hints
    """`Checkpoint` in Lua."""

    def get(self, position: Any) -> Any:
        """The stored result at `position`, as a replay would give it; None (nil) if there is none."""
        return revive(super().get(position), self.execution_context.new_table)


class DurableProcedures(ProcedurePrimitive):  # type: ignore[misc]  # Tactus has no type hints
    """`Procedure` in Lua: a resume spawns the same procedures again, and each goes on where it was."""

    def __init__(self, made: ProcedurePrimitive, factory: Callable[[str, dict[str, Any], str], Any]) -> None:
        self.__dict__.update(made.__dict__)  # made by Tactus, with the options of its version
        self._spawned_runtime = factory
        self._spawned: dict[tuple[str | None, int], int] = {}

    def spawn(self, name: str, params: dict[str, Any] | None = None) -> ProcedureHandle:
        """Start a procedure in a thread: its handle."""
        # Not all spawning is done again in a resume, but at one place in the run it is always done in the same order.
        context = self.execution_context
        place = (context.current_run_id, context.next_position())
        count = self._spawned[place] = self._spawned.get(place, 0) + 1
        given = freeze(params or {})  # a table can't be read from another thread while Lua runs in this one
        runtime = self._spawned_runtime(name, given, f"{place[1]}_{count}")
        spawning = copy.copy(self)
        spawning.runtime_factory = lambda *_: runtime
        return ProcedurePrimitive.spawn(spawning, name, given)


def _is_pending(entry: Any) -> bool:
    """Whether the entry only says that its checkpoint waits: then it is executed again."""
    if entry.type in _WAITS:
        return isinstance(entry.result, dict) and entry.result.get("pending") is True
    return entry.result is None and entry.type.startswith("hitl_")


def _milliseconds(started: float) -> float:
    return (time.monotonic() - started) * 1000
