"""Writers who write back what was there before we pushed, and pushes whose answer is lost: the last acknowledged value of
what only one machine writes is in Plexus and in its store when all is quiet."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, remote_state

from plexus_tactus_cache import PlexusStorageAdapter, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

Act = Callable[[PlexusStorageAdapter, int], None]


OFFSET = [0.0]  # seconds that have passed at once


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No record is looked at a second time before a test lets the time pass."""
    real = time.time
    monkeypatch.setattr("plexus_tactus_cache.sync.push.LOOK_AFTER", 3600.0)
    monkeypatch.setattr(time, "time", lambda: real() + OFFSET[0])


@pytest.fixture
def cache(plexus: Simulator, open_cache: OpenCache) -> ProcedureCache:
    plexus.put("p", metadata={}, status="RUNNING")
    return open_cache("one", background=False)


@pytest.fixture
def other(cache: ProcedureCache, open_cache: OpenCache) -> ProcedureCache:
    return open_cache("other", background=False)


def settle(*caches: ProcedureCache) -> None:
    """Until nobody has anything to do, not even to look."""
    for _ in range(3):
        OFFSET[0] += 3601
        for one in caches:
            one.sync(60)
            assert one.flush(60)


def metadata(plexus: Simulator) -> dict[str, Any]:
    return copy.deepcopy((plexus.record("p") or {})["metadata"] or {})


def results(plexus: Simulator) -> list[Any]:
    """Those of the log that Plexus has, in its order."""
    entries = metadata(plexus).get("checkpoints", {}).values()
    return [entry["result"] for entry in sorted(entries, key=lambda entry: entry["position"])]


def lua(plexus: Simulator) -> dict[str, Any]:
    return dict(metadata(plexus).get("lua_state") or {})


def set_state(storage: PlexusStorageAdapter, number: int) -> None:
    storage.state_set("p", "k", number)


def delete_state(storage: PlexusStorageAdapter, number: int) -> None:
    storage.state_delete("p", "k")


def set_lua(storage: PlexusStorageAdapter, number: int) -> None:
    live = storage.load_procedure_metadata("p")
    live.lua_state["l"] = number
    storage.save_procedure_metadata(live)


def add_entry(storage: PlexusStorageAdapter, number: int) -> None:
    append(storage, number)


def replace_entry(storage: PlexusStorageAdapter, number: int) -> None:
    storage.checkpoint_save("p", "named", number)


def set_status(storage: PlexusStorageAdapter, number: int) -> None:
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", f"m{number}")


ACTS = {
    "state": set_state,
    "state deleted": delete_state,
    "lua_state": set_lua,
    "entry": add_entry,
    "entry replaced": replace_entry,
    "status": set_status,
}


def mine(cache: ProcedureCache) -> Any:
    live = cache.storage("p").load_procedure_metadata("p")
    results = [entry.result for entry in live.execution_log]
    return results, dict(live.state), dict(live.lua_state), live.status, live.waiting_on_message_id


def theirs(plexus: Simulator) -> Any:
    record = plexus.record("p") or {}
    return (
        results(plexus),
        remote_state(plexus, "p"),
        lua(plexus),
        record["status"],
        record["waitingOnMessageId"],
    )


# --- somebody writes back what he had read ----------------------------------------------------------------


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("pushes", [0, 1, 3])  # before he reads
@pytest.mark.parametrize("between", [1, 3])  # between his read and his write
def test_a_rewrite_of_an_older_state_turns_nothing_back(
    plexus: Simulator, cache: ProcedureCache, act: str, pushes: int, between: int
) -> None:
    """As Plexus's runner does at the end of a run; nobody here has anything left to push."""
    storage = cache.storage("p")
    number = 0
    for _ in range(pushes):
        number += 1
        for one in (set_state, add_entry, set_lua, replace_entry):
            one(storage, number)
        assert cache.flush(60)
    read = metadata(plexus)
    status = (plexus.record("p") or {})["status"]
    for _ in range(between):
        number += 1
        ACTS[act](storage, number)
        assert cache.flush(60)
    wanted = mine(cache)
    extra = {} if act == "status" else {"status": status}
    plexus.put("p", metadata={**read, "his own": "last"}, **extra)
    settle(cache)
    assert mine(cache) == wanted
    assert theirs(plexus) == wanted
    assert metadata(plexus)["his own"] == "last"
    assert [one for one in cache.conflicts() if one.part != "status"] == []


@pytest.mark.parametrize("act", ACTS)
def test_in_the_middle_of_a_run_too(plexus: Simulator, cache: ProcedureCache, act: str) -> None:
    storage = cache.storage("p")
    for one in (set_state, add_entry, set_lua, replace_entry):
        one(storage, 1)
    assert cache.flush(60)
    read = metadata(plexus)
    ACTS[act](storage, 2)
    assert cache.flush(60)
    plexus.put("p", metadata={**read, "his own": 1})
    ACTS[act](storage, 3)
    wanted = mine(cache)
    settle(cache)
    assert mine(cache) == theirs(plexus) == wanted
    assert cache.conflicts() == []


