-- The procedure of the demo: 40 steps, each a checkpoint with a nested table, and two state writes after each.
-- Tactus runs all of this again when it resumes; a step that is stored replays, so its function is not called.
-- (Results are read by field name only: a replayed list is a Python list in Tactus 0.53, not a Lua table.)

local demo = require("demo")

Procedure {
    output = {points = field.number{}},
    function()
        local points = 0
        for n = 1, 40 do
            local result = Step.checkpoint(function()
                demo.perform(n)
                return {
                    step = n,
                    label = "step " .. n,
                    findings = {{kind = "length", score = n / 4}, {kind = "tone", score = n * 0.1}},
                    totals = {points = n * 10, passed = n % 2 == 0},
                }
            end)
            points = points + result.totals.points
            -- Absolute values: State.increment counts twice on a resume, with any backend.
            State.set("progress", {step = n, points = points})
            State.set("step " .. n, {label = result.label, points = points})
        end
        return {points = points}
    end,
}
