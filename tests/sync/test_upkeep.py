"""What a store lets go of: what Plexus has, or what somebody gives up. Whoever still holds it loses nothing."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import OpenCache
from helpers import append, eventually, fast, remote_results, remote_state

from plexus_tactus_cache import (
    OFFLINE,
    InvalidArgument,
    ProcedureCache,
    ProcedureNotFound,
    RemoteUnavailable,
    StillNeeded,
    StoreFull,
)
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

DAY = 86_400.0


def filled(cache: ProcedureCache, *names: str) -> None:
    for name in names:
        cache.storage(name).state_set(name, "k", name)
        append(cache.storage(name), f"step of {name}")


def aged(cache: ProcedureCache, name: str, seconds: float = 10 * DAY) -> None:
    """As if it had been written so long ago."""
    connection = sqlite3.connect(cache.directory / DATABASE)
    with connection:
        changed = connection.execute(
            "UPDATE Cache SET store_time = store_time - ? WHERE key = ?", (seconds, f"doc/{name}")
        )
        assert changed.rowcount == 1
    connection.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a document that was pushed is looked at once more, and that at once."""
    monkeypatch.setattr("plexus_tactus_cache.sync.push.LOOK_AFTER", 0.05)


def pushed(cache: ProcedureCache) -> bool:
    """Wait until all is in Plexus, and was looked at once more."""

    def rests() -> bool:
        connection = sqlite3.connect(cache.directory / DATABASE)
        try:
            return connection.execute("SELECT 1 FROM Cache WHERE key LIKE 'outbox/%'").fetchone() is None
        finally:
            connection.close()

    done = cache.flush(60)
    eventually(lambda: cache.sync(60) and rests())
    return done


def ids(cache: ProcedureCache) -> list[str]:
    return [one.procedure_id for one in cache.procedures()]


# --- forget -----------------------------------------------------------------------------------------------


def test_what_is_forgotten_is_read_again(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={})
    cache = open_cache()
    filled(cache, "p")
    assert pushed(cache)
    cache.forget("p")
    assert ids(cache) == []
    plexus.put("p", metadata={**(plexus.record("p") or {})["metadata"], "state": {"k": "theirs"}})
    assert cache.storage("p").get_state("p") == {"k": "theirs"}
    assert ids(cache) == ["p"]


def test_what_plexus_does_not_have_is_not_forgotten_unless_it_is_discarded(open_offline: OpenCache) -> None:
    cache = open_offline()
    filled(cache, "p", "other")
    with pytest.raises(StillNeeded, match=r"'p'.*not all of it is in Plexus") as raised:
        cache.forget("p")
    assert raised.value.procedure_id == "p"
    assert ids(cache) == ["other", "p"]
    cache.forget("p", discard=True)
    assert ids(cache) == ["other"]
    with pytest.raises(ProcedureNotFound):
        cache.forget("p")
    assert cache.status().dirty == 1


