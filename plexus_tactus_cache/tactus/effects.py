"""Effects: what a checkpoint's function did inside the runtime besides returning a result.

A replay does not call the function, so these have to be done again: changes of State, tool calls (`Tool.called`), what
agents remember (their conversations and turn counts), Iterations and Stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from tactus.primitives.tool import ToolCall

from plexus_tactus_cache.document.lua import describe, revive

_SIMPLE = ("iterations_primitive", "stop_primitive")  # all that they know is their attributes


class State(Protocol):
    """What effects need of the procedure's State."""

    def changes(self, keys: Iterable[Any]) -> dict[str, Any]: ...

    def redo(self, changes: dict[str, Any]) -> None: ...


class Context(Protocol):
    """What effects need of the context that the procedure runs in."""

    @property
    def state(self) -> State | None: ...

    def new_table(self) -> Any: ...


@dataclass(frozen=True)
class Mark:
    """The runtime at one moment."""

    tool_calls: int
    agents: dict[str, tuple[int, list[Any]]]  # turns, messages
    simple: dict[str, dict[str, Any]]


class Effects:
    """The effects of checkpoints on one runtime."""

    def __init__(self, runtime: Any, context: Context) -> None:
        self._runtime = runtime
        self._context = context

    def mark(self) -> Mark:
        """The runtime as it is before a function is called."""
        tools, agents = self._runtime.tool_primitive, self._runtime.agents
        return Mark(
            tool_calls=len(tools._tool_calls) if tools else 0,
            agents={name: (agent._turn_count, list(agent._history._messages)) for name, agent in agents.items()},
            simple={name: dict(vars(getattr(self._runtime, name))) for name in _SIMPLE if getattr(self._runtime, name)},
        )

    def since(self, mark: Mark, changed: set[Any]) -> dict[str, Any]:
        """What was done since, with the keys of State that `changed`; empty if nothing."""
        now = self.mark()
        found: dict[str, Any] = {}
        if changed and self._context.state is not None:
            found["state"] = self._context.state.changes(changed)
        if now.tool_calls > mark.tool_calls:
            calls = self._runtime.tool_primitive._tool_calls[mark.tool_calls :]
            found["tools"] = [describe([call.name, call.args, call.result]) for call in calls]
        agents: dict[str, Any] = {}
        for name, (turns, messages) in now.agents.items():
            turns_before, before = mark.agents.get(name, (0, []))
            kept = len(before) if messages[: len(before)] == before else 0
            if turns != turns_before or kept < len(messages) or kept < len(before):
                agents[name] = {"turns": turns, "kept": kept, "messages": describe(messages[kept:])}
        if agents:
            found["agents"] = agents
        simple = {name: values for name, values in now.simple.items() if values != mark.simple.get(name)}
        if simple:
            found["simple"] = describe(simple)
        return found

    def redo(self, effects: dict[str, Any]) -> None:
        """Do again what `since` returned."""
        if "state" in effects and self._context.state is not None:
            self._context.state.redo(effects["state"])
        for call in effects.get("tools", ()):
            made = ToolCall(*revive(call, self._context.new_table))
            self._runtime.tool_primitive._tool_calls.append(made)
            self._runtime.tool_primitive._last_calls[made.name] = made
        for name, memory in effects.get("agents", {}).items():
            agent = self._runtime.agents.get(name)
            if agent is not None:
                agent._turn_count = memory["turns"]
                agent._history._messages[memory["kept"] :] = revive(memory["messages"], self._context.new_table)
        for name, values in effects.get("simple", {}).items():
            vars(getattr(self._runtime, name)).update(values)
