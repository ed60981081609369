"""Interrupts at any moment of any public write: it is wholly there or not at all, and everything goes on."""

from __future__ import annotations

import datetime as dt
import gc
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, fast, remote_state
from interrupts import interrupted, unmeasured
from processes import Process, opened

from plexus_tactus_cache import CheckpointEntry, PlexusStorageAdapter, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

Picture = tuple[list[Any], dict[str, Any], dict[str, Any], str, int, str | None]
Call = Callable[[PlexusStorageAdapter, int], object]


def picture(live: Any) -> Picture:
    results = [(getattr(entry, "name", None), entry.result) for entry in live.execution_log]
    return results, dict(live.state), dict(live.lua_state), live.status, live.replay_index, live.waiting_on_message_id


def save(storage: PlexusStorageAdapter, number: int) -> None:
    """Saves what `prepare_save` did to the object."""
    storage.save_procedure_metadata("p", storage.load_procedure_metadata("p"))


def prepare_save(storage: PlexusStorageAdapter, number: int) -> None:
    """What a runtime does before it saves: an entry, a value changed in place."""
    live = storage.load_procedure_metadata("p")
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    position = len(live.execution_log)
    live.execution_log.append(
        CheckpointEntry(
            position=position, type="x", result=number, timestamp=at, run_id="r", captured_vars={"n": number}
        )
    )
    live.replay_index = position + 1
    live.state["list"] = [number]
    live.lua_state["l"] = number


def prepare_log(storage: PlexusStorageAdapter, number: int) -> None:
    storage.checkpoint_save("p", "a", 1)
    storage.checkpoint_save("p", "b", 2)


def nothing(storage: PlexusStorageAdapter, number: int) -> None:
    """Nothing to prepare."""


CALLS: dict[str, tuple[Call, Call]] = {
    "state_set": (nothing, lambda storage, number: storage.state_set("p", "k", [number])),
    "state_delete": (
        lambda storage, number: storage.state_set("p", "gone", number),
        lambda storage, number: storage.state_delete("p", "gone"),
    ),
    "set_state": (
        lambda storage, number: storage.set_state("p", {"k": 0, "old": 1}),
        lambda storage, number: storage.set_state("p", {"k": number, "new": [number]}),
    ),
    "checkpoint_save": (nothing, lambda storage, number: storage.checkpoint_save("p", f"c{number}", number)),
    "checkpoint_save in place": (prepare_log, lambda storage, number: storage.checkpoint_save("p", "a", [number])),
    "checkpoint_clear_after": (prepare_log, lambda storage, number: storage.checkpoint_clear_after("p", "b")),
    "checkpoint_clear_all": (prepare_log, lambda storage, number: storage.checkpoint_clear_all("p")),
    "update_procedure_status": (
        nothing,
        lambda storage, number: storage.update_procedure_status("p", f"WAITING {number}", str(number)),
    ),
    "save_procedure_metadata": (prepare_save, save),
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ProcedureCache]:
    with ProcedureCache(None, tmp_path / "store", fast(durability="normal")) as opened_:
        yield opened_


@pytest.fixture
def other(tmp_path: Path, cache: ProcedureCache) -> Iterator[ProcedureCache]:
    """As another process has it."""
    with ProcedureCache(None, tmp_path / "store", fast(durability="normal", lock_timeout=5)) as opened_:
        yield opened_


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_every_place_of_a_write(cache: ProcedureCache, other: ProcedureCache, name: str) -> None:
    prepare, call = CALLS[name]
    storage, referee = cache.storage("p"), other.storage("p")
    held = storage.load_procedure_metadata("p")
    for at in itertools.count(1):
        if len(held.execution_log) > 20:
            storage.checkpoint_clear_all("p")
        prepare(storage, at)
        before = picture(referee.load_procedure_metadata("p"))
        reached = interrupted(lambda: call(storage, at), at)  # noqa: B023 - it is called before the next round
        after = picture(referee.load_procedure_metadata("p"))
        again = at % 2 == 0  # the same call once more, or another one that must not apply what did not happen
        if again:
            call(storage, at)
        else:
            storage.state_set("p", "other", at)
        now = picture(referee.load_procedure_metadata("p"))
        if name == "save_procedure_metadata" and not again:
            assert after[0] in (before[0], picture(held)[0]), at
            call(storage, at)  # what its holder did to the object is still to be saved
            now = picture(referee.load_procedure_metadata("p"))
        elif not again:
            happened = after != before
            assert now[0] == after[0], (at, "the log was changed by another call")
            assert {**now[1], "other": None} == {**after[1], "other": None}, (at, happened)
        assert now == picture(storage.load_procedure_metadata("p")), at
        assert now == picture(held), at
        referee.state_set("p", "theirs", at)  # nobody else is blocked
        assert storage.state_get("p", "theirs") == at
        if not reached:
            break
    assert at > 50


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("others", [False, True], ids=["saved next", "changed elsewhere, then saved"])
def test_a_save_after_an_interrupt_at_every_place_undoes_nothing(
    cache: ProcedureCache, other: ProcedureCache, name: str, others: bool
) -> None:
    """What the interrupted call has shown of what it stored is no change of the object's holder, who saves it next."""
    prepare, call = CALLS[name]
    storage, referee = cache.storage("p"), other.storage("p")
    held = storage.load_procedure_metadata("p")
    for at in itertools.count(1):
        if len(held.execution_log) > 20:
            storage.checkpoint_clear_all("p")
        prepare(storage, at)
        reached = interrupted(lambda: call(storage, at), at)  # noqa: B023 - it is called before the next round
        if others:
            change_elsewhere(referee, at)
        before = picture(referee.load_procedure_metadata("p"))
        storage.save_procedure_metadata("p", held)
        now = picture(referee.load_procedure_metadata("p"))
        assert now == picture(held), at
        if name != "save_procedure_metadata":  # which has something to save
            assert now == before, at
        if not reached:
            break
    assert not cache.conflicts()
    assert not other.conflicts()
    assert at > 50


