"""Both sides changed: what is adopted, what is merged, and what waits for a person."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, parked_reason, remote_results, remote_state

from plexus_tactus_cache import CheckpointEntry, ProcedureCache, RunSuperseded
from plexus_tactus_cache.testing.simulator import Simulator, writers


@pytest.fixture
def cache(plexus: Simulator, open_cache: OpenCache) -> ProcedureCache:
    """Two records in Plexus; `p` with a log of two entries and a state, all confirmed."""
    plexus.put("p", status="RUNNING", metadata={"runtime": "lua"})
    plexus.put("q")
    cache = open_cache(background=False)
    storage = cache.storage("p")
    append(storage, "a")
    append(storage, "b")
    storage.state_set("p", "here", 0)
    storage.state_set("p", "there", 0)
    assert cache.flush(10)
    return cache


def foreign_write(plexus: Simulator, **state: Any) -> None:
    metadata = (plexus.record("p") or {})["metadata"]
    plexus.put("p", metadata=metadata | {"state": metadata["state"] | state})


def test_a_remote_change_reaches_the_live_object_in_place(plexus: Simulator, cache: ProcedureCache) -> None:
    live = cache.storage("p").load_procedure_metadata("p")
    state = live.state
    foreign_write(plexus, there=7, new=[1.5])
    assert cache.storage("p").load_procedure_metadata("p") is live
    assert live.state is state
    assert state == {"here": 0, "there": 7, "new": [1.5]}
    assert cache.status().dirty == 0
    plexus.reset_counters()
    assert cache.flush(5)
    assert plexus.requests == 0


def test_a_remote_change_by_pull(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    foreign_write(plexus, there=7)
    cache.pull("p")
    assert storage.load_procedure_metadata("p") is live
    assert live.state["there"] == 7


def test_changes_of_different_keys_are_both_kept(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    foreign_write(plexus, there=7)
    storage.state_set("p", "here", 8)
    report = cache.sync(10)
    assert (report.merged, report.pushed) == (("p",), ("p",))
    assert remote_state(plexus, "p") == {"here": 8, "there": 7}
    assert storage.load_procedure_metadata("p").state == {"here": 8, "there": 7}
    assert remote_results(plexus, "p") == ["a", "b"]


def test_a_deleted_key_stays_deleted(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    foreign_write(plexus, there=7)
    storage.state_delete("p", "here")
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"there": 7}


def test_the_same_change_on_both_sides_is_none(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    foreign_write(plexus, there=7)
    storage.state_set("p", "there", 7.0)
    assert cache.flush(10)
    assert parked_reason(cache, "p") is None
    value = storage.load_procedure_metadata("p").state["there"]
    assert (value, type(value)) == (7, float)


def test_logs_that_went_on_differently_are_never_interleaved(
    plexus: Simulator, cache: ProcedureCache, open_cache: OpenCache
) -> None:
    other = open_cache("other", background=False)
    append(other.storage("p"), "theirs", run_id="other")
    ours = cache.storage("p")
    ours.load_procedure_metadata("p")
    assert other.flush(10)
    append(ours, "ours")
    assert cache.sync(10).parked == ("p",)
    assert "log" in (parked_reason(cache, "p") or "")
    assert remote_results(plexus, "p") == ["a", "b", "theirs"]
    assert [entry.result for entry in ours.load_procedure_metadata("p").execution_log] == ["a", "b", "ours"]


@pytest.mark.parametrize("longer", ["here", "there"])
def test_the_longer_of_two_equal_logs_wins(
    plexus: Simulator, cache: ProcedureCache, open_cache: OpenCache, longer: str
) -> None:
    other = open_cache("other", background=False)
    theirs, ours = other.storage("p"), cache.storage("p")
    ours.load_procedure_metadata("p")
    append(theirs, "c")
    if longer == "there":
        append(theirs, "d")
    assert other.flush(10)
    append(ours, "c")
    if longer == "here":
        append(ours, "d")
    assert cache.flush(10)
    assert remote_results(plexus, "p") == ["a", "b", "c", "d"]
    live = ours.load_procedure_metadata("p")
    assert [entry.result for entry in live.execution_log] == ["a", "b", "c", "d"]
    assert live.replay_index == 4
    assert (plexus.record("p") or {})["metadata"]["replay_index"] == 4


def test_stalled_loses_against_a_worker_that_went_on(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    writers.mark_stalled(plexus, "p")
    append(storage, "c")
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert record["status"] == "RUNNING"
    assert record["metadata"]["last_failure"]["reason"]
    assert remote_results(plexus, "p") == ["a", "b", "c"]


def test_stalled_loses_also_where_no_status_was_ever_set(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("bare")
    cache = open_cache(background=False)
    storage = cache.storage("bare")
    append(storage, "a")
    assert cache.flush(10)
    writers.mark_stalled(plexus, "bare")
    append(storage, "b")
    assert cache.flush(10)
    assert remote_results(plexus, "bare") == ["a", "b"]
    assert (plexus.record("bare") or {})["status"] != "STALLED"


def test_a_reset_is_adopted_by_a_clean_store(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    writers.reset(plexus, "p", clear_state=True)
    live = cache.storage("p").load_procedure_metadata("p")
    assert (live.execution_log, live.state, live.status, live.replay_index) == ([], {}, "PENDING", 0)
    assert cache.status().dirty == 0
    append(storage, "again")
    assert cache.flush(10)
    assert remote_results(plexus, "p") == ["again"]


def test_a_reset_under_a_running_worker_stops_it(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    writers.reset(plexus, "p")
    cache.pull("p")
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    live.execution_log.append(CheckpointEntry(position=2, type="x", result="c", timestamp=at))
    with pytest.raises(RunSuperseded):
        storage.save_procedure_metadata("p", live)
    assert cache.status().dirty == 0
    assert remote_results(plexus, "p") == []


def test_what_the_shipped_adapter_drops_is_kept_here(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    before = [entry.model_dump() for entry in live.execution_log]
    writers.shipped_adapter_save(plexus, "p")
    cache.pull("p")
    assert [entry.model_dump() for entry in storage.load_procedure_metadata("p").execution_log] == before
    append(storage, "c")
    assert cache.flush(10)
    assert remote_results(plexus, "p") == ["a", "b", "c"]


def test_two_stores_that_sync_in_turn_converge(plexus: Simulator, cache: ProcedureCache, open_cache: OpenCache) -> None:
    other = open_cache("other", background=False)
    other.storage("p").state_set("p", "there", 1)
    cache.storage("p").state_set("p", "here", 1)
    for _ in range(2):
        assert cache.flush(10)
        assert other.flush(10)
    cache.pull("p")
    other.pull("p")
    plexus.reset_counters()
    assert cache.sync(5).pushed == other.sync(5).pushed == ()
    assert plexus.requests == 0
    mine, theirs = (one.storage("p").load_procedure_metadata("p") for one in (cache, other))
    assert mine.model_dump(exclude={"execution_log"}) == theirs.model_dump(exclude={"execution_log"})
