"""Runs that are killed after any of their writes end as if they had not been. Processes of their own, SIGKILL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lives import PROCEDURE_ID, Life

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

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
        state.count = 0
        state.gone = 1
        for n = 1, 3 do
            Step.checkpoint(function() State.append("inside", n) State.increment("in_step") host.perform(n) return n end)
            State.increment("count")
            State.append("seen", n)
            state.table = { n, { last = n } }
            if n == 2 then
                local keep = { count = state.count, seen = state.seen, inside = state.inside,
                               in_step = state.in_step }
                if State.clear then State.clear() else state.gone = nil end  -- Tactus 0.49 has none
                for key, value in pairs(keep) do state[key] = value end
            end
        end
        local seen = state.seen
        local text = ""
        for n = 0, 2 do text = text .. seen[n] end
        return { count = state.count, seen = text, inside = state.in_step,
                 gone = state.gone == nil and type(state.table) == "table" }
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
        return { n = run.n, after = after[1], inner = state.inner * 10 + state.outer,
                 python = type(python) .. type(python.given) .. python.given.list[2] }
    end
}
"""
AGENTS = """
poet = Agent { provider = "openai", model = "openai/gpt-4o-mini", system_prompt = "Rhyme.", tools = {} }
Mocks { poet = { message = "", temporal = {
    { message = "one" }, { message = "two" }, { message = "three", tool_calls = { { tool = "done", args = { n = 3 } } } },
    { message = "never" },
} } }
Procedure {
    output = { said = field.string{}, turns = field.number{} },
    function(input)
        local said, turns = "", 0
        repeat
            local result = poet({ message = "next" })
            said = said .. result.output .. result.usage.total_tokens
            turns = turns + 1
            Step.checkpoint(function() host.perform(turns) return turns end)
        until Tool.called("done") or turns > 5
        return { said = said .. tostring(Tool.last_call("done").args.n), turns = turns }
    end
}
"""

SPAWN = """
Procedure {
    output = { n = field.number{} },
    function(input)
        local before = Step.checkpoint(function() host.perform("before") return { 1 } end)
        local one = Procedure.spawn("helper.tac", { n = before[1] })
        local two = Procedure.spawn("helper.tac", { n = 10 })
        local sum = Procedure.wait(one).n + Procedure.wait(two).n
        local after = Step.checkpoint(function() host.perform("after") return { sum } end)
        return { n = after[1] }
    end
}
"""

CLEARED = """
Procedure {
    output = { n = field.number{} },
    function(input)
        local a = Step.checkpoint(function() host.perform("a") return { 1 } end)
        State.increment("count")
        local b = Step.checkpoint(function() host.perform("b") return { a[1] + 1 } end)
        Checkpoint.clear_after(1)
        State.increment("count")
        local c = Step.checkpoint(function() host.perform("c") return { b[1] * 10 } end)
        Checkpoint.clear_all()
        local d = Step.checkpoint(function() host.perform("d") return { c[1] + 1 } end)
        local e = Step.checkpoint(function() host.perform("e") return d[1] * 10 end)
        return { n = e + Checkpoint.next_position() }
    end
}
"""

CLEARED_INSIDE = """
inner = Procedure "inner" {
    input = { from = field.number{} }, output = { n = field.number{} },
    function(input)
        local a = Step.checkpoint(function() host.perform("a") return { 1 } end)
        local b = Step.checkpoint(function() host.perform("b") return { a[1] + 1 } end)
        Checkpoint.clear_after(input.from)
        local c = Step.checkpoint(function() host.perform("c") return { b[1] * 10 } end)
        return { n = c[1] }
    end
}
Procedure {
    output = { n = field.number{} },
    function(input)
        local before = Step.checkpoint(function() host.perform("before") return { 1 } end)
        local some = inner({ from = 3 })
        State.increment("count")
        local all = inner({ from = 0 })
        local after = Step.checkpoint(function() host.perform("after") return { all.n + some.n } end)
        State.increment("count")
        return { n = after[1] + before[1] }
    end
}
"""

