"""DurableRuntime: a TactusRuntime whose runs go on, in another process and on another machine, as if never interrupted.

    runtime = DurableRuntime("proc-1", storage_backend=cache.storage("proc-1"), run_id="run-1")
    outcome = asyncio.run(runtime.execute(source, format="lua"))

Together with context.py it is what hooks into Tactus, at the methods listed in `_HOOKS`; importing it raises
ImportError where they do not fit. What a resume needs besides the log is kept where it reaches Plexus with the log:

- the state as of the start of a run: `lua_state["run_start:<run_id>"]`;
- what a checkpoint's function did besides returning a result: its entry's `captured_vars["effects"]`.
"""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

try:
    import tactus
    from tactus.adapters.memory import MemoryStorage
    from tactus.core.execution_context import BaseExecutionContext
    from tactus.core.runtime import TactusRuntime
    from tactus.primitives.procedure import ProcedurePrimitive
    from tactus.primitives.state import StatePrimitive
    from tactus.primitives.step import CheckpointPrimitive
except ImportError as error:
    raise ImportError(
        f"plexus_tactus_cache.tactus needs Tactus 0.49 or newer: install this package with its extra `tactus` ({error})"
    ) from error

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.tactus.context import DurableCheckpoints, DurableContext, DurableProcedures, DurableState
from plexus_tactus_cache.tactus.replay import Journal

log = logging.getLogger("plexus_tactus_cache")

RUN_START = "run_start:"  # in lua_state, with the run's id: the state as of its start
_LONGEST_RUN_ID = checks.LONGEST_STATUS  # bytes; scopes of checkpoints are told by what is added to it

_HOOKS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (TactusRuntime, "_create_execution_context", ("strict_determinism",)),
    (TactusRuntime, "_initialize_primitives", ("placeholder_tool",)),
    (TactusRuntime, "_inject_primitives", ()),
    (TactusRuntime, "_create_runtime_for_procedure", ("procedure_name", "params")),
    (BaseExecutionContext, "_load_and_reset_metadata", ("procedure_id",)),
    (BaseExecutionContext, "checkpoint", ("fn", "checkpoint_type", "source_info")),
    (BaseExecutionContext, "checkpoint_clear_all", ()),
    (BaseExecutionContext, "checkpoint_clear_after", ("position",)),
    (BaseExecutionContext, "_get_code_context", ("file_path", "line_number", "context_lines")),
    (StatePrimitive, "__init__", ("state_schema", "on_set")),
    (CheckpointPrimitive, "get", ("position",)),
    (ProcedurePrimitive, "spawn", ("name", "params")),
)


def _check_hooks() -> None:
    """Raises ImportError if this version of Tactus has not the methods that are overridden here."""
    for owner, name, parameters in _HOOKS:
        method = getattr(owner, name, None)
        found = tuple(inspect.signature(method).parameters)[1:] if callable(method) else None
        if found != parameters:
            version = getattr(tactus, "__version__", "(unknown)")
            raise ImportError(
                f"Tactus {version} does not fit this version of plexus-tactus-cache: "
                f"expected {owner.__name__}.{name} with the parameters {parameters}, found {found}. "
                "Versions 0.49 to 0.53 are known to fit"
            )


_check_hooks()