def change_elsewhere(storage: PlexusStorageAdapter, number: int) -> None:
    """What `CALLS` change, but the log and the keys that `prepare_save` changes."""
    storage.update_procedure_status("p", f"ELSEWHERE {number}", f"theirs {number}")
    for key in ("k", "old", "new", "gone"):
        storage.state_set("p", key, f"theirs {number}")


def test_an_interrupt_at_every_place_of_a_creation(cache: ProcedureCache, other: ProcedureCache) -> None:
    for at in itertools.count(1):
        count = len(other.procedures())
        reached = interrupted(lambda: cache.create_procedure(account_id="a", name="n"), at)
        assert len(other.procedures()) - count in (0, 1)
        made = cache.create_procedure(account_id="a", name="n")
        assert made in {one.procedure_id for one in other.procedures()}
        if not reached:
            break


def test_an_interrupt_at_every_place_of_a_first_load(tmp_path: Path) -> None:
    with ProcedureCache(None, tmp_path / "store", fast(durability="normal")) as cache:
        append(cache.storage("p"), "one")
        cache.storage("p").state_set("p", "k", 1)
    for at in itertools.count(1):
        with ProcedureCache(None, tmp_path / "store", fast(durability="normal")) as cache:
            storage = cache.storage("p")
            reached = interrupted(lambda: storage.load_procedure_metadata("p"), at)  # noqa: B023 - it is called before the next round
            assert picture(storage.load_procedure_metadata("p"))[:2] == ([(None, "one")], {"k": 1})
        if not reached:
            break


class Stop(Exception):
    """What the handler of Plexus's runner raises (plexus-facts.md §6)."""


def test_a_storm_of_raising_signals_while_threads_write_and_sync(
    plexus: Simulator, open_cache: OpenCache, tmp_path: Path
) -> None:
    for name in ("main", "t0", "t1"):
        plexus.put(name)
    cache = open_cache(durability="normal")
    main, stop = cache.storage("main"), threading.Event()
    acknowledged: dict[str, int] = {}

    def write(name: str) -> None:
        storage = cache.storage(name)
        for number in itertools.count():
            if stop.is_set():
                return
            storage.state_set(name, "n", number)
            acknowledged[name] = number

    def raise_stop(number: int, frame: object) -> None:
        if armed.is_set():
            armed.clear()
            raise Stop

    def kill() -> None:
        while not stop.wait(random.uniform(0.0005, 0.03)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    armed = threading.Event()
    threads = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(2)]
    killer = threading.Thread(target=kill)
    before = signal.signal(signal.SIGUSR1, raise_stop)
    gc.disable()  # see interrupts.py
    for thread in (*threads, killer):
        thread.start()
    number, hits, deadline = 0, 0, time.monotonic() + 3  # the length of the storm
    with unmeasured():
        while time.monotonic() < deadline:
            try:
                armed.set()
                main.state_set("main", "n", number)
                acknowledged["main"] = number
                main.checkpoint_save("main", "c", number)
                acknowledged["c"] = number
                number += 1
                armed.clear()
            except Stop:
                hits += 1
    stop.set()
    gc.enable()
    for thread in (*threads, killer):
        thread.join()
    signal.signal(signal.SIGUSR1, before)
    assert hits > 20
    with Process(opened(tmp_path / "store")) as referee:
        for name in ("main", "t0", "t1"):
            found = referee.do(f"cache.storage({name!r}).state_get({name!r}, 'n')")
            assert acknowledged[name] <= found <= acknowledged[name] + 1, name
        found = referee.do("cache.storage('main').checkpoint_get('main', 'c')")
        assert acknowledged["c"] <= found <= acknowledged["c"] + 1
    main.state_set("main", "last", True)
    assert cache.flush(60)
    assert remote_state(plexus, "main")["last"] is True
    with ProcedureCache(client_of(plexus), tmp_path / "store", fast()) as again:
        assert again.storage("main").state_get("main", "last") is True