HELPER = """
Procedure {
    input = { n = field.number{} }, output = { n = field.number{} },
    function(input)
        local one = Step.checkpoint(function() return { input.n + 1 } end)
        State.increment("inner")
        local two = Step.checkpoint(function() return { one[1] + state.inner } end)
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


SOURCES = {"tables": TABLES, "state": STATE, "nested": NESTED, "agents": AGENTS, "spawn": SPAWN}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_killed_after_any_write_the_run_ends_the_same(tmp_path: Path, source: str) -> None:
    life = Life(tmp_path, source, files={"helper.tac": HELPER})
    wanted, steps = uninterrupted(life)
    state = stored_state(tmp_path / "uninterrupted")
    lives = life.after_kills_at_every_write()
    assert len(lives) > len(steps)
    for count, outcome, performed, resumed in lives:
        assert outcome is not None
        assert (outcome["result"], outcome["state"]) == (wanted["result"], wanted["state"]), (count, outcome)
        assert stored_state(resumed.folder) == state, count
        if source is not STATE:  # its steps write state: killed there, a step is in flight, and performed again
            assert performed == steps, count
        assert set(performed) == set(steps)


@pytest.mark.parametrize("source", [CLEARED, CLEARED_INSIDE], ids=["outside", "inside"])
def test_what_was_cleared_runs_again_and_nothing_is_mistaken_for_it(tmp_path: Path, source: str) -> None:
    life = Life(tmp_path, source)
    wanted, steps = uninterrupted(life)
    for count, outcome, performed, _ in life.after_kills_at_every_write():
        assert outcome is not None
        assert (outcome["result"], outcome["state"]) == (wanted["result"], wanted["state"]), (count, outcome)
        if count <= 3:  # nothing was cleared yet
            assert performed == steps


@pytest.mark.parametrize("source", [TABLES, STATE, NESTED, AGENTS], ids=["tables", "state", "nested", "agents"])
def test_killed_on_one_machine_and_resumed_on_another(tmp_path: Path, source: str) -> None:
    """The other machine has an empty cache: all that it knows came back from Plexus."""
    with Simulator() as plexus:
        files = {"helper.tac": HELPER}
        wanted, steps = uninterrupted(Life(tmp_path, source, files=files))
        for count in (1, 2, 5, 7):
            plexus.put(id=PROCEDURE_ID, metadata={"runtime": {"version": 3}})
            folder = tmp_path / str(count)
            folder.mkdir()
            life = Life(folder, source, url=plexus.url, key=plexus.api_key, files=files)
            assert life.but(store="here", kill_after=count).live() is None
            outcome = life.but(store="there").live()
            assert outcome is not None
            assert (outcome["result"], outcome["state"]) == (wanted["result"], wanted["state"]), (count, outcome)
            if source is not STATE:
                assert life.steps() == steps
            record = plexus.record(PROCEDURE_ID)
            assert record is not None
            assert record["metadata"]["runtime"] == {"version": 3}


COUNT = """
Procedure {
    output = { count = field.number{} },
    function(input)
        for n = 1, 6 do
            Step.checkpoint(function() host.perform(n) return { n } end)
            State.increment("count")
        end
        return { count = state.count }
    end
}
"""


def test_an_increment_per_step_counts_the_steps(tmp_path: Path) -> None:
    life = Life(tmp_path, COUNT)
    lives = life.after_kills_at_every_write()
    assert len(lives) == 1 + 6 * 2  # the start, and a checkpoint and an increment for each step
    for count, outcome, performed, resumed in lives:
        assert outcome is not None
        assert outcome["result"] == {"count": 6}, count
        assert stored_state(resumed.folder) == {"count": 6}, count
        assert performed == list("123456")


def test_a_run_that_is_killed_again_and_again(tmp_path: Path) -> None:
    life = Life(tmp_path, NESTED, files={"helper.tac": HELPER})
    wanted, steps = uninterrupted(life)
    lives = 0
    while (outcome := life.but(kill_after=2).live()) is None:
        lives += 1
    assert lives > 4
    assert (outcome["result"], life.steps()) == (wanted["result"], steps)


def test_a_new_run_starts_anew_from_the_state_that_is_stored(tmp_path: Path) -> None:
    life = Life(tmp_path, COUNT)
    assert life.but(kill_after=5).live() is None
    outcome = life.but(run_id="run-2").live()
    assert outcome is not None
    assert outcome["result"] == {"count": 2 + 6}
    assert life.steps() == list("12") + list("123456")


def test_another_source_under_a_run_is_refused(tmp_path: Path) -> None:
    life = Life(tmp_path, COUNT)
    assert life.but(kill_after=5).live() is None
    outcome = life.but(source=COUNT.replace("for n = 1, 6 do", "Human.approve('sure?')\nfor n = 1, 6 do")).live()
    assert outcome is not None
    assert "checkpoint 0 of this run is a 'explicit_checkpoint'" in outcome["error"]


def test_resetting_the_state_is_for_the_start_of_a_run(tmp_path: Path) -> None:
    from plexus_tactus_cache.tactus import DurableRuntime

    source = COUNT.replace("host.perform(n)", "")
    with ProcedureCache(None, tmp_path) as cache:
        storage = cache.storage(PROCEDURE_ID)
        storage.state_set(PROCEDURE_ID, "count", 100)
        for _ in range(2):
            options = {"storage_backend": storage, "run_id": "run-1", "hitl_handler": object()}
            try:
                runtime = DurableRuntime(PROCEDURE_ID, reset_state_on_execute=True, **options)
            except TypeError:
                pytest.skip("this Tactus cannot reset the state")
            outcome = asyncio.run(runtime.execute(source, format="lua"))
            assert outcome["result"] == {"count": 6}, outcome
            assert storage.get_state(PROCEDURE_ID) == {"count": 6}