class DurableRuntime(TactusRuntime):  # type: ignore[misc]  # Tactus has no type hints
    """A TactusRuntime, with its constructor, that replays exactly.

    Give a run the same `run_id` again and it goes on after the last checkpoint that was stored: results that were Lua
    tables are tables of the new Lua runtime; State, tool calls and what agents remember are as they were. Until the
    stored log is replayed, nothing is written. A new `run_id` starts anew, from the state that is stored.

    The constructor raises InvalidArgument (WrongType for a type) for ids that could not be stored.

    `execute` may besides report (in its result's `error`): ReplayDiverged, ValueNotSerializable and whatever the
    storage backend raises; unlike Tactus's, a write of State that fails is not passed over.
    """

    procedure_id: str
    run_id: str | None
    procedure_primitive: Any
    _parent: DurableContext | None = None  # of a sub-procedure: it is a part of its caller's run

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.procedure_id = checks.procedure_id(self.procedure_id)
        self.run_id = checks.optional_text(self.run_id, "run_id", _LONGEST_RUN_ID)

    def _create_execution_context(self, strict_determinism: bool) -> DurableContext:
        parent = self._parent
        options: dict[str, Any] = {
            "procedure_id": self.procedure_id if parent is None else parent.procedure_id,
            "storage_backend": self.storage_backend if parent is None else parent.storage,
            "hitl_handler": self.hitl_handler,
            "strict_determinism": strict_determinism,
            "log_handler": self.log_handler,
            "journal": Journal() if parent is None else parent.journal,
        }
        if hasattr(self, "child_wait_resolver"):
            options["child_wait_resolver"] = self.child_wait_resolver
        context = DurableContext(self, **options)
        self._start_state = self._begin(context) if parent is None else {}
        return context

    def _begin(self, context: DurableContext) -> dict[str, Any]:
        """The state as of the start of this run; if this is the start, it is stored."""
        metadata, key = context.metadata, _start_key(self.run_id)
        if key not in metadata.lua_state:
            entries = metadata.execution_log
            if any(entry.run_id == self.run_id for entry in entries):
                log.warning(
                    "run %r of procedure %s was begun by another runtime: the state that it began with is not known, "
                    "and State.increment may count twice",
                    self.run_id,
                    self.procedure_id,
                )
            # A run whose first entry is gone cannot be resumed.
            resumable = _start_key(entries[0].run_id) if entries else None
            for old in [old for old in metadata.lua_state if old.startswith(RUN_START) and old != resumable]:
                del metadata.lua_state[old]
            metadata.lua_state[key] = copy.deepcopy(metadata.state)
            context.storage.save_procedure_metadata(context.procedure_id, metadata)
        start: dict[str, Any] = metadata.lua_state[key]
        return start

    def _reset_persisted_state(self) -> None:
        """`reset_state_on_execute` is for the start of a run: a resume needs what the run has stored."""
        if self.storage_backend is not None:
            metadata = self.storage_backend.load_procedure_metadata(self.procedure_id)
            if _start_key(self.run_id) not in metadata.lua_state:
                super()._reset_persisted_state()

    async def _initialize_primitives(self, placeholder_tool: Any = None) -> None:
        await super()._initialize_primitives(placeholder_tool)
        context = self.execution_context
        schema = self.registry.state_schema if self.registry else {}
        context.state = self.state_primitive = DurableState(
            schema, context, self._start_state, persist=self._parent is None
        )

    def _inject_primitives(self) -> None:
        self.checkpoint_primitive = DurableCheckpoints(self.execution_context)
        self.procedure_primitive = DurableProcedures(self.procedure_primitive, self._create_spawned_runtime)
        super()._inject_primitives()
        context, sleep = self.execution_context, self.lua_sandbox.lua.globals()["Sleep"]
        self.lua_sandbox.set_global("Sleep", lambda seconds: None if context.replaying else sleep(seconds))

    def _create_runtime_for_procedure(self, procedure_name: str, params: dict[str, Any]) -> DurableRuntime:
        """For `Procedure.run`: its checkpoints are logged inside the caller's, its state lives as long as it runs."""
        runtime = self._durable(super()._create_runtime_for_procedure(procedure_name, params))
        runtime.run_id = self.execution_context.current_run_id
        runtime.storage_backend = MemoryStorage()
        runtime._parent = self.execution_context
        return runtime

    def _create_spawned_runtime(self, procedure_name: str, params: dict[str, Any], number: str) -> DurableRuntime:
        """For `Procedure.spawn`: a document of its own, found again by the place in the run that spawned it."""
        runtime = self._durable(super()._create_runtime_for_procedure(procedure_name, params))
        runtime.run_id = self.execution_context.current_run_id
        runtime.procedure_id = f"{self.procedure_id}_{procedure_name}_{number}"
        return runtime

    @staticmethod
    def _durable(runtime: Any) -> DurableRuntime:
        """A runtime that Tactus made, with the options of its version, as one of ours."""
        runtime.__class__ = DurableRuntime
        durable: DurableRuntime = runtime
        return durable


def last_run(metadata: Any) -> str | None:
    """The id of the run that a procedure can be resumed with; None if there is none."""
    begun = [key.removeprefix(RUN_START) for key in metadata.lua_state if key.startswith(RUN_START)]
    if metadata.execution_log:
        first = metadata.execution_log[0]
        return next((run_id for run_id in begun if belongs_to(first, run_id)), None)
    return begun[0] if len(begun) == 1 else None


def belongs_to(entry: Any, run_id: str) -> bool:
    """Whether an entry of the log was made by that run, in a sub-procedure or after a clearing too."""
    return entry.run_id is not None and entry.run_id.partition("/")[0].partition("#")[0] == run_id


def _start_key(run_id: str | None) -> str:
    return f"{RUN_START}{run_id or ''}"
