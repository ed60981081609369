"""Runs that are killed after any of their writes end as if they had not been. Processes of their own, SIGKILL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lives import PROCEDURE_ID, Life

from plexus_tactus_cache import ProcedureCache
from tools.simulator import Simulator

pytest.importorskip("tactus.core.runtime")

TABLES = """
local function show(value)
    if type(value) ~= "table" then
        return (math.type and math.type(value) or type(value)) .. ":" .. tostring(value)
    end
    local parts = {}
    for i, item in ipairs(value) do parts[#parts + 1] = i .. "=" .. show(item) end
    local keys = {}
    for key in pairs(value) do keys[#keys + 1] = tostring(key) end
    table.sort(keys)
    return "{#" .. #value .. " " .. table.concat(keys, ",") .. " " .. table.concat(parts, " ") .. "}"
end

Procedure {
    output = { shown = field.string{}, total = field.number{} },
    function(input)
        local shown, total = {}, 0
        for n = 1, 4 do
            local step = Step.checkpoint(function()
                host.perform(n)
                return {
                    number = n, ratio = n * 1.0, empty = {},
                    list = { n, n * n, { deep = { "x", {} }, more = { { 1 }, { 2 } } } },
                    sparse = { [2] = "b", [5] = n / 4 }, mixed = { "first", "second", name = "both" },
                }
            end)
            local list = Step.checkpoint(function() host.perform("list" .. n) return { n, { n + 0.5 } } end)
            total = total + step.list[2] + list[2][1]
            step.list[1] = "changed by the procedure"
            shown[#shown + 1] = show(step) .. show(step.list) .. show(step.sparse) .. show(step.mixed) .. show(list)
                .. show(step.list[3]) .. show(step.list[3].deep) .. show(step.list[3].more) .. show(step.empty)
                .. type(Checkpoint.get(0)) .. show(Checkpoint.get(1))
        end
        return { shown = table.concat(shown, "\\n"), total = total }
    end
}
"""

STATE = """
Procedure {
    output = { count = field.number{}, seen = field.string{}, inside = field.number{}, gone = field.boolean{} },
    function(input)
        State.set("count", 0)
        State.set("gone", 1)
        for n = 1, 3 do
            Step.checkpoint(function() State.append("inside", n) State.increment("in_step") host.perform(n) return n end)
            State.increment("count")
            State.append("seen", n)
            State.set("table", { n, { last = n } })
            if n == 2 then
                local keep = { count = State.get("count"), seen = State.get("seen"), inside = State.get("inside"),
                               in_step = State.get("in_step") }
                State.clear()
                for key, value in pairs(keep) do State.set(key, value) end
            end
        end
        local seen = State.get("seen")
        local text = ""
        for n = 0, 2 do text = text .. seen[n] end
        return { count = State.get("count"), seen = text, inside = State.get("in_step"),
                 gone = State.get("gone") == nil and type(State.get("table")) == "table" }
    end
}
"""

NESTED = """
inner = Procedure "inner" {
    input = { n = field.number{} }, output = { n = field.number{} },
    function(input)
        local a = Step.checkpoint(function() host.perform("a" .. input.n) return { input.n } end)
        State.increment("inner")
        local b = Step.checkpoint(function() host.perform("b" .. input.n) return { v = a[1] * 10 } end)
        return { n = b.v }
    end
}
outer = Procedure "outer" {
    input = { n = field.number{} }, output = { n = field.number{} },
    function(input)
        local first = inner({ n = input.n })
        local second = inner({ n = first.n })
        State.increment("outer")
        return { n = first.n + second.n }
    end
}
Procedure {
    output = { n = field.number{}, after = field.number{}, inner = field.number{}, python = field.string{} },
    function(input)
        local before = Step.checkpoint(function() host.perform("before") return { 1 } end)
        local result = outer({ n = before[1] + 1 })
        local after = Step.checkpoint(function() host.perform("after") return { result.n + 1 } end)
        local run = Procedure.run("helper.tac", { n = after[1] })
        local python = Step.checkpoint(function() return { given = host.python(1) } end)
        return { n = run.n, after = after[1], inner = State.get("inner") * 10 + State.get("outer"),
                 python = type(python) .. type(python.given) .. python.given.list[2] }
    end
}
"""
HELPER = """
Procedure {
    input = { n = field.number{} }, output = { n = field.number{} },
    function(input)
        local one = Step.checkpoint(function() return { input.n + 1 } end)
        State.increment("inner")
        local two = Step.checkpoint(function() return { one[1] + State.get("inner") } end)
        return { n = two[1] }
    end
}
"""


def uninterrupted(life: Life) -> tuple[dict[str, Any], list[str]]:
    """What a run comes to when nothing happens to it."""
    folder = life.folder / "uninterrupted"
    folder.mkdir()
    outcome = life.but(folder=folder).live()
    assert outcome is not None
    assert outcome["success"], outcome
    return outcome, life.but(folder=folder).steps()


def stored_state(folder: Path) -> dict[str, Any]:
    with ProcedureCache(None, folder / "store") as cache:
        found: dict[str, Any] = dict(cache.storage(PROCEDURE_ID).get_state(PROCEDURE_ID))
        return found


@pytest.mark.parametrize("source", [TABLES, STATE, NESTED], ids=["tables", "state", "nested"])
def test_killed_after_any_write_the_run_ends_the_same(tmp_path: Path, source: str) -> None:
    life = Life(tmp_path, source, files={"helper.tac": HELPER})
    wanted, steps = uninterrupted(life)
    state = stored_state(tmp_path / "uninterrupted")
    lives = life.after_kills_at_every_write()
    assert len(lives) >= 8
    for count, outcome, performed, resumed in lives:
        assert outcome is not None
        assert (outcome["result"], outcome["state"]) == (wanted["result"], wanted["state"]), (count, outcome)
        assert stored_state(resumed.folder) == state, count
        if source is not STATE:  # its steps write state: killed there, a step is in flight, and performed again
            assert performed == steps, count
        assert set(performed) == set(steps)
