"""What both sides changed: who wins, what the journal keeps, and how a person brings it back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import (
    CheckpointEntry,
    Conflict,
    ConflictNotFound,
    ConflictOutdated,
    PlexusStorageAdapter,
    ProcedureCache,
    RunSuperseded,
)
from plexus_tactus_cache.testing.simulator import Simulator, writers


@pytest.fixture
def ours(plexus: Simulator, open_cache: OpenCache) -> ProcedureCache:
    """The first machine; `p` has a log of two entries and a state, all confirmed."""
    plexus.put("p", status="RUNNING", metadata={"runtime": "lua"})
    cache = open_cache("ours", background=False)
    storage = cache.storage("p")
    append(storage, "a")
    append(storage, "b")
    storage.state_set("p", "k", {"was": 0})
    storage.state_set("p", "other", 0)
    assert cache.flush(10)
    return cache


@pytest.fixture
def theirs(ours: ProcedureCache, open_cache: OpenCache) -> ProcedureCache:
    """The second machine, which has read `p`."""
    cache = open_cache("theirs", background=False)
    cache.storage("p").load_procedure_metadata("p")
    return cache


@pytest.fixture
def here(ours: ProcedureCache) -> PlexusStorageAdapter:
    """An adapter of the first machine that has asked Plexus already."""
    storage = ours.storage("p")
    storage.load_procedure_metadata("p")
    return storage


@pytest.fixture
def there(theirs: ProcedureCache) -> PlexusStorageAdapter:
    storage = theirs.storage("p")
    storage.load_procedure_metadata("p")
    return storage


def only(cache: ProcedureCache) -> Conflict:
    (conflict,) = cache.conflicts()
    assert cache.status().conflicts == 1
    return conflict


def results(storage: PlexusStorageAdapter) -> list[Any]:
    return [entry.result for entry in storage.load_procedure_metadata("p").execution_log]


def converged(plexus: Simulator, *caches: ProcedureCache) -> None:
    """Everybody has the same, and further passes change nothing."""
    for _ in range(2):
        for cache in caches:
            assert cache.flush(10), parked_reason(cache, "p")
            cache.pull("p")
    record = plexus.record("p")
    for cache in caches:
        cache.pull("p")
        report = cache.sync(5)
        assert (report.pushed, report.merged, report.parked, report.errors) == ((), (), (), ())
    assert plexus.record("p") == record
    dumps = [
        cache.storage("p")
        .load_procedure_metadata("p")
        .model_dump(exclude={"execution_log": {"__all__": {"timestamp"}}})
        for cache in caches
    ]
    assert all(dump == dumps[0] for dump in dumps)


# --- state ------------------------------------------------------------------------------------------------


def test_two_machines_change_different_keys_offline(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    plexus.fail("refuse")
    here.state_set("p", "k", "ours")
    there.state_set("p", "other", "theirs")
    there.state_set("p", "new", [1.0, None])
    plexus.heal()
    converged(plexus, ours, theirs)
    assert remote_state(plexus, "p") == {"k": "ours", "other": "theirs", "new": [1, None]}
    assert ours.conflicts() == theirs.conflicts() == []
    assert (plexus.record("p") or {})["metadata"]["runtime"] == "lua"


@pytest.mark.parametrize("keep", ["local", "remote"])
def test_the_same_key(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
    keep: Any,
) -> None:
    there.state_set("p", "k", {"theirs": (1, 2)})
    here.state_set("p", "k", {"ours": 1.0})
    assert theirs.flush(10)
    converged(plexus, ours, theirs)
    assert remote_state(plexus, "p")["k"] == {"ours": 1}
    conflict = only(ours)
    assert (conflict.part, conflict.key, conflict.kept, conflict.absent) == ("state", "k", "local", ())
    assert (conflict.local, conflict.remote, conflict.base) == ({"ours": 1.0}, {"theirs": (1, 2)}, {"was": 0})
    assert conflict.procedure_id == "p"
    ours.resolve(conflict.id, keep)
    converged(plexus, ours, theirs)
    wanted = {"ours": 1.0} if keep == "local" else {"theirs": (1, 2)}
    assert here.state_get("p", "k") == there.state_get("p", "k") == wanted
    assert ours.conflicts() == []
    assert [one.resolved for one in ours.conflicts(resolved=True)] == [keep]


def test_the_side_whose_log_went_on_wins(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    append(there, "c")
    there.state_set("p", "k", "with c")
    assert theirs.flush(10)
    here.state_set("p", "k", "without c")
    converged(plexus, ours, theirs)
    assert remote_state(plexus, "p")["k"] == "with c"
    conflict = only(ours)
    assert (conflict.kept, conflict.local, conflict.remote) == ("remote", "without c", "with c")


def test_deleting_is_a_change_and_null_is_a_value(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    there.state_delete("p", "k")
    there.state_delete("p", "other")
    assert theirs.flush(10)
    here.state_set("p", "k", None)
    converged(plexus, ours, theirs)
    assert remote_state(plexus, "p") == {"k": None}
    conflict = only(ours)
    assert (conflict.local, conflict.remote, conflict.absent) == (None, None, ("remote",))
    ours.resolve(conflict.id, "remote")
    converged(plexus, ours, theirs)
    assert remote_state(plexus, "p") == {}


def test_resolving_journals_what_it_replaces(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    there.state_set("p", "k", 1)
    assert theirs.flush(10)
    here.state_set("p", "k", 2)
    assert ours.flush(10)
    conflict = only(ours)
    here.state_set("p", "k", 3)  # the worker goes on
    ours.resolve(conflict.id, "remote")
    assert here.state_get("p", "k") == 1
    replaced = next(one for one in ours.conflicts(resolved=True) if one.id != conflict.id)
    assert (replaced.local, replaced.remote) == (3, 1)
    ours.resolve(replaced.id, "local")
    assert here.state_get("p", "k") == 3
    assert ours.flush(10)
    assert remote_state(plexus, "p")["k"] == 3


def test_lua_state_and_keys_that_are_not_text(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    live = here.load_procedure_metadata("p")
    live.lua_state["x"] = 1
    live.state[7] = b"bytes"  # type: ignore[index]
    here.save_procedure_metadata("p", live)
    assert ours.flush(10)
    metadata = (plexus.record("p") or {})["metadata"]
    plexus.put("p", metadata=metadata | {"lua_state": {"x": 2}})
    live.lua_state["x"] = 3
    live.state[7] = b"more"  # type: ignore[index]
    here.save_procedure_metadata("p", live)
    assert ours.flush(10)
    conflict = only(ours)
    assert (conflict.part, conflict.key, conflict.local, conflict.remote, conflict.base) == ("lua_state", "x", 3, 2, 1)
    assert here.load_procedure_metadata("p").state[7] == b"more"  # type: ignore[index]


def test_conflicts_survive_a_restart_and_unknown_ids_are_told(
    plexus: Simulator, ours: ProcedureCache, theirs: ProcedureCache, here: PlexusStorageAdapter, there: PlexusStorageAdapter,
    open_cache: OpenCache,
) -> None:  # fmt: skip
    there.state_set("p", "k", 1)
    assert theirs.flush(10)
    here.state_set("p", "k", 2)
    assert ours.flush(10)
    before = ours.conflicts()
    ours.close()
    again = open_cache("ours", background=False)
    assert again.conflicts() == before
    for unknown in ("99", "", "x", "-1", "²"):
        with pytest.raises(ConflictNotFound, match="no conflict"):
            again.resolve(unknown, "local")
    with pytest.raises(ValueError, match="keep"):
        again.resolve(before[0].id, "both")  # type: ignore[arg-type]


# --- the log ----------------------------------------------------------------------------------------------


def test_the_longer_of_two_logs(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    for number in range(20):
        append(here, {"number": number})
    there.state_set("p", "other", 5)
    assert theirs.flush(10)
    converged(plexus, ours, theirs)
    assert results(here) == results(there) == ["a", "b", *({"number": number} for number in range(20))]
    assert ours.conflicts() == theirs.conflicts() == []


@pytest.mark.parametrize("keep", ["local", "remote"])
def test_a_fork(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
    keep: Any,
) -> None:
    append(there, "theirs", run_id="r2")
    append(there, "theirs too", run_id="r2")
    there.state_set("p", "other", "theirs")
    assert theirs.flush(10)
    append(here, "ours")
    here.state_set("p", "k", "ours")
    before = plexus.record("p")
    assert ours.sync(10).parked == ("p",)
    assert "resolve" in (parked_reason(ours, "p") or "")
    assert plexus.record("p") == before
    assert results(here) == ["a", "b", "ours"]
    for _ in range(2):  # looking again adds nothing
        ours.pull("p")
        conflict = only(ours)
    assert (conflict.part, conflict.key, conflict.kept) == ("execution_log", 2, None)
    assert [entry.result for entry in conflict.local] == ["ours"]
    assert [entry.result for entry in conflict.remote] == ["theirs", "theirs too"]
    assert conflict.remote[0].run_id == "r2"

    ours.resolve(conflict.id, keep)
    assert ours.flush(10)
    assert ours.status().parked == ours.status().conflicts == 0
    converged(plexus, ours, theirs)
    wanted = ["a", "b", "ours"] if keep == "local" else ["a", "b", "theirs", "theirs too"]
    assert remote_results(plexus, "p") == wanted
    assert results(ours.storage("p")) == results(theirs.storage("p")) == wanted
    assert remote_state(plexus, "p") == {"k": "ours", "other": "theirs"}

    ours.resolve(conflict.id, "remote" if keep == "local" else "local")  # second thoughts
    converged(plexus, ours, theirs)
    assert remote_results(plexus, "p") == (
        ["a", "b", "theirs", "theirs too"] if keep == "local" else ["a", "b", "ours"]
    )


@pytest.mark.parametrize("on_fork", ["local", "remote"])
def test_a_fork_decided_by_a_setting(
    plexus: Simulator, ours: ProcedureCache, theirs: ProcedureCache, there: PlexusStorageAdapter, open_cache: OpenCache, on_fork: str
) -> None:  # fmt: skip
    ours.close()
    append(there, "theirs")
    ours = open_cache("ours", background=False, on_fork=on_fork)
    here = ours.storage("p")
    here.load_procedure_metadata("p")
    assert theirs.flush(10)
    append(here, "ours")
    converged(plexus, ours, theirs)
    assert remote_results(plexus, "p") == ["a", "b", "ours" if on_fork == "local" else "theirs"]
    conflict = only(ours)
    assert conflict.kept == on_fork
    assert [entry.result for entry in conflict.local] == ["ours"]
    assert [entry.result for entry in conflict.remote] == ["theirs"]


def test_a_fork_that_ends_by_itself_is_closed(
    plexus: Simulator,
    ours: ProcedureCache,
    theirs: ProcedureCache,
    here: PlexusStorageAdapter,
    there: PlexusStorageAdapter,
) -> None:
    append(there, "theirs")
    assert theirs.flush(10)
    append(here, "ours")
    assert ours.sync(10).parked == ("p",)
    writers.reset(plexus, "p")
    ours.pull("p")
    assert remote_results(plexus, "p") == []
    assert results(ours.storage("p")) == []
    kept = {entry.result for one in ours.conflicts() for entry in one.local}
    assert kept == {"a", "b", "ours"}
    assert [one.resolved for one in ours.conflicts(resolved=True)] == ["remote"]


def test_a_reset_during_an_outage_of_a_worker(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    live = here.load_procedure_metadata("p")
    append(here, "c")
    append(here, "d")
    writers.reset(plexus, "p", clear_state=True)
    ours.sync(10)
    assert remote_results(plexus, "p") == []
    record = plexus.record("p") or {}
    assert record["status"] == "PENDING"
    archived = only(ours)
    assert [entry.result for entry in archived.local] == ["a", "b", "c", "d"]
    assert (archived.key, archived.kept, archived.remote) == (0, "remote", [])
    # the worker finds out
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    live.execution_log.append(CheckpointEntry(position=4, type="x", result="e", timestamp=at))
    for _ in range(3):
        with pytest.raises(RunSuperseded, match="journal"):
            here.save_procedure_metadata("p", live)
    assert [[entry.result for entry in one.local] for one in ours.conflicts()] == [list("abcd"), list("abcde")]
    assert here.load_procedure_metadata("p").execution_log == []
    # and a person wants it back
    ours.resolve(ours.conflicts()[-1].id, "local")
    assert ours.flush(10)
    assert remote_results(plexus, "p") == list("abcde")


def test_a_partial_reset(plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter) -> None:
    append(here, "c")
    assert ours.flush(10)
    append(here, "d")
    writers.reset_after(plexus, "p", "000001:agent_turn")
    ours.sync(10)
    assert results(here) == ["a"]
    archived = only(ours)
    assert (archived.key, [entry.result for entry in archived.local]) == (1, ["b", "c", "d"])
    append(here, "B")
    ours.resolve(archived.id, "local")
    assert results(here) == ["a", "b", "c", "d"]
    replaced = next(one for one in ours.conflicts(resolved=True) if one.id != archived.id)
    assert [entry.result for entry in replaced.remote] == ["B"]


def test_a_tail_whose_beginning_changed_is_not_restored(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    append(here, "c")
    assert ours.flush(10)
    writers.reset_after(plexus, "p", "000001:agent_turn")
    ours.pull("p")
    archived = only(ours)
    here.checkpoint_clear_all("p")
    append(here, "A")
    with pytest.raises(ConflictOutdated, match="position 1"):
        ours.resolve(archived.id, "local")
    assert results(here) == ["A"]
    assert only(ours) == archived


def test_a_gap_in_the_checkpoints_is_cut_and_the_rest_kept(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    append(here, "c")
    assert ours.flush(10)
    metadata = (plexus.record("p") or {})["metadata"]
    del metadata["checkpoints"]["000001:agent_turn"]
    metadata["checkpoints"]["000002:agent_turn"]["result"] = "C"  # nobody here has seen it
    plexus.put("p", metadata=metadata)
    ours.pull("p")
    assert results(here) == ["a"]
    conflict = only(ours)
    assert [entry.result for entry in conflict.remote] == ["C"]
    ours.pull("p")
    assert only(ours) == conflict


@pytest.mark.parametrize("how", ["rerun", "answer"])
def test_entries_replaced_in_place_while_a_foreign_key_changes(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter, how: str
) -> None:
    live = here.load_procedure_metadata("p")
    if how == "answer":
        append(here, None, kind="hitl_approval")
        assert ours.flush(10)
    metadata = (plexus.record("p") or {})["metadata"]
    plexus.put("p", metadata=metadata | {"optimizer_artifacts": {"x": 1}})
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    if how == "answer":
        live.execution_log[2] = CheckpointEntry(
            position=2, type="hitl_approval", result={"value": True}, timestamp=at, run_id="run"
        )
    else:
        for position in range(2):
            live.execution_log[position] = CheckpointEntry(
                position=position, type="agent_turn", result=f"again {position}", timestamp=at, run_id="run 2"
            )
    here.save_procedure_metadata("p", live)
    assert ours.flush(10)
    assert ours.status().parked == ours.status().conflicts == 0
    assert remote_results(plexus, "p") == (["a", "b", {"value": True}] if how == "answer" else ["again 0", "again 1"])
    assert (plexus.record("p") or {})["metadata"]["optimizer_artifacts"] == {"x": 1}


def test_named_checkpoints_keep_their_places_when_the_shipped_adapter_rewrites_them(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    here.checkpoint_save("p", "late name", 1)
    append(here, "d")
    here.checkpoint_save("p", "early name", 2)
    here.checkpoint_save("p", "late name", 3)  # in place, so later than what follows it
    assert ours.flush(10)
    before = here.load_procedure_metadata("p").model_dump()
    writers.shipped_adapter_save(plexus, "p")
    ours.pull("p")
    assert here.load_procedure_metadata("p").model_dump() == before
    assert ours.conflicts() == []


# --- status -----------------------------------------------------------------------------------------------


def test_a_worker_marked_stalled_comes_back(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    here.update_procedure_status("p", "RUNNING")
    for number in range(30):
        append(here, number)
    here.update_procedure_status("p", "WAITING_FOR_HUMAN", "m1")
    writers.mark_stalled(plexus, "p")
    assert ours.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "m1")
    assert record["metadata"]["last_failure"]["reason"]
    assert len(remote_results(plexus, "p")) == 32
    assert ours.conflicts() == []


@pytest.mark.parametrize("meanwhile", [None, "RUNNING", "COMPLETE"])
def test_a_cancelled_procedure_stays_cancelled_until_a_new_run(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter, meanwhile: str | None
) -> None:
    append(here, "c")
    if meanwhile is not None:
        here.update_procedure_status("p", meanwhile)
    plexus.put("p", status="CANCELLED")
    assert ours.flush(10)

    def cancelled() -> bool:
        assert ours.flush(10)
        live = here.load_procedure_metadata("p")
        return (live.status, (plexus.record("p") or {})["status"]) == ("CANCELLED", "CANCELLED")

    assert cancelled()
    append(here, "d")
    here.update_procedure_status("p", "WAITING_FOR_HUMAN", "m")
    assert cancelled()
    here.update_procedure_status("p", "COMPLETE")
    assert cancelled()
    assert remote_results(plexus, "p") == ["a", "b", "c", "d"]
    assert (plexus.record("p") or {})["waitingOnMessageId"] is None
    # a new run
    here.update_procedure_status("p", "RUNNING")
    assert cancelled()
    append(here, "e", run_id="new run")
    assert ours.flush(10)
    assert (plexus.record("p") or {})["status"] == "RUNNING"
    assert here.load_procedure_metadata("p").status == "RUNNING"
    here.update_procedure_status("p", "COMPLETE")
    assert ours.flush(10)
    assert (plexus.record("p") or {})["status"] == "COMPLETE"


def test_finished_beats_unfinished_and_the_other_is_recorded(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    plexus.put("p", status="COMPLETE")
    here.update_procedure_status("p", "WAITING_FOR_HUMAN", "m")
    assert ours.flush(10)
    assert (plexus.record("p") or {})["status"] == "COMPLETE"
    conflict = only(ours)
    assert (conflict.part, conflict.local, conflict.remote, conflict.base) == (
        "status",
        ("WAITING_FOR_HUMAN", "m"),
        ("COMPLETE", None),
        ("RUNNING", None),
    )
    ours.resolve(conflict.id, "local")
    assert ours.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "m")


def test_only_resolving_ends_a_cancellation_without_a_new_run(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    here.update_procedure_status("p", "WAITING_FOR_TIME")
    plexus.put("p", status="CANCELLED")
    assert ours.flush(10)
    ours.resolve(only(ours).id, "local")
    here.update_procedure_status("p", "RUNNING")
    assert ours.flush(10)
    assert (plexus.record("p") or {})["status"] == "RUNNING"


# --- foreign keys, and records that others broke ------------------------------------------------------------


def test_a_foreign_key_written_between_our_read_and_our_write(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter
) -> None:
    metadata = (plexus.record("p") or {})["metadata"]
    plexus.put("p", metadata=metadata | {"x": 1})  # so that our push has to read
    writes = iter([2, 3])

    def interfere(name: str, args: dict[str, Any]) -> None:
        value = next(writes, None)
        if value is not None:
            metadata = (plexus.record("p") or {})["metadata"]
            plexus.put("p", metadata=metadata | {"x": value})

    plexus.before_mutation = interfere
    here.state_set("p", "k", "ours")
    eventually(lambda: ours.flush(10))
    found = (plexus.record("p") or {})["metadata"]
    assert (found["x"], found["runtime"], found["state"]["k"]) == (3, "lua", "ours")


def test_a_clone_with_state_and_no_checkpoints(plexus: Simulator, ours: ProcedureCache, open_cache: OpenCache) -> None:
    """It carries the bookkeeping of the procedure that it was cloned from."""
    writers.clone(plexus, "p", "copy", keep=["k"])
    cache = open_cache("clone", background=False)
    storage = cache.storage("copy")
    live = storage.load_procedure_metadata("copy")
    assert (live.execution_log, live.state, live.replay_index) == ([], {"k": {"was": 0}}, 0)
    append(storage, "first")
    assert cache.flush(10)
    assert remote_results(plexus, "copy") == ["first"]
    assert remote_results(plexus, "p") == ["a", "b"]


@pytest.mark.parametrize(
    "metadata", [None, [], 5, {"checkpoints": []}, {"state": {"_s3_key": "procedures/p/state.json"}}]
)
def test_metadata_that_is_none_is_never_replaced(
    plexus: Simulator, ours: ProcedureCache, here: PlexusStorageAdapter, metadata: Any
) -> None:
    plexus.put("p", metadata=metadata)
    before = plexus.record("p")
    here.state_set("p", "k", 1)
    assert ours.sync(10).parked == ("p",)
    assert parked_reason(ours, "p")
    assert plexus.record("p") == before
    assert here.state_get("p", "k") == 1


# --- offline first, then a record that has a past ----------------------------------------------------------


def test_a_document_that_began_offline_is_merged_with_what_plexus_has(
    plexus: Simulator, ours: ProcedureCache, open_cache: OpenCache
) -> None:
    plexus.fail("refuse")
    fresh = open_cache("fresh", background=False)
    storage = fresh.storage("p")
    storage.state_set("p", "k", "fresh")
    storage.state_set("p", "new", 1)
    plexus.heal()
    assert fresh.flush(10)
    assert remote_state(plexus, "p") == {"k": "fresh", "new": 1, "other": 0}
    assert remote_results(plexus, "p") == ["a", "b"]
    conflict = only(fresh)
    assert (conflict.local, conflict.remote, conflict.absent) == ("fresh", {"was": 0}, ("base",))
