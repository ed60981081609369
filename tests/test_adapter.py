"""The adapter's methods: the results that Plexus's own adapter promises, and what is in the store afterwards."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, fast, remote_results, remote_state

from plexus_tactus_cache import (
    CacheClosed,
    PlexusStorageAdapter,
    ProcedureCache,
    ProcedureMetadata,
    ValueNotSerializable,
)
from plexus_tactus_cache.testing.simulator import Simulator

Reopen = Callable[[], PlexusStorageAdapter]


@pytest.fixture(params=["online", "outage", "no client"])
def cache(request: pytest.FixtureRequest, plexus: Simulator, tmp_path: Path) -> Iterator[ProcedureCache]:
    """A cache that Plexus answers, or not: what a procedure sees of it is the same."""
    plexus.put("p")
    if request.param == "outage":
        plexus.fail("refuse")
    if request.param == "no client":
        found = ProcedureCache(None, tmp_path / "store", fast())
    else:
        found = ProcedureCache(client_of(plexus), tmp_path / "store", fast())
    yield found
    found.close(timeout=0)


@pytest.fixture
def storage(cache: ProcedureCache) -> PlexusStorageAdapter:
    return cache.storage("p")


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Reopen]:
    """What somebody else finds in the same directory."""
    opened: list[ProcedureCache] = []

    def reopen() -> PlexusStorageAdapter:
        opened.append(ProcedureCache(None, tmp_path / "store", fast()))
        return opened[-1].storage("p")

    yield reopen
    for cache in opened:
        cache.close(timeout=0)


# --- checkpoints by name ----------------------------------------------------------------------------------


def test_checkpoints(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    assert not storage.checkpoint_exists("p", "a")
    assert storage.checkpoint_get("p", "a") is None
    storage.checkpoint_save("p", "a", {"x": [1, 2.0, (3,)]})
    storage.checkpoint_save("p", "nothing", None)
    storage.checkpoint_save("p", "b", "2")
    for found in (storage, reopened()):
        assert found.checkpoint_get("p", "a") == {"x": [1, 2.0, (3,)]}
        assert found.checkpoint_get("p", "b") == "2"
        assert found.checkpoint_exists("p", "nothing")
        assert found.checkpoint_get("p", "nothing") is None
        assert not found.checkpoint_exists("p", "c")
        log = found.load_procedure_metadata("p").execution_log
        assert [(entry.position, entry.type) for entry in log] == [(number, "checkpoint") for number in range(3)]


def test_a_checkpoint_of_the_same_name_is_replaced_in_place(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    for name in "abc":
        storage.checkpoint_save("p", name, name)
    storage.checkpoint_save("p", "b", {"new": True})
    for found in (storage, reopened()):
        log = found.load_procedure_metadata("p").execution_log
        assert [(entry.position, entry.result) for entry in log] == [(0, "a"), (1, {"new": True}), (2, "c")]


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a%2Fb", "größe", "n" * 3000, "000000:agent_turn", "000007:x", "x~", "line\nbreak"]
)
def test_any_name_will_do(storage: PlexusStorageAdapter, reopened: Reopen, name: str) -> None:
    append(storage, "by Tactus", kind="other")
    storage.checkpoint_save("p", name, 1)
    storage.checkpoint_save("p", name, 2)
    storage.checkpoint_save("p", "after", 3)
    for found in (storage, reopened()):
        assert found.checkpoint_get("p", name) == 2
        assert [entry.result for entry in found.load_procedure_metadata("p").execution_log] == ["by Tactus", 2, 3]


def test_an_entry_of_tactus_is_found_by_its_key(storage: PlexusStorageAdapter) -> None:
    append(storage, "one")
    append(storage, "two", kind="human")
    assert storage.checkpoint_get("p", "000000:agent_turn") == "one"
    assert storage.checkpoint_get("p", "000001:human") == "two"
    assert not storage.checkpoint_exists("p", "000001:agent_turn")
    storage.checkpoint_clear_after("p", "000001:human")
    assert [entry.result for entry in storage.load_procedure_metadata("p").execution_log] == ["one"]


@pytest.mark.parametrize(("name", "left"), [("a", ""), ("b", "a"), ("d", "abc"), ("unknown", "abcd")])
def test_clearing_after_a_checkpoint(storage: PlexusStorageAdapter, reopened: Reopen, name: str, left: str) -> None:
    storage.state_set("p", "k", 1)
    for each in "abcd":
        storage.checkpoint_save("p", each, each)
    live = storage.load_procedure_metadata("p")
    live.replay_index = 4
    storage.save_procedure_metadata(live)
    storage.checkpoint_clear_after("p", name)
    for found in (storage, reopened()):
        assert [each for each in "abcd" if found.checkpoint_exists("p", each)] == list(left)
        assert found.get_state("p") == {"k": 1}
        assert found.load_procedure_metadata("p").replay_index == len(left)


def test_clearing_all_checkpoints_keeps_state(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    storage.checkpoint_clear_all("p")
    storage.state_set("p", "k", 1)
    live = storage.load_procedure_metadata("p")
    live.lua_state["l"] = 2
    append(storage, "one")
    storage.checkpoint_save("p", "a", 1)
    storage.checkpoint_clear_all("p")
    for found in (storage, reopened()):
        metadata = found.load_procedure_metadata("p")
        assert (metadata.execution_log, metadata.replay_index) == ([], 0)
        assert (metadata.state, metadata.lua_state) == ({"k": 1}, {"l": 2})
    storage.checkpoint_save("p", "b", 2)
    assert [entry.position for entry in reopened().load_procedure_metadata("p").execution_log] == [0]


# --- state ------------------------------------------------------------------------------------------------


def test_state(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    assert storage.get_state("p") == {}
    assert storage.state_get("p", "k") is None
    assert storage.state_get("p", "k", 7) == 7
    storage.state_set("p", "k", {"n": [1]})
    storage.state_set("p", "none", None)
    storage.state_set("p", "gone", 1)
    storage.state_delete("p", "gone")
    storage.state_delete("p", "never")
    for found in (storage, reopened()):
        assert found.state_get("p", "k", 7) == {"n": [1]}
        assert found.state_get("p", "none", 7) is None
        assert found.state_get("p", "gone", "default") == "default"
        assert found.get_state("p") == {"k": {"n": [1]}, "none": None}


def test_setting_the_whole_state_replaces_it(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    append(storage, "one")
    storage.set_state("p", {"a": 1, "b": 2})
    storage.set_state("p", {"b": 3, "c": 4})
    for found in (storage, reopened()):
        assert found.get_state("p") == {"b": 3, "c": 4}
    storage.set_state("p", storage.get_state("p"))
    assert reopened().get_state("p") == {"b": 3, "c": 4}
    storage.state_clear("p")
    storage.state_clear("p")
    for found in (storage, reopened()):
        assert found.get_state("p") == {}
        assert [entry.result for entry in found.load_procedure_metadata("p").execution_log] == ["one"]


def test_a_nested_value_changed_in_place_and_set_again(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    storage.state_set("p", "results", {"list": []})
    for number in range(3):  # as Plexus's executor does
        results = storage.state_get("p", "results", {})
        results["list"].append(number)
        storage.state_set("p", "results", results)
        assert reopened().state_get("p", "results") == {"list": list(range(number + 1))}


@pytest.mark.parametrize("key", ["", "/", "a/b", "%", "é", "\x00", "k" * 5000, "state/p/x"])
def test_any_key_will_do(storage: PlexusStorageAdapter, reopened: Reopen, key: str) -> None:
    storage.state_set("p", key, 1)
    storage.state_set("p", "other", 2)
    assert reopened().get_state("p") == {key: 1, "other": 2}
    storage.state_delete("p", key)
    assert reopened().get_state("p") == {"other": 2}


@pytest.mark.parametrize("procedure_id", ["", "a/b", "doc/p", "p%", "é"])
def test_one_adapter_serves_any_procedure(storage: PlexusStorageAdapter, reopened: Reopen, procedure_id: str) -> None:
    storage.state_set(procedure_id, "k", 1)
    storage.state_set("p", "k", 2)
    storage.checkpoint_save(procedure_id, "a", 3)
    other = reopened()
    assert (other.state_get(procedure_id, "k"), other.state_get("p", "k")) == (1, 2)
    assert other.checkpoint_get(procedure_id, "a") == 3
    assert not other.checkpoint_exists("p", "a")
    assert other.load_procedure_metadata(procedure_id).procedure_id == procedure_id


# --- status -----------------------------------------------------------------------------------------------


def test_status(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    live = storage.load_procedure_metadata("p")
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m1")
    assert (live.status, live.waiting_on_message_id) == ("WAITING_FOR_HUMAN", "m1")
    found = reopened().load_procedure_metadata("p")
    assert (found.status, found.waiting_on_message_id) == ("WAITING_FOR_HUMAN", "m1")
    storage.update_procedure_status("p", status="RUNNING", waiting_on_message_id=None)
    storage.save_procedure_metadata(live)
    for found in (live, reopened().load_procedure_metadata("p")):
        assert (found.status, found.waiting_on_message_id) == ("RUNNING", None)
    storage.update_procedure_status("p", "COMPLETE")
    assert reopened().load_procedure_metadata("p").status == "COMPLETE"


def test_a_status_set_in_the_object_is_saved(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    live = storage.load_procedure_metadata("p")
    live.status, live.waiting_on_message_id = "WAITING_FOR_HUMAN", "m2"
    storage.save_procedure_metadata("p", live)
    found = reopened().load_procedure_metadata("p")
    assert (found.status, found.waiting_on_message_id) == ("WAITING_FOR_HUMAN", "m2")


# --- whole documents --------------------------------------------------------------------------------------


def test_a_procedure_without_anything(storage: PlexusStorageAdapter) -> None:
    found = storage.load_procedure_metadata("p")
    assert isinstance(found, ProcedureMetadata)
    assert found == ProcedureMetadata(procedure_id="p")
    assert (found.execution_log, found.replay_index, found.state, found.lua_state) == ([], 0, {}, {})


CALLS: dict[str, Callable[[PlexusStorageAdapter, Any], None]] = {
    "as Tactus does": lambda storage, live: storage.save_procedure_metadata("p", live),
    "as Plexus does": lambda storage, live: storage.save_procedure_metadata(live),
    "as Tactus does, by name": lambda storage, live: storage.save_procedure_metadata(procedure_id="p", metadata=live),
    "as Plexus does, by name": lambda storage, live: storage.save_procedure_metadata(metadata=live),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_form_of_saving(storage: PlexusStorageAdapter, reopened: Reopen, call: str) -> None:
    live = storage.load_procedure_metadata("p")
    live.state["k"] = 1
    live.lua_state["l"] = [2]
    live.replay_index = 0
    CALLS[call](storage, live)
    found = reopened().load_procedure_metadata("p")
    assert (found.state, found.lua_state) == ({"k": 1}, {"l": [2]})


def test_the_methods_and_arguments_of_plexus_own_adapter() -> None:
    promised = {
        "checkpoint_clear_after": ["procedure_id", "name"],
        "checkpoint_clear_all": ["procedure_id"],
        "checkpoint_exists": ["procedure_id", "name"],
        "checkpoint_get": ["procedure_id", "name"],
        "checkpoint_save": ["procedure_id", "name", "result"],
        "get_state": ["procedure_id"],
        "load_procedure_metadata": ["procedure_id"],
        "set_state": ["procedure_id", "state"],
        "state_clear": ["procedure_id"],
        "state_delete": ["procedure_id", "key"],
        "state_get": ["procedure_id", "key", "default"],
        "state_set": ["procedure_id", "key", "value"],
        "update_procedure_status": ["procedure_id", "status", "waiting_on_message_id"],
    }
    for method, arguments in promised.items():
        found = inspect.signature(getattr(PlexusStorageAdapter, method)).parameters
        assert list(found) == ["self", *arguments], method
    assert list(inspect.signature(PlexusStorageAdapter).parameters)[:2] == ["client", "procedure_id"]


METHODS: dict[str, Callable[[PlexusStorageAdapter], object]] = {
    "load": lambda storage: storage.load_procedure_metadata("p"),
    "save": lambda storage: storage.save_procedure_metadata(ProcedureMetadata(procedure_id="p")),
    "status": lambda storage: storage.update_procedure_status("p", "RUNNING"),
    "get_state": lambda storage: storage.get_state("p"),
    "set_state": lambda storage: storage.set_state("p", {}),
    "state_get": lambda storage: storage.state_get("p", "k"),
    "state_set": lambda storage: storage.state_set("p", "k", 1),
    "state_delete": lambda storage: storage.state_delete("p", "k"),
    "state_clear": lambda storage: storage.state_clear("p"),
    "checkpoint_save": lambda storage: storage.checkpoint_save("p", "a", 1),
    "checkpoint_get": lambda storage: storage.checkpoint_get("p", "a"),
    "checkpoint_exists": lambda storage: storage.checkpoint_exists("p", "a"),
    "checkpoint_clear_all": lambda storage: storage.checkpoint_clear_all("p"),
    "checkpoint_clear_after": lambda storage: storage.checkpoint_clear_after("p", "a"),
}


@pytest.mark.parametrize("method", METHODS)
def test_after_closing(open_offline: OpenCache, method: str) -> None:
    cache = open_offline()
    known, unknown = cache.storage("p"), cache.storage("p")
    known.state_set("p", "k", 1)
    cache.close()
    for storage in (known, unknown):
        with pytest.raises(CacheClosed):
            METHODS[method](storage)
    assert open_offline().storage("p").get_state("p") == {"k": 1}


# --- values that no store could keep ----------------------------------------------------------------------


class Thing:
    """JSON cannot say this."""


def _in_state(live: Any) -> None:
    live.state["good"] = 2
    live.state["bad"] = {"list": [1, {"a/b": Thing()}]}


def _in_lua_state(live: Any) -> None:
    live.state["good"] = 2
    live.lua_state["bad"] = {"list": [1, {"a/b": Thing()}]}


def _in_a_result(live: Any) -> None:
    from plexus_tactus_cache import CheckpointEntry

    live.state["good"] = 2
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    result = {"list": [1, {"a/b": Thing()}]}
    live.execution_log.append(CheckpointEntry(position=1, type="x", result=result, timestamp=at))


def _in_handles(live: Any) -> None:
    live.state["good"] = 2
    live.__dict__["async_procedures"] = {"list": [1, {"a/b": Thing()}]}


@pytest.mark.parametrize("spoil", [_in_state, _in_lua_state, _in_a_result, _in_handles])
def test_a_save_that_fails_stores_nothing(
    cache: ProcedureCache, storage: PlexusStorageAdapter, reopened: Reopen, spoil: Callable[[Any], None]
) -> None:
    storage.state_set("p", "good", 1)
    append(storage, "one")
    version = cache.procedures()[0].version
    live = storage.load_procedure_metadata("p")
    spoil(live)
    for _ in range(2):
        with pytest.raises(ValueNotSerializable) as raised:
            storage.save_procedure_metadata(live)
        assert raised.value.path == "/list/1/a~1b"
        assert isinstance(raised.value, TypeError)
    assert cache.procedures()[0].version == version
    found = reopened().load_procedure_metadata("p")
    assert (found.state, found.lua_state) == ({"good": 1}, {})
    assert [entry.result for entry in found.execution_log] == ["one"]
    assert "async_procedures" not in found.__dict__

    live.state.pop("bad", None)  # what was wrong is put right: nothing of the rest is missing
    live.lua_state.pop("bad", None)
    live.__dict__.pop("async_procedures", None)
    if len(live.execution_log) == 2:
        live.execution_log[1].result = "two"
    storage.save_procedure_metadata(live)
    found = reopened().load_procedure_metadata("p")
    assert found.state == {"good": 2}
    assert [entry.result for entry in found.execution_log] == [entry.result for entry in live.execution_log]


REFUSED: dict[str, tuple[Callable[[PlexusStorageAdapter, Any], None], str]] = {
    "state_set": (lambda storage, value: storage.state_set("p", "k", value), "/0"),
    "set_state": (lambda storage, value: storage.set_state("p", {"k": value, "new": 1}), "/k/0"),
    "checkpoint_save": (lambda storage, value: storage.checkpoint_save("p", "a", value), "/0"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_a_value_that_is_refused_changes_nothing(
    cache: ProcedureCache, storage: PlexusStorageAdapter, reopened: Reopen, method: str
) -> None:
    storage.state_set("p", "k", 1)
    storage.checkpoint_save("p", "a", 2)
    version = cache.procedures()[0].version
    call, path = REFUSED[method]
    with pytest.raises(ValueNotSerializable) as raised:
        call(storage, [Thing()])
    assert raised.value.path == path
    assert cache.procedures()[0].version == version
    for found in (storage, reopened()):
        assert (found.get_state("p"), found.checkpoint_get("p", "a")) == ({"k": 1}, 2)
    assert len(storage.load_procedure_metadata("p").execution_log) == 1


def test_captured_variables_that_cannot_be_stored_are_described(
    storage: PlexusStorageAdapter, reopened: Reopen
) -> None:
    append(storage, "one")
    live = storage.load_procedure_metadata("p")
    entry = live.execution_log[0].model_copy(update={"position": 1})
    entry.captured_vars = {"good": {"n": 1.0}, "bad": Thing(), "deep": {"list": [1, Thing()]}, "same": {"n": 1.0}}
    live.execution_log.append(entry)
    storage.save_procedure_metadata(live)
    found = reopened().load_procedure_metadata("p").execution_log[1].captured_vars
    assert found["good"] == found["same"] == {"n": 1.0}
    assert list(found["bad"]) == ["__not_stored__"]
    assert "Thing" in found["bad"]["__not_stored__"]
    assert found["deep"]["list"][0] == 1
    assert "Thing" in found["deep"]["list"][1]["__not_stored__"]


# --- objects that the caller built ------------------------------------------------------------------------


def test_a_save_without_a_load(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    storage.save_procedure_metadata(ProcedureMetadata(procedure_id="p", state={"k": 1}))
    assert storage.state_get("p", "k") == 1
    assert reopened().get_state("p") == {"k": 1}


def test_an_object_that_the_caller_built_replaces_the_document(storage: PlexusStorageAdapter, reopened: Reopen) -> None:
    for name in "abc":
        append(storage, name)
    storage.set_state("p", {"old": 1, "both": 1})
    before = storage.load_procedure_metadata("p")
    before.lua_state["l"] = 1
    before.__dict__["async_procedures"] = {"h": 1}
    storage.save_procedure_metadata(before)

    built = ProcedureMetadata(procedure_id="p", state={"both": 2}, execution_log=before.execution_log[:1])
    storage.save_procedure_metadata(built)
    assert storage.load_procedure_metadata("p") is built
    storage.state_set("p", "later", 3)
    assert built.state == {"both": 2, "later": 3}
    built.state["both"] = 4
    storage.save_procedure_metadata(built)
    found = reopened().load_procedure_metadata("p")
    assert (found.state, found.lua_state) == ({"both": 4, "later": 3}, {})
    assert [entry.result for entry in found.execution_log] == ["a"]
    assert not found.__dict__.get("async_procedures")


def test_what_the_caller_built_reaches_plexus_and_spares_others(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"theirs": 1}, "scorecard_name": "s"}, status="PENDING")
    cache = open_cache()
    cache.storage("p").save_procedure_metadata(ProcedureMetadata(procedure_id="p", state={"mine": 2}))
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert record["metadata"]["state"] == {"mine": 2}
    assert (record["metadata"]["scorecard_name"], record["status"]) == ("s", "PENDING")


def test_a_save_without_a_load_during_an_outage_overwrites_nothing(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"theirs": 1}, "scorecard_name": "s"})
    plexus.put("q", metadata={"state": {"k": "theirs"}})
    plexus.fail("refuse")
    cache = open_cache()
    cache.storage("p").save_procedure_metadata(ProcedureMetadata(procedure_id="p", state={"mine": 2}))
    cache.storage("q").save_procedure_metadata(ProcedureMetadata(procedure_id="q", state={"k": "mine"}))
    plexus.heal()
    assert cache.flush(10)
    assert remote_state(plexus, "p") == {"theirs": 1, "mine": 2}
    assert (plexus.record("p") or {})["metadata"]["scorecard_name"] == "s"
    assert remote_state(plexus, "q") == {"k": "mine"}
    assert [(one.procedure_id, one.key, one.remote) for one in cache.conflicts()] == [("q", "k", "theirs")]


# --- and all of it in Plexus ------------------------------------------------------------------------------


def test_every_method_shows_in_plexus_and_in_a_store_elsewhere(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    storage = cache.storage("p")
    storage.set_state("p", {"a": 1.0, "gone": 1})
    storage.state_set("p", "b", (1, {"x": b"bytes"}))
    storage.state_delete("p", "gone")
    append(storage, "one")
    storage.checkpoint_save("p", "named", {"r": [float("inf")]})
    append(storage, "cut")
    storage.checkpoint_save("p", "cut too", 1)
    storage.checkpoint_clear_after("p", "000002:agent_turn")
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m1")
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "m1")
    assert set(record["metadata"]["checkpoints"]) == {"000000:agent_turn", "named"}
    elsewhere = open_cache("elsewhere").storage("p")
    assert elsewhere.get_state("p") == {"a": 1.0, "b": (1, {"x": b"bytes"})}
    assert elsewhere.checkpoint_get("p", "named") == {"r": [float("inf")]}
    assert elsewhere.checkpoint_get("p", "000000:agent_turn") == "one"
    storage.checkpoint_clear_all("p")
    storage.state_clear("p")
    storage.update_procedure_status("p", "RUNNING")
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("RUNNING", None)
    assert (remote_state(plexus, "p"), remote_results(plexus, "p")) == ({}, [])
