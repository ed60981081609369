"""Procedures for the checks, and how they are run."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

from tactus.core.exceptions import ProcedureWaitingForHuman
from tactus.core.runtime import TactusRuntime
from tactus.protocols.models import HITLResponse

from plexus_tactus_cache.conformance.harness import NotConforming
from plexus_tactus_cache.document.lua import freeze
from plexus_tactus_cache.tactus import DurableRuntime

_steps: list[int] = []  # performed in this process

FIELDS = """
Procedure { output = { total = field.number{}, at = field.number{} }, function(input)
    local one = Step.checkpoint(function() return { n = 1, at = host.perform() } end)
    local two = Step.checkpoint(function() return { n = 2, at = host.perform() } end)
    return { total = one.n + two.n, at = two.at }
end }
"""
TABLES = """
Procedure { output = { shown = field.string{}, at = field.number{} }, function(input)
    local t = Step.checkpoint(function()
        return { at = host.perform(), list = { 1, 2.5, { "x" } }, empty = {}, sparse = { [3] = "c" },
                 mixed = { "a", k = "b" } }
    end)
    local count = 0
    for _ in ipairs(t.list) do count = count + 1 end
    for _ in pairs(t.mixed) do count = count + 1 end
    local shown = type(t) .. #t.list .. t.list[3][1] .. type(t.empty) .. t.sparse[3] .. t.mixed[1] .. count
    return { shown = shown, at = t.at }
end }
"""
COUNT = """
Procedure { output = { count = field.number{}, seen = field.number{}, at = field.number{} }, function(input)
    local at
    for n = 1, 3 do
        at = Step.checkpoint(function() return host.perform() end)
        State.increment("count")
        State.append("seen", n)
    end
    return { count = state.count, seen = state.seen[2], at = at }
end }
"""
ASK = """
Procedure { output = { answer = field.string{} }, function(input)
    return { answer = Human.input({ message = "Well?" }) }
end }
"""


class _Host:
    def perform(self) -> int:
        """A side effect: its number, by which a result shows that its step was performed again."""
        _steps.append(len(_steps) + 1)
        return _steps[-1]


class _Human:
    def __init__(self, answer: str | None) -> None:
        self._answer = answer

    def request_interaction(self, procedure_id: str, request: Any, execution_context: Any = None) -> Any:
        if self._answer is None:
            raise ProcedureWaitingForHuman(procedure_id, "message")
        return HITLResponse(value=self._answer, responded_at=dt.datetime.now(dt.UTC))


def execute(backend: Any, source: str, *, durable: bool = True, answer: str | None = None) -> Any:
    """Run procedure `p` as `run`: its result, or None if it waits. Raises NotConforming if it fails."""
    kind = DurableRuntime if durable else TactusRuntime
    runtime = kind("p", storage_backend=backend, run_id="run", hitl_handler=_Human(answer))
    runtime.register_python_module("host", _Host())
    outcome = asyncio.run(runtime.execute(f'host = require("host")\n{source}', format="lua"))
    if outcome["success"]:
        return freeze(outcome["result"])
    if outcome.get("status") == "WAITING_FOR_HUMAN":
        return None
    raise NotConforming(f"the run fails: {outcome.get('error')}")