def test_what_he_changed_himself_counts(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    for key in ("a", "b", "c"):
        storage.state_set("p", key, 1)
    assert cache.flush(60)
    read = metadata(plexus)
    storage.state_set("p", "a", 2)
    storage.state_set("p", "b", 2)
    assert cache.flush(60)
    read["state"] |= {"b": "his", "c": "his", "d": "his"}
    plexus.put("p", metadata=read)
    settle(cache)
    assert remote_state(plexus, "p") == storage.get_state("p")
    assert storage.get_state("p") == {"a": 2, "b": 2, "c": "his", "d": "his"}
    (conflict,) = cache.conflicts()
    assert (conflict.key, conflict.local, conflict.remote, conflict.kept) == ("b", 2, "his", "local")


def test_another_machine_between(plexus: Simulator, cache: ProcedureCache, other: ProcedureCache) -> None:
    one, two = cache.storage("p"), other.storage("p")
    one.state_set("p", "one", 1)
    settle(cache, other)
    two.get_state("p")
    read = metadata(plexus)
    one.state_set("p", "one", 2)
    assert cache.flush(60)
    two.state_set("p", "two", 2)
    assert other.flush(60)
    plexus.put("p", metadata={**read, "his own": 1})
    settle(other, cache)
    settle(other, cache)
    assert remote_state(plexus, "p") == one.get_state("p") == two.get_state("p") == {"one": 2, "two": 2}
    assert cache.conflicts() == other.conflicts() == []


# --- answers that are lost, and another machine's push on top ---------------------------------------------


@pytest.mark.parametrize("second", ACTS)
@pytest.mark.parametrize("first", ACTS)
def test_a_push_that_landed_below_anothers(
    plexus: Simulator, cache: ProcedureCache, other: ProcedureCache, first: str, second: str
) -> None:
    one, two = cache.storage("p"), other.storage("p")
    for act in (set_state, add_entry, set_lua, replace_entry):
        act(one, 1)
    settle(cache)
    two.load_procedure_metadata("p")
    ACTS[first](one, 2)
    plexus.fail("drop_after", times=1, only="mutation")
    cache.sync(5)
    plexus.heal()
    two.state_set("p", "theirs", 1)
    settle(other)
    ACTS[second](one, 3)
    settle(cache, other)
    wanted = mine(cache)
    assert wanted[1].pop("theirs") == 1
    assert wanted[1].get("k") == (None if second == "state deleted" else 3 if second == "state" else wanted[1].get("k"))
    found = theirs(plexus)
    assert found[1].pop("theirs") == 1
    assert found == wanted
    assert cache.conflicts() == other.conflicts() == []
    if second == "entry":
        assert found[0][-1] == 3
    if second == "entry replaced":
        assert 3 in found[0]


# --- resets are resets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "unpushed", "after"])
def test_a_reset_is_a_reset(plexus: Simulator, cache: ProcedureCache, when: str) -> None:
    storage = cache.storage("p")
    set_state(storage, 1)
    if when != "unpushed":
        add_entry(storage, 1)
    assert cache.flush(60)
    if when == "unpushed":
        add_entry(storage, 1)
    if when == "before":
        add_entry(storage, 2)
    plexus.put("p", metadata={**metadata(plexus), "checkpoints": {}}, status="PENDING")
    settle(cache)
    assert mine(cache)[0] == results(plexus) == []
    assert mine(cache)[3] == "PENDING"
    if when != "after":
        assert [one.part for one in cache.conflicts()] == ["execution_log"]


def test_archived_is_finished(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.update_procedure_status("p", "RUNNING")
    settle(cache)
    plexus.put("p", status="ARCHIVED")
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m")
    settle(cache)
    assert (plexus.record("p") or {})["status"] == "ARCHIVED"


def test_stalled_loses_against_a_state_that_went_on(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.update_procedure_status("p", "RUNNING")
    settle(cache)
    plexus.put("p", status="STALLED")
    storage.state_set("p", "k", 1)
    settle(cache)
    assert (plexus.record("p") or {})["status"] == "RUNNING"


def test_what_another_writer_cleared_while_we_went_on_is_not_undone_in_silence(
    plexus: Simulator, cache: ProcedureCache, other: ProcedureCache
) -> None:
    one, two = cache.storage("p"), other.storage("p")
    for number in range(3):
        append(one, number)
    one.checkpoint_save("p", "named", "x")
    settle(cache)
    two.load_procedure_metadata("p")
    two.checkpoint_clear_after("p", "named")
    settle(other)
    append(one, "went on")
    cache.sync(60)
    assert cache.status().parked == 1
    (conflict,) = cache.conflicts()
    assert conflict.part == "execution_log"
    assert conflict.kept is None


# --- an idle document -------------------------------------------------------------------------------------


def test_after_the_second_look_an_idle_document_sends_nothing(plexus: Simulator, cache: ProcedureCache) -> None:
    cache.storage("p").state_set("p", "k", 1)
    settle(cache)
    plexus.reset_counters()
    for _ in range(3):
        cache.sync(60)
    assert plexus.requests == 0


def test_the_second_look_survives_a_restart(plexus: Simulator, cache: ProcedureCache, open_cache: OpenCache) -> None:
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    assert cache.flush(60)
    read = metadata(plexus)
    storage.state_set("p", "k", 2)
    assert cache.flush(60)
    cache.close(0)
    plexus.put("p", metadata=read)
    with open_cache("one", background=False) as again:
        assert again.status().dirty == 0
        settle(again)
    assert remote_state(plexus, "p") == {"k": 2}
