"""Runs that wait, for a person, for other procedures or for a time, and go on in another process."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import pytest
from lives import PROCEDURE_ID, Life

from plexus_tactus_cache import ProcedureCache

procedures = pytest.importorskip("tactus.primitives.procedure")
has_waits = pytest.mark.skipif(
    not hasattr(procedures.ProcedurePrimitive, "defer"), reason="this Tactus knows no other waits than for a person"
)

APPROVAL = """
Procedure {
    output = { answer = field.string{}, count = field.number{} },
    function(input)
        local before = Step.checkpoint(function() host.perform("before") return { 1 } end)
        State.increment("count")
        local answer = Human.input({ message = "Name?" })
        State.increment("count")
        Step.checkpoint(function() host.perform("after") return { answer } end)
        return { answer = answer, count = state.count + before[1] }
    end
}
"""

ASKING = """
asking = Procedure "asking" {
    input = {}, output = { answer = field.string{} },
    function(input)
        Step.checkpoint(function() host.perform("inside") return {} end)
        local answer = Human.input({ message = "Name?" })
        Step.checkpoint(function() host.perform("inside, later") return {} end)
        return { answer = answer }
    end
}
Procedure {
    output = { answer = field.string{} },
    function(input)
        Step.checkpoint(function() host.perform("before") return {} end)
        local answer = %s.answer
        Step.checkpoint(function() host.perform("after") return {} end)
        return { answer = answer }
    end
}
"""
FILE = """
Procedure {
    output = { answer = field.string{} },
    function(input)
        Step.checkpoint(function() return {} end)
        return { answer = Human.input({ message = "Name?" }) }
    end
}
"""


def log_of(life: Life) -> list[Any]:
    with ProcedureCache(None, life.folder / life.store) as cache:
        found: list[Any] = list(cache.storage(PROCEDURE_ID).load_procedure_metadata(PROCEDURE_ID).execution_log)
        return found


def test_an_approval_is_one_entry_with_the_answer(tmp_path: Path) -> None:
    life = Life(tmp_path, APPROVAL)
    for _ in range(2):  # it asks, the process exits; another looks again, and exits too
        outcome = life.live()
        assert outcome is not None
        assert (outcome["status"], outcome["pending_message_id"]) == ("WAITING_FOR_HUMAN", "message-1")
        first, asked = log_of(life)
        assert (asked.type, asked.position, asked.result, asked.run_id) == ("hitl_input", 1, None, "run-1")
        assert first.result == [1]
    outcome = life.but(answer="Ada").live()
    assert outcome is not None
    assert outcome["result"] == {"answer": "Ada", "count": 3}
    _, answered, _ = log_of(life)
    assert (answered.type, answered.position) == ("hitl_input", 1)
    assert answered.result.model_dump(mode="json")["value"] == "Ada"
    assert life.steps() == ["before", "after"]

    again = life.but(answer="not asked again").live()
    assert again is not None
    assert again["result"] == outcome["result"]


@pytest.mark.parametrize("call", ["asking({})", 'Procedure.run("file.tac", {})'])
def test_a_question_inside_a_sub_procedure(tmp_path: Path, call: str) -> None:
    life = Life(tmp_path, ASKING % call, files={"file.tac": FILE})
    waiting = life.live()
    assert waiting is not None
    assert waiting["status"] == "WAITING_FOR_HUMAN", waiting
    done = life.but(answer="Ada").live()
    assert done is not None
    assert done["result"] == {"answer": "Ada"}, done
    steps = ["before", "inside", "inside, later", "after"] if "asking" in call else ["before", "after"]
    assert " ".join(life.steps()) == " ".join(steps)


CHILDREN = """
Procedure {
    output = { n = field.number{} },
    function(input)
        Step.checkpoint(function() host.perform("before") return {} end)
        local found = Procedure.await_children({ children = { { id = "a" }, { id = "b" } }, mode = "all" })
        Step.checkpoint(function() host.perform("after") return {} end)
        return { n = 1 }  -- wait
    end
}
"""


@has_waits
def test_waiting_for_children(tmp_path: Path) -> None:
    life = Life(tmp_path, CHILDREN)
    for _ in range(2):
        waiting = life.live()
        assert waiting is not None
        assert waiting["status"] == "WAITING_FOR_CHILDREN", waiting
        assert [entry.type for entry in log_of(life)] == ["explicit_checkpoint", "external_children_wait"]
        assert log_of(life)[1].result["pending"] is True
    for done in (life.but(children_done=True).live(), life.live()):
        assert done is not None
        assert done["result"] == {"n": 1}
    assert log_of(life)[1].result["complete"] is True
    assert life.steps() == ["before", "after"]


DEFER = """
Procedure {
    output = { key = field.string{} },
    function(input)
        Step.checkpoint(function() host.perform("before") return {} end)
        local done = Procedure.defer({ key = "later", resume_at = "%s", reason = "rest" })
        Step.checkpoint(function() host.perform("after") return {} end)
        return { key = done.key }
    end
}
"""


@has_waits
def test_waiting_for_a_time(tmp_path: Path) -> None:
    due = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
    life = Life(tmp_path, DEFER % due.isoformat())
    waiting = life.live()
    assert waiting is not None
    assert waiting["status"] == "WAITING_FOR_TIME", waiting
    assert log_of(life)[1].result["pending"] is True
    deadline = time.monotonic() + 20
    while (done := life.live() or {}).get("status") == "WAITING_FOR_TIME":
        assert time.monotonic() < deadline
    assert done["result"] == {"key": "later"}, done
    assert [entry.type for entry in log_of(life)][1:] == ["scheduled_continuation", "explicit_checkpoint"]
    assert life.steps() == ["before", "after"]
