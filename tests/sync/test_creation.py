"""Procedures that begin offline."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import ProcedureNotFound
from plexus_tactus_cache.testing.simulator import Simulator


@pytest.mark.parametrize("background", [True, False])
def test_created_and_run_offline_then_online(plexus: Simulator, open_cache: OpenCache, background: bool) -> None:
    plexus.fail("refuse")
    cache = open_cache(background=background)
    new_id = cache.create_procedure(
        account_id="acc", name="nightly", description="d", scorecard_id="s1", parentProcedureId="p0", is_template=True
    )
    uuid.UUID(new_id)
    storage = cache.storage(new_id)
    append(storage, {"x": 1.0})
    storage.state_set(new_id, "k", (1, 2))
    storage.update_procedure_status(new_id, "RUNNING")
    assert (cache.status().dirty, cache.status().parked) == (1, 0)
    plexus.heal()
    assert cache.flush(10)
    (record,) = plexus.records().values()
    assert (record["id"], record["accountId"], record["name"]) == (new_id, "acc", "nightly")
    assert (record["scorecardId"], record["parentProcedureId"], record["description"]) == ("s1", "p0", "d")
    assert record["status"] == "RUNNING"
    assert (remote_results(plexus, new_id), remote_state(plexus, new_id)) == ([{"x": 1}], {"k": [1, 2]})
    assert plexus.operations["createProcedure"] == 1
    assert plexus.operations["getProcedure"] == 0  # one round trip
    append(storage, "more")
    assert cache.flush(10)
    assert plexus.operations["createProcedure"] == 1
    other = open_cache("other", background=False)
    found = other.storage(new_id).load_procedure_metadata(new_id)
    assert [entry.result for entry in found.execution_log] == [{"x": 1.0}, "more"]
    assert found.state == {"k": (1, 2)}


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("further", [False, True])
def test_a_lost_answer_to_the_create(plexus: Simulator, open_cache: OpenCache, further: bool, stale: bool) -> None:
    cache = open_cache(background=False)
    new_id = cache.create_procedure(account_id="acc", name="n", status="PENDING")
    storage = cache.storage(new_id)
    append(storage, "one")
    plexus.fail("drop_after", times=1, only="mutation")
    assert cache.sync(5).pushed == ()
    if further:
        append(storage, "two")
        storage.update_procedure_status(new_id, "RUNNING")
    if stale:
        plexus.fail("stale", times=1, only="query")
    assert cache.flush(15), parked_reason(cache, new_id)
    assert len(plexus.records()) == 1
    assert remote_results(plexus, new_id) == (["one", "two"] if further else ["one"])
    assert (plexus.record(new_id) or {})["status"] == ("RUNNING" if further else "PENDING")
    assert cache.conflicts() == []
    requests = plexus.requests
    assert cache.sync(5).errors == ()
    assert plexus.requests == requests


def test_a_lost_answer_and_another_writer(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    new_id = cache.create_procedure(account_id="acc", name="n")
    cache.storage(new_id).state_set(new_id, "k", 1)
    plexus.fail("drop_after", times=1, only="mutation")
    cache.sync(5)
    metadata = (plexus.record(new_id) or {})["metadata"]
    plexus.put(new_id, name="renamed", metadata=metadata | {"runtime": "lua", "state": {"k": 1, "theirs": 2}})
    cache.storage(new_id).state_set(new_id, "k", 3)
    assert cache.flush(10)
    record = plexus.record(new_id) or {}
    assert (record["name"], record["metadata"]["runtime"]) == ("renamed", "lua")
    assert remote_state(plexus, new_id) == {"k": 3, "theirs": 2}
    assert cache.conflicts() == []


def test_created_without_a_client_and_pushed_by_another_process(
    plexus: Simulator, open_cache: OpenCache, open_offline: OpenCache
) -> None:
    cache = open_offline()
    new_id = cache.create_procedure(account_id="acc", name="n")
    assert cache.storage(new_id).load_procedure_metadata(new_id).state == {}
    cache.storage(new_id).state_set(new_id, "k", 1)
    cache.close()
    again = open_cache()
    assert again.flush(10)
    assert remote_state(plexus, new_id) == {"k": 1}


def test_a_refused_create_is_parked_and_can_be_tried_again(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    new_id = cache.create_procedure(account_id="acc", name="n")
    cache.storage(new_id).state_set(new_id, "k", 1)
    plexus.fail("status", times=1, code=413)
    cache.sync(5)
    assert "413" in (parked_reason(cache, new_id) or "")
    cache.retry(new_id)
    assert cache.flush(15)
    assert remote_state(plexus, new_id) == {"k": 1}


def test_deleted_in_plexus_after_it_was_created(plexus: Simulator, open_cache: OpenCache) -> None:
    """A deletion is a decision: it is not created again."""
    cache = open_cache(background=False)
    new_id = cache.create_procedure(account_id="acc", name="n")
    assert cache.flush(10)
    plexus.delete(new_id)
    cache.storage(new_id).state_set(new_id, "k", 1)
    eventually(lambda: cache.sync(5) and cache.status().parked == 1, 15)
    assert "gone" in (parked_reason(cache, new_id) or "")
    assert plexus.records() == {}


def test_what_a_new_procedure_cannot_be(open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    wrongs: list[dict[str, Any]] = [{"metadata": {}}, {"id": "x"}, {"updated_at": "now"}, {"no_such_field": 1}]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="takes no field"):
            cache.create_procedure(account_id="acc", name="n", **wrong)
    with pytest.raises(TypeError, match="needs accountId and name"):
        cache.create_procedure(account_id="", name="")
    with pytest.raises(TypeError, match="JSON"):
        cache.create_procedure(account_id="acc", name="n", code=object())
    assert cache.procedures() == []


def test_builtin_procedures_live_in_memory(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache()
    storage = cache.storage("builtin:optimizer")
    live = storage.load_procedure_metadata("builtin:optimizer")
    append(storage, {"a": (1, 2)})
    storage.state_set(storage.procedure_id, "k", 1)
    live.state["in place"] = 2
    storage.update_procedure_status(storage.procedure_id, "RUNNING", "m")
    storage.checkpoint_save(storage.procedure_id, "named", 3)
    assert storage.load_procedure_metadata("builtin:optimizer") is live
    assert [entry.result for entry in live.execution_log] == [{"a": (1, 2)}, 3]
    assert storage.get_state("builtin:optimizer") == {"k": 1, "in place": 2}
    assert (live.status, live.waiting_on_message_id) == ("RUNNING", "m")
    assert storage.checkpoint_get("builtin:optimizer", "named") == 3
    storage.checkpoint_clear_all("builtin:optimizer")
    storage.set_state("builtin:optimizer", {"only": 1})
    assert (live.execution_log, live.state) == ([], {"only": 1})
    with pytest.raises(TypeError, match="'/0'"):
        storage.state_set("builtin:optimizer", "k", [object()])
    assert cache.storage("builtin:optimizer").get_state("builtin:optimizer") == {}  # per adapter
    with pytest.raises(ProcedureNotFound):
        cache.pull("builtin:optimizer")
    assert cache.flush(5)
    assert cache.procedures() == []
    assert plexus.requests == 0
    assert not any(b"builtin" in file.read_bytes() for file in cache.directory.iterdir() if file.is_file())
