"""The other writers of the metadata: plexus-facts section 6."""

from typing import Any

import pytest

from plexus_tactus_cache.testing.simulator import Simulator, writers


def checkpoint(name: str, second: int) -> dict[str, Any]:
    at = f"2026-11-24T00:00:0{second}+00:00"
    return {
        "name": name,
        "result": second,
        "completed_at": at,
        "run_id": "r",
        "position": second,
        "type": "t",
    }


@pytest.fixture
def before(plexus: Simulator) -> dict[str, Any]:
    checkpoints = {name: checkpoint(name, second) for second, name in enumerate("abc")}
    state = {"x": 1, "y": 2}
    metadata = {
        "checkpoints": checkpoints,
        "state": state,
        "lua_state": {"l": 1},
        "replay_index": 3,
        "runtime": "lua",
    }
    return plexus.put("p1", name="n", code="c", accountId="acc", status="RUNNING", metadata=metadata)


def test_reset(plexus: Simulator, before: dict[str, Any]) -> None:
    after = writers.reset(plexus, "p1")
    assert after["metadata"] == before["metadata"] | {"checkpoints": {}}
    assert after["status"] == "PENDING"
    assert after["updatedAt"] > before["updatedAt"]

    emptied = writers.reset(plexus, "p1", clear_state=True)["metadata"]
    assert (emptied["state"], emptied["lua_state"], emptied["runtime"]) == ({}, {}, "lua")


def test_reset_after_drops_the_named_one_and_later_ones(plexus: Simulator, before: dict[str, Any]) -> None:
    after = writers.reset_after(plexus, "p1", "b")

    assert list(after["metadata"]["checkpoints"]) == ["a"]
    assert after["status"] == "PENDING"
    with pytest.raises(KeyError, match="no checkpoint 'b'"):
        writers.reset_after(plexus, "p1", "b")


def test_mark_stalled(plexus: Simulator, before: dict[str, Any]) -> None:
    after = writers.mark_stalled(plexus, "p1")

    assert after["status"] == "STALLED"
    assert after["metadata"].pop("last_failure")
    assert after["metadata"] == before["metadata"]


def test_the_shipped_adapter_drops_what_it_does_not_know(plexus: Simulator, before: dict[str, Any]) -> None:
    after = writers.shipped_adapter_save(plexus, "p1")

    assert set(after["metadata"]["checkpoints"]["b"]) == {"name", "result", "completed_at", "run_id"}
    assert after["metadata"] | {"checkpoints": None} == before["metadata"] | {"checkpoints": None}
    assert after["status"] == "RUNNING"


def test_clone(plexus: Simulator, before: dict[str, Any]) -> None:
    after = writers.clone(plexus, "p1", "p2")

    assert after["metadata"] == {
        "checkpoints": {},
        "state": {"x": 1},
        "lua_state": {},
        "replay_index": 0,
        "runtime": "lua",
    }
    assert (after["id"], after["code"], after["accountId"], after["status"]) == ("p2", "c", "acc", "PENDING")
    assert writers.clone(plexus, "p1", "p3", keep=["y"])["metadata"]["state"] == {"y": 2}
    assert plexus.record("p1") == before


def test_nothing_to_write(plexus: Simulator) -> None:
    with pytest.raises(KeyError, match="no procedure 'p9'"):
        writers.mark_stalled(plexus, "p9")
    plexus.put("p1")
    assert writers.reset(plexus, "p1")["metadata"] == {"checkpoints": {}}
    plexus.put("p1", metadata={"checkpoints": {"_s3_key": "procedures/p1/checkpoints.json"}})
    with pytest.raises(ValueError, match="in S3"):
        writers.shipped_adapter_save(plexus, "p1")