def test_what_is_parked_is_not_forgotten(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(on_unreachable="empty")
    filled(cache, "p")  # Plexus has no such record
    eventually(lambda: cache.status().parked == 1)
    with pytest.raises(StillNeeded, match="parked"):
        cache.forget("p")
    assert cache.gc(older_than=0).forgotten == ()
    assert ids(cache) == ["p"]


def test_what_has_an_open_conflict_is_not_forgotten(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={})
    cache = open_cache(background=False)
    storage = cache.storage("p")
    storage.state_set("p", "k", "before")
    assert cache.flush(60)
    plexus.put("p", metadata={**(plexus.record("p") or {})["metadata"], "state": {"k": "theirs"}})
    storage.state_set("p", "k", "ours")
    assert cache.flush(60)
    (conflict,) = cache.conflicts()
    with pytest.raises(StillNeeded, match="conflict"):
        cache.forget("p")
    assert cache.gc(older_than=0).forgotten == ()
    cache.resolve(conflict.id, "local")
    assert pushed(cache)
    cache.forget("p")
    assert ids(cache) == []


# --- whoever holds it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", [True, False])
def test_a_run_whose_document_was_forgotten_goes_on(plexus: Simulator, open_cache: OpenCache, online: bool) -> None:
    plexus.put("p", metadata={})
    cache = open_cache(load_timeout=2.0 if online else 0.2, max_backoff=0.5)
    storage = cache.storage("p")
    filled(cache, "p")
    live = storage.load_procedure_metadata("p")
    live.lua_state["l"] = 1
    storage.save_procedure_metadata(live)
    assert pushed(cache)
    cache.forget("p")
    if not online:
        plexus.fail("refuse")
    live.state["in place"] = True
    append(storage, "second step")
    assert storage.load_procedure_metadata("p") is live
    assert storage.get_state("p") == {"k": "p", "in place": True}
    plexus.heal()
    assert cache.flush(60)
    assert remote_results(plexus, "p") == ["step of p", "second step"]
    assert remote_state(plexus, "p") == {"k": "p", "in place": True}
    assert cache.conflicts() == []
    with ProcedureCache(OFFLINE, cache.directory, fast()) as other:
        found = other.storage("p").load_procedure_metadata("p")
        assert [entry.result for entry in found.execution_log] == ["step of p", "second step"]
        assert found.lua_state == {"l": 1}


CALLS = {
    "load": lambda storage: storage.load_procedure_metadata("p"),
    "state": lambda storage: storage.get_state("p"),
    "state_set": lambda storage: storage.state_set("p", "new", 1),
    "status": lambda storage: storage.update_procedure_status("p", "RUNNING"),
    "checkpoint_save": lambda storage: storage.checkpoint_save("p", "a", 1),
    "checkpoint_get": lambda storage: storage.checkpoint_get("p", "a"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("online", [True, False])
def test_any_call_after_it_was_forgotten(
    plexus: Simulator, open_cache: OpenCache, call: str, held: bool, online: bool
) -> None:
    """By another process, say."""
    plexus.put("p", metadata={})
    cache = open_cache(load_timeout=2.0 if online else 0.2, max_backoff=0.5)
    storage = cache.storage("p")
    filled(cache, "p")
    assert pushed(cache)
    live = storage.load_procedure_metadata("p") if held else None
    with ProcedureCache(OFFLINE, cache.directory, fast()) as other:
        other.forget("p")
    if not held:
        storage._object = None
        cache.documents._recent.clear()  # as time does
    if not online:
        plexus.fail("refuse")
    if held or online:
        CALLS[call](storage)
        found = storage.load_procedure_metadata("p")
        assert live is None or found is live
        assert [entry.result for entry in found.execution_log][:1] == ["step of p"]
        assert found.state["k"] == "p"
    else:  # an empty document would be taken for the whole
        with pytest.raises(RemoteUnavailable, match="was forgotten here, Plexus has it"):
            CALLS[call](storage)
        plexus.heal()
        CALLS[call](storage)
    plexus.heal()
    assert cache.flush(60)
    assert remote_results(plexus, "p")[:1] == ["step of p"]
    assert remote_state(plexus, "p")["k"] == "p"
    assert cache.conflicts() == []


@pytest.mark.parametrize("metadata", [[1, 2], {"state": {"_s3_key": "procedures/p/missing.json"}}])
def test_a_record_that_cannot_be_used_does_not_empty_what_a_run_holds(
    plexus: Simulator, open_cache: OpenCache, metadata: object
) -> None:
    plexus.put("p", metadata={})
    cache = open_cache()
    storage = cache.storage("p")
    filled(cache, "p")
    live = storage.load_procedure_metadata("p")
    assert pushed(cache)
    cache.forget("p")
    plexus.put("p", metadata=metadata)
    found = storage.load_procedure_metadata("p")
    assert found is live
    assert found.state == {"k": "p"}
    assert [entry.result for entry in found.execution_log] == ["step of p"]


def test_a_log_that_was_reset_while_it_was_forgotten_is_noticed(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={})
    cache = open_cache()
    storage = cache.storage("p")
    filled(cache, "p")
    live = storage.load_procedure_metadata("p")
    assert pushed(cache)
    cache.forget("p")
    plexus.put("p", metadata={"state": {"k": "new run"}})
    found = storage.load_procedure_metadata("p")
    assert found.state["k"] == "new run"
    assert list(found.execution_log) == []
    assert found is not live


def test_what_removes_something_of_a_forgotten_procedure_needs_plexus(plexus: Simulator, open_cache: OpenCache) -> None:
    """Without what Plexus has, nobody would know later that it was removed."""
    plexus.put("p", metadata={})
    cache = open_cache(load_timeout=0.2, max_backoff=0.5)
    storage = cache.storage("p")
    filled(cache, "p")
    live = storage.load_procedure_metadata("p")
    assert pushed(cache)
    cache.forget("p")
    plexus.fail("refuse")
    calls: tuple[Callable[[], None], ...] = (
        lambda: storage.checkpoint_clear_all("p"),
        lambda: storage.state_delete("p", "k"),
        lambda: storage.state_clear("p"),
    )
    for call in calls:
        with pytest.raises(RemoteUnavailable):
            call()
    assert live.state == {"k": "p"}
    plexus.heal()
    storage.state_delete("p", "k")
    storage.checkpoint_clear_all("p")
    assert cache.flush(60)
    assert remote_state(plexus, "p") == {}
    assert remote_results(plexus, "p") == []
    assert live.state == {}


def test_an_adapter_that_only_read_it_sees_it_again(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={})
    with open_cache("one") as cache:
        filled(cache, "p")
        assert pushed(cache)
    cache = open_cache("one")
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    cache.forget("p")
    plexus.reset_counters()
    assert storage.load_procedure_metadata("p") is live
    assert live.state == {"k": "p"}
    assert plexus.requests == 1


def test_a_push_under_way_does_not_confirm_what_came_after_it_was_discarded(
    plexus: Simulator, open_cache: OpenCache
) -> None:
    plexus.put("p", metadata={})
    cache = open_cache(background=False)
    storage = cache.storage("p")
    filled(cache, "p")
    assert pushed(cache)
    append(storage, "second")

    def discarded() -> None:
        plexus.before_mutation = None
        with ProcedureCache(OFFLINE, cache.directory, fast()) as other:
            other.forget("p", discard=True)
            other.storage("p").state_set("p", "new", 1)

    plexus.before_mutation = lambda *_: discarded()
    cache.sync(60)
    assert cache.flush(60)
    assert remote_results(plexus, "p") == ["step of p", "second"]
    assert remote_state(plexus, "p") == {"k": "p", "new": 1}


def test_what_plexus_does_not_have_as_it_was_left_is_not_forgotten(plexus: Simulator, open_cache: OpenCache) -> None:
    for name in ("deleted", "changed"):
        plexus.put(name, metadata={})
    cache = open_cache()
    filled(cache, "deleted", "changed")
    assert pushed(cache)
    plexus.delete("deleted")
    plexus.put("changed", metadata={})
    for name in ("deleted", "changed"):
        with pytest.raises(StillNeeded, match="not as it was left"):
            cache.forget(name)
        aged(cache, name)
    assert cache.gc(older_than=DAY).forgotten == ()
    assert ids(cache) == ["changed", "deleted"]


# --- gc and retention -------------------------------------------------------------------------------------


def test_gc_forgets_what_is_old_and_clean(plexus: Simulator, open_cache: OpenCache) -> None:
    for name in ("old", "new", "changed"):
        plexus.put(name, metadata={})
    cache = open_cache(background=False)
    filled(cache, "old", "new", "changed")
    assert pushed(cache)
    cache.storage("changed").state_set("changed", "k", "again")
    for name in ("old", "changed"):
        aged(cache, name)
    assert cache.gc().forgotten == ()  # without a retention, none
    report = cache.gc(older_than=5 * DAY)
    assert report.forgotten == ("old",)
    assert report.store_bytes == cache.status().store_bytes
    assert ids(cache) == ["changed", "new"]
    with pytest.raises(InvalidArgument, match="older_than"):
        cache.gc(older_than=-1)


def test_the_leader_keeps_to_the_retention(plexus: Simulator, open_cache: OpenCache) -> None:
    for name in ("old", "new"):
        plexus.put(name, metadata={})
    with open_cache("store") as cache:
        filled(cache, "old", "new")
        assert pushed(cache)
        aged(cache, "old")
    cache = open_cache("store", retention=5 * DAY)
    eventually(lambda: ids(cache) == ["new"])


def test_forget_and_gc_on_the_command_line(
    plexus: Simulator, open_cache: OpenCache, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("old", "new"):
        plexus.put(name, metadata={})
    cache = open_cache("store")
    filled(cache, "old", "new")
    assert pushed(cache)
    aged(cache, "old")
    cache.storage("new").state_set("new", "k", 2)
    cache.close(0)
    directory = ["--directory", str(cache.directory)]
    assert main(["gc", "--older-than", "5", *directory]) == 0
    assert "1 procedures are forgotten" in capsys.readouterr().out
    assert main(["forget", "missing", *directory]) == 1
    assert "missing" in capsys.readouterr().err


# --- a size above which writes are refused ----------------------------------------------------------------


def test_a_store_that_may_hold_no_more(open_offline: OpenCache, caplog: pytest.LogCaptureFixture) -> None:
    cache = open_offline(max_store_bytes=1_000_000, durability="normal")
    storage = cache.storage("p")
    held = 0
    with pytest.raises(StoreFull, match=r"max_store_bytes"), caplog.at_level(logging.WARNING):
        for held in range(100):
            storage.state_set("p", f"k{held}", "x" * 50_000)
    assert 10 < held < 25
    assert sum("of the 1000000 bytes" in record.getMessage() for record in caplog.records) == 1
    assert len(storage.get_state("p")) == held
    storage.update_procedure_status("p", "WAITING")  # what needs no room, and what makes some, is stored
    for number in range(held):
        storage.state_delete("p", f"k{number}")
    assert storage.get_state("p") == {}


def test_what_comes_from_plexus_has_room(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p", metadata={"state": {"k": "x" * 200_000}})
    cache = open_cache(max_store_bytes=100_000)
    storage = cache.storage("p")
    assert len(storage.get_state("p")["k"]) == 200_000
    with pytest.raises(StoreFull):
        storage.state_set("p", "more", 1)
