"""A push that Plexus applied and whose answer never came."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, eventually, parked_reason, remote_results, remote_state

from plexus_tactus_cache import PlexusStorageAdapter, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator


@pytest.fixture
def cache(plexus: Simulator, open_cache: OpenCache) -> ProcedureCache:
    plexus.put("p", metadata={"runtime": "lua"}, status="RUNNING")
    return open_cache(background=False)


@pytest.fixture
def storage(cache: ProcedureCache) -> PlexusStorageAdapter:
    """A procedure with a confirmed base, so that a push is one mutation."""
    storage = cache.storage("p")
    append(storage, "a")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    return storage


def lose_the_answer(plexus: Simulator, cache: ProcedureCache) -> None:
    plexus.fail("drop_after", times=1, only="mutation")
    assert cache.sync(5).pushed == ()


def settled(plexus: Simulator, cache: ProcedureCache, at_most: int = 5) -> None:
    """Everything arrives, without a conflict, for few requests, and then nothing is sent any more."""
    plexus.reset_counters()
    assert cache.flush(10), parked_reason(cache, "p")
    assert cache.status().parked == 0
    assert plexus.requests <= at_most
    before, requests = plexus.record("p"), plexus.requests
    assert cache.sync(5).errors == ()
    assert (plexus.requests, plexus.record("p")) == (requests, before)


def test_without_further_writes(plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter) -> None:
    storage.state_set("p", "k", 1)
    append(storage, "b")
    lose_the_answer(plexus, cache)
    before = plexus.record("p")
    settled(plexus, cache)
    assert plexus.record("p") == before
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({"k": 1}, ["a", "b"])


def test_with_further_writes(plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter) -> None:
    storage.state_set("p", "k", 1)
    lose_the_answer(plexus, cache)
    storage.state_set("p", "k", 2)
    append(storage, "b")
    settled(plexus, cache)
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({"k": 2}, ["a", "b"])


def test_the_very_first_push(plexus: Simulator, cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.state_set("p", "k", 1)
    lose_the_answer(plexus, cache)
    storage.state_set("p", "k", 2)
    settled(plexus, cache)
    assert remote_state(plexus, "p") == {"k": 2}


def test_several_lost_in_a_row(plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter) -> None:
    for value in range(1, 4):
        storage.state_set("p", "k", value)
        lose_the_answer(plexus, cache)
    storage.state_set("p", "k", 9)
    settled(plexus, cache)
    assert remote_state(plexus, "p") == {"k": 9}


@pytest.mark.parametrize("further", [False, True])
def test_with_another_writer_in_between(
    plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter, further: bool
) -> None:
    storage.state_set("p", "k", 1)
    lose_the_answer(plexus, cache)
    metadata = (plexus.record("p") or {})["metadata"]  # it keeps our push id, as it keeps all it does not know
    plexus.put("p", metadata=metadata | {"state": {"k": 1, "theirs": 5}, "last_failure": {"x": 1}})
    expected: dict[str, Any] = {"k": 1, "theirs": 5}
    if further:
        storage.state_set("p", "k", 2)
        expected["k"] = 2
    settled(plexus, cache)
    assert remote_state(plexus, "p") == expected
    assert storage.load_procedure_metadata("p").state == expected
    assert (plexus.record("p") or {})["metadata"]["last_failure"] == {"x": 1}


def test_followed_by_a_stale_read(plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter) -> None:
    """A read of the record as it was before the push does not mean that the push did not land."""
    storage.state_set("p", "k", 1)
    lose_the_answer(plexus, cache)
    storage.state_set("p", "k", 2)
    plexus.fail("stale", times=1, only="query")
    settled(plexus, cache)
    assert remote_state(plexus, "p") == {"k": 2}


def test_followed_by_a_stale_read_of_a_new_adapter(
    plexus: Simulator, cache: ProcedureCache, storage: PlexusStorageAdapter
) -> None:
    storage.state_set("p", "k", 1)
    lose_the_answer(plexus, cache)
    plexus.fail("stale", times=1, only="query")
    again = cache.storage("p")
    again.load_procedure_metadata("p")
    again.state_set("p", "k", 2)
    settled(plexus, cache)
    assert remote_state(plexus, "p") == {"k": 2}


def test_applied_after_we_gave_up_waiting(plexus: Simulator, open_cache: OpenCache) -> None:
    """A request that timed out can still be applied, and after we have read the record again."""
    plexus.put("p")
    cache = open_cache(background=False, request_timeout=2)
    storage = cache.storage("p")
    storage.state_set("p", "k", 0)
    assert cache.flush(10)
    storage.state_set("p", "k", 1)
    plexus.fail("delay", times=1, only="mutation", seconds=2.3)  # longer than the client waits
    assert cache.sync(5).pushed == ()
    cache.storage("p").load_procedure_metadata("p")  # reads the record as it was before
    storage.state_set("p", "k", 2)
    eventually(lambda: remote_state(plexus, "p") == {"k": 1})
    settled(plexus, cache)
    assert remote_state(plexus, "p") == {"k": 2}


def test_many_in_one_request(plexus: Simulator, open_cache: OpenCache) -> None:
    ids = [f"p{number}" for number in range(10)]
    cache = open_cache(background=False)
    for procedure_id in ids:
        plexus.put(procedure_id)
        cache.storage(procedure_id).state_set(procedure_id, "k", 1)
    plexus.fail("drop_after", times=1, only="mutation")
    assert cache.sync(5).pushed == ()
    plexus.reset_counters()
    for procedure_id in ids[:5]:
        cache.storage(procedure_id).state_set(procedure_id, "k", 2)
    assert cache.flush(10)
    assert plexus.requests <= 5 + 4  # five adapters' first looks
    assert [remote_state(plexus, one)["k"] for one in ids] == [2] * 5 + [1] * 5
    assert cache.status().parked == 0
