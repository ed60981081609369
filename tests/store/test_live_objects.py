"""Live objects: what a runtime does to the one object that it loaded, and what others do to the document meanwhile."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest
from conftest import OpenCache
from helpers import append, client_of, eventually, fast, remote_results, remote_state
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from processes import Process, ProcessError, opened
from pydantic import BaseModel

from plexus_tactus_cache import (
    CacheCorrupted,
    CheckpointEntry,
    PlexusStorageAdapter,
    ProcedureCache,
    ProcedureMetadata,
    RunSuperseded,
    SourceLocation,
)
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

Stored = Callable[[], Any]


@pytest.fixture
def storage(open_offline: OpenCache) -> PlexusStorageAdapter:
    return open_offline().storage("p")


@pytest.fixture
def stored(open_offline: OpenCache) -> Stored:
    """What somebody else finds in the same directory."""
    return lambda: open_offline().storage("p").load_procedure_metadata("p")


def entry(position: int, result: Any, **fields: Any) -> CheckpointEntry:
    at = dt.datetime(2026, 1, 1, 12, 30, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    return CheckpointEntry(position=position, type="agent_turn", result=result, timestamp=at, **fields)


def results(metadata: Any) -> list[Any]:
    return [one.result for one in metadata.execution_log]


# --- one process ------------------------------------------------------------------------------------------


def test_a_state_set_shows_in_the_object_and_survives_its_next_save(
    storage: PlexusStorageAdapter, stored: Stored
) -> None:
    live = storage.load_procedure_metadata("p")
    for number in range(5):
        storage.state_set("p", f"k{number}", number)
        assert live.state[f"k{number}"] == number
        append(storage, number)
    storage.state_delete("p", "k0")
    assert "k0" not in live.state
    append(storage, 5)
    assert storage.load_procedure_metadata("p") is live
    assert stored().state == live.state == {f"k{number}": number for number in range(1, 5)}
    assert results(stored()) == list(range(6))


def test_the_state_that_get_state_returns_is_the_objects(storage: PlexusStorageAdapter, stored: Stored) -> None:
    live = storage.load_procedure_metadata("p")
    state = storage.get_state("p")
    assert state is live.state
    storage.set_state("p", {"k": {"n": 1}})
    storage.state_clear("p")
    storage.state_set("p", "k", {"n": 1})
    assert storage.get_state("p") is state is live.state
    state["k"]["n"] = 2
    assert stored().state == {"k": {"n": 1}}
    storage.save_procedure_metadata(live)
    assert stored().state == {"k": {"n": 2}}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "nested dict": lambda state: state["dict"]["inner"].update(n=2),
    "nested list": lambda state: state["dict"]["list"].append({"x": 1}),
    "type int to float": lambda state: state.update(number=1.0),
    "type int to bool": lambda state: state.update(number=True),
    "nested type": lambda state: state["dict"]["inner"].update(n=1.0),
    "order of a list": lambda state: state["list"].reverse(),
    "list to tuple": lambda state: state.update(list=(3, 1, 2)),
    "model": lambda state: state["model"].items.append(3),
    "key gone": lambda state: state.pop("number"),
    "new key": lambda state: state.update(new=None),
    "key to None": lambda state: state.update(number=None),
    "all gone": lambda state: state.clear(),
    "set": lambda state: state["set"].add(3),
    "key renamed": lambda state: state.update({"renamed": state.pop("list")}),
}


class Model(BaseModel):
    """A value with a class."""

    items: list[int]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["state", "lua_state"])
def test_a_value_changed_in_place_is_noticed_at_the_next_save(
    storage: PlexusStorageAdapter, stored: Stored, part: str, change: str
) -> None:
    live = storage.load_procedure_metadata("p")
    getattr(live, part).update(
        dict={"inner": {"n": 1}, "list": []}, list=[3, 1, 2], number=1, model=Model(items=[1]), set={1}
    )
    storage.save_procedure_metadata("p", live)
    storage.save_procedure_metadata("p", live)
    CHANGES[change](getattr(live, part))
    storage.save_procedure_metadata("p", live)
    found = getattr(stored(), part)
    assert repr(found) == repr({key: getattr(live, part)[key] for key in found})  # types included
    assert set(found) == set(getattr(live, part))


def test_a_save_without_changes_is_no_new_version(open_offline: OpenCache) -> None:
    cache = open_offline()
    storage = cache.storage("p")
    append(storage, {"a": [1, 2.0]})
    storage.state_set("p", "model", Model(items=[1]))
    live = storage.load_procedure_metadata("p")
    storage.save_procedure_metadata(live)
    version = cache.procedures()[0].version
    storage.save_procedure_metadata(live)
    assert storage.load_procedure_metadata("p") is live
    storage.save_procedure_metadata("p", live)
    assert cache.procedures()[0].version == version


LOG_CHANGES: dict[str, Callable[[Any], object]] = {
    "replace the last": lambda live: live.execution_log.__setitem__(-1, entry(4, "new")),
    "replace one": lambda live: live.execution_log.__setitem__(1, entry(1, "new")),
    "replace some": lambda live: live.execution_log.__setitem__(slice(1, 3), [entry(1, "x"), entry(2, "y")]),
    "replace all, as a new run does": lambda live: [
        live.execution_log.__setitem__(at, entry(at, f"run {at}", run_id="other")) for at in range(5)
    ],
    "cut": lambda live: live.execution_log.__delitem__(slice(2, None)),
    "cut by a new list": lambda live: setattr(live, "execution_log", live.execution_log[:2]),
    "cut and append": lambda live: (live.execution_log.pop(), live.execution_log.append(entry(4, "new"))),
    "pop": lambda live: live.execution_log.pop(),
    "clear": lambda live: live.execution_log.clear(),
    "empty list": lambda live: setattr(live, "execution_log", []),
    "extend": lambda live: live.execution_log.extend([entry(5, "x"), entry(6, "y")]),
    "add": lambda live: setattr(live, "execution_log", [*live.execution_log, entry(5, "x")]),
    "add in place": lambda live: live.execution_log.__iadd__([entry(5, "x")]),
    "clear and append": lambda live: (live.execution_log.clear(), live.execution_log.append(entry(0, "first"))),
    "replace what was appended": lambda live: (
        live.execution_log.append(entry(5, None)),
        live.execution_log.__setitem__(5, entry(5, "answer")),
    ),
}


@pytest.mark.parametrize("change", LOG_CHANGES)
def test_what_is_done_to_the_log_is_stored(
    plexus: Simulator, open_cache: OpenCache, stored: Stored, change: str
) -> None:
    plexus.put("p")
    cache = open_cache()
    storage = cache.storage("p")
    for number in range(5):
        append(storage, {"n": number})
    live = storage.load_procedure_metadata("p")
    LOG_CHANGES[change](live)
    live.replay_index = len(live.execution_log)
    storage.save_procedure_metadata("p", live)
    assert results(stored()) == results(live)
    assert stored().replay_index == len(live.execution_log)
    append(storage, "afterwards")
    assert results(stored()) == results(live)
    assert cache.flush(10)
    assert remote_results(plexus, "p") == results(live)
    assert results(open_cache("elsewhere").storage("p").load_procedure_metadata("p")) == results(live)


def test_every_field_of_an_entry_comes_back(storage: PlexusStorageAdapter, stored: Stored) -> None:
    live = storage.load_procedure_metadata("p")
    whole = entry(
        0,
        {"a": (1, 2.0)},
        duration_ms=12.0,
        input_hash="abc",
        run_id="run",
        source_location=SourceLocation(file="a.tac", line=3, function="f", code_context="x = 1"),
        captured_vars={"k": {"n": [1]}, "none": None},
    )
    live.execution_log += [whole, entry(1, None)]
    storage.save_procedure_metadata(live)
    assert stored().execution_log == [whole, entry(1, None)]
    assert stored().execution_log[0].timestamp.isoformat() == whole.timestamp.isoformat()


class TheirEntry(BaseModel):
    """As Tactus's CheckpointEntry: another class with the same fields, and names in Lua's manner."""

    position: int
    type: str
    result: Any
    timestamp: dt.datetime
    duration_ms: float | None = None
    input_hash: str | None = None
    run_id: str | None = None
    source_location: Any = None
    captured_vars: dict[str, Any] | None = None


class TheirMetadata(BaseModel):
    """As Tactus's ProcedureMetadata."""

    procedure_id: str
    execution_log: list[TheirEntry] = []
    replay_index: int = 0
    state: dict[str, Any] = {}
    lua_state: dict[str, Any] = {}
    status: str = "RUNNING"
    waiting_on_message_id: str | None = None


def test_objects_of_another_class_with_the_same_fields(storage: PlexusStorageAdapter, stored: Stored) -> None:
    theirs = TheirMetadata(procedure_id="p", state={"k": 1})
    storage.save_procedure_metadata(theirs)
    assert storage.load_procedure_metadata("p") is theirs  # type: ignore[comparison-overlap]
    for number in range(3):
        theirs.execution_log.append(TheirEntry(**entry(number, number).model_dump()))
        theirs.replay_index = number + 1
        storage.save_procedure_metadata("p", theirs)
    theirs.execution_log[1] = TheirEntry(**entry(1, "replaced").model_dump())
    storage.save_procedure_metadata("p", theirs)
    found = stored()
    assert (results(found), found.state, found.replay_index) == ([0, "replaced", 2], {"k": 1}, 3)
    assert isinstance(found, ProcedureMetadata)


def test_two_adapters_of_one_document_share_its_object(
    plexus: Simulator, open_cache: OpenCache, tmp_path: Path
) -> None:
    plexus.put("p")
    one = PlexusStorageAdapter(client_of(plexus), "p", directory=tmp_path / "shared", settings=fast())
    two = PlexusStorageAdapter(client_of(plexus), "p", directory=str(tmp_path / "shared"))
    try:
        live = one.load_procedure_metadata("p")
        assert two.load_procedure_metadata("p") is live
        two.state_set("p", "two", 2)
        live.state["one"] = 1
        append(one, "first")
        append(two, "second")
        one.checkpoint_save("p", "named", 3)
        assert results(live) == ["first", "second", 3]
        assert two.get_state("p") == {"one": 1, "two": 2}
        eventually(lambda: remote_state(plexus, "p") == {"one": 1, "two": 2})
        eventually(lambda: len(remote_results(plexus, "p")) == 3)
    finally:
        one._cache.close(timeout=0)


def test_async_procedures_survive_a_new_process(storage: PlexusStorageAdapter, tmp_path: Path) -> None:
    live = storage.load_procedure_metadata("p")
    assert "async_procedures" not in live.__dict__
    live.__dict__["async_procedures"] = {"h1": {"status": "running", "started": 1.0}}
    append(storage, "one")
    live.__dict__["async_procedures"]["h1"]["status"] = "done"  # in place
    storage.save_procedure_metadata(live)
    read = "cache.storage('p').load_procedure_metadata('p').__dict__.get('async_procedures')"
    with Process(opened(tmp_path / "store")) as other:
        assert other.do(read) == {"h1": {"status": "done", "started": 1.0}}
        assert other.do("type(cache.storage('p').load_procedure_metadata('p').async_procedures['h1']['started'])") == (
            "<class 'float'>"
        )
        other.do("live = cache.storage('p').load_procedure_metadata('p')")
        other.do("live.__dict__['async_procedures']['h2'] = {'status': 'new'}")
        other.do("cache.storage('p').save_procedure_metadata(live)")
    assert set(storage.load_procedure_metadata("p").__dict__["async_procedures"]) == {"h1", "h2"}
    live.__dict__["async_procedures"] = {}
    storage.save_procedure_metadata(live)
    with Process(opened(tmp_path / "store")) as other:
        assert not other.do(read)


# --- two processes ----------------------------------------------------------------------------------------

LOAD = "storage = cache.storage('p'); live = storage.load_procedure_metadata('p')"
APPEND = (
    "live.execution_log.append(CheckpointEntry(position=len(live.execution_log), type='x', result={!r},"
    " timestamp=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))); live.replay_index = len(live.execution_log)"
)
SAVE = "storage.save_procedure_metadata(live)"
RESULTS = "[entry.result for entry in live.execution_log]"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    """Two processes with one directory open, both holding the live object of `p`, whose log is ["first"]."""
    with Process(opened(tmp_path / "store")) as one, Process(opened(tmp_path / "store")) as other:
        one.do(LOAD)
        one.do(APPEND.format("first"))
        one.do("live.state['k'] = 0")
        one.do(SAVE)
        other.do(LOAD)
        yield one, other


def test_state_set_in_two_processes_survives_in_both(two: tuple[Process, Process], stored: Stored) -> None:
    one, other = two
    for number in range(20):
        one.tell(f"storage.state_set('p', 'one {number}', {number})")
        other.tell(f"storage.state_set('p', 'other {number}', {number})")
        one.answer()
        other.answer()
    wanted = {"k": 0} | {f"{who} {number}": number for who in ("one", "other") for number in range(20)}
    assert stored().state == wanted
    for process in two:
        process.do("storage.save_procedure_metadata(live)")  # of an object that had not seen the other's
        assert process.do("storage.load_procedure_metadata('p').state") == wanted
        assert process.do("live.state") == wanted
    assert stored().state == wanted


def test_saves_merge_what_each_process_changed(two: tuple[Process, Process], stored: Stored) -> None:
    one, other = two
    one.do("live.state['k'] = 'one'; live.state['mine'] = 1; live.lua_state['l'] = 1")
    other.do("live.state['mine too'] = [1]; del live.state['k']; live.status = 'WAITING_FOR_HUMAN'")
    one.do(SAVE)
    other.do("del live.state['mine too']; live.state['mine too'] = [2]")
    other.do("storage.state_set('p', 'x', 1)")
    other.do(SAVE)
    found = stored()
    assert found.state == {"mine": 1, "mine too": [2], "x": 1}  # a deletion is a change like any other
    assert (found.lua_state, found.status) == ({"l": 1}, "WAITING_FOR_HUMAN")
    assert one.do("storage.load_procedure_metadata('p').state") == found.state


def test_a_log_that_went_on_differently_supersedes(
    two: tuple[Process, Process], stored: Stored, tmp_path: Path
) -> None:
    one, other = two
    one.do(APPEND.format("one's"))
    one.do(SAVE)
    other.do(APPEND.format("other's"))
    other.do("live.state['k'] = 'other'")
    for _ in range(2):
        with pytest.raises(ProcessError) as raised:
            other.do(SAVE)
        assert raised.value.kind == "RunSuperseded"
    assert results(stored()) == ["first", "one's"]
    assert stored().state == {"k": 0}
    one.do(APPEND.format("more of one's"))  # the one that was first goes on
    one.do(SAVE)
    assert results(stored()) == ["first", "one's", "more of one's"]
    other.do("cache.close()")
    other.do(opened(tmp_path / "store"))
    other.do(LOAD)
    other.do(APPEND.format("other's"))
    other.do(SAVE)
    assert results(stored()) == ["first", "one's", "more of one's", "other's"]


def test_a_cut_log_supersedes_a_run_that_goes_on(two: tuple[Process, Process], stored: Stored) -> None:
    one, other = two
    one.do("storage.checkpoint_clear_all('p')")
    other.do("live.state['k'] = 1")
    with pytest.raises(ProcessError, match="RunSuperseded"):
        other.do(SAVE)  # it ran under entries that are gone
    assert (results(stored()), stored().state) == ([], {"k": 0})


def test_a_process_that_only_changes_state_follows_a_log_that_grew(
    two: tuple[Process, Process], stored: Stored
) -> None:
    one, other = two
    one.do(APPEND.format("second"))
    one.do(SAVE)
    other.do("live.state['k'] = 1")
    other.do(SAVE)
    assert other.do(RESULTS) == results(stored()) == ["first", "second"]
    assert stored().state == {"k": 1}
    other.do(APPEND.format("third"))
    other.do(SAVE)
    assert results(stored()) == ["first", "second", "third"]


def test_named_checkpoints_and_status_of_two_processes(two: tuple[Process, Process], stored: Stored) -> None:
    one, other = two
    for number in range(5):
        one.do(f"storage.checkpoint_save('p', 'one {number}', {number})")
        other.do(f"storage.checkpoint_save('p', 'other {number}', {number})")
    other.do("storage.update_procedure_status('p', 'WAITING_FOR_HUMAN', 'm1')")
    one.do("storage.checkpoint_save('p', 'last', 1)")
    found = stored()
    assert len(found.execution_log) == 12
    assert [at.position for at in found.execution_log] == list(range(12))
    assert (found.status, found.waiting_on_message_id) == ("WAITING_FOR_HUMAN", "m1")
    assert one.do("storage.checkpoint_get('p', 'other 4')") == 4
    assert one.do("live.status") == "WAITING_FOR_HUMAN"


def test_an_entry_replaced_in_two_processes(two: tuple[Process, Process], stored: Stored) -> None:
    one, other = two
    replaced = "live.execution_log[0] = CheckpointEntry(**dict(live.execution_log[0], result={!r}))"
    one.do(replaced.format("one's"))
    one.do(SAVE)
    other.do(replaced.format("other's"))
    with pytest.raises(ProcessError, match="RunSuperseded"):
        other.do(SAVE)
    assert results(stored()) == ["one's"]


def test_two_caches_in_one_process_are_as_two_processes(open_offline: OpenCache) -> None:
    one, other = open_offline().storage("p"), open_offline().storage("p")
    append(one, "first")
    mine, theirs = one.load_procedure_metadata("p"), other.load_procedure_metadata("p")
    assert mine is not theirs
    append(one, "second")
    theirs.execution_log.append(entry(1, "other's"))
    with pytest.raises(RunSuperseded, match=r"'p'.*its log is in the conflict journal"):
        other.save_procedure_metadata(theirs)
    assert results(mine) == ["first", "second"]


def test_a_superseded_run_is_not_told_of_a_journal_that_has_nothing(open_offline: OpenCache) -> None:
    mine, theirs = open_offline(), open_offline()
    append(mine.storage("p"), "first")
    live = mine.storage("p").load_procedure_metadata("p")
    theirs.storage("p").checkpoint_clear_all("p")  # by intent, so nothing is set aside
    live.state["k"] = 1
    with pytest.raises(RunSuperseded, match="its log had been stored"):
        mine.storage("p").save_procedure_metadata(live)
    assert mine.conflicts() == mine.conflicts(resolved=True) == []


# --- a store that holds something else --------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled_value(marker: Path) -> tuple[str, tuple[Any, ...]]:
    return "UPDATE Cache SET mode = ?, value = ? WHERE key LIKE ?", (
        diskcache.core.MODE_PICKLE,
        sqlite3.Binary(pickle.dumps(Bomb(marker))),
        "%/p%",
    )


def pickled_value_said_to_be_raw(marker: Path) -> tuple[str, tuple[Any, ...]]:
    return "UPDATE Cache SET value = ? WHERE key LIKE ?", (sqlite3.Binary(pickle.dumps(Bomb(marker))), "%/p%")


def pickled_key(marker: Path) -> tuple[str, tuple[Any, ...]]:
    return (
        "INSERT INTO Cache (key, raw, store_time, access_time, size, mode, value) VALUES (?, 0, 0, 0, 0, ?, ?)",
        (
            sqlite3.Binary(pickle.dumps(Bomb(marker))),
            diskcache.core.MODE_PICKLE,
            sqlite3.Binary(pickle.dumps(Bomb(marker))),
        ),
    )


@pytest.mark.parametrize("plant", [pickled_value, pickled_value_said_to_be_raw, pickled_key])
def test_pickled_rows_are_never_executed(
    plexus: Simulator, open_cache: OpenCache, tmp_path: Path, plant: Callable[[Path], tuple[str, tuple[Any, ...]]]
) -> None:
    plexus.put("p")
    plexus.put("q")
    cache = open_cache(background=False)
    for procedure_id in ("p", "q"):
        cache.storage(procedure_id).state_set(procedure_id, "k", 1)
        append(cache.storage(procedure_id), "one")
    cache.close()
    marker = tmp_path / "executed"
    statement, values = plant(marker)
    with sqlite3.connect(tmp_path / "store" / DATABASE) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()

    again = open_cache(background=False)
    intact = plant is pickled_key  # it is nobody's row
    for use in (
        lambda: again.storage("p").load_procedure_metadata("p"),
        lambda: again.storage("p").state_set("p", "k", 2),
    ):
        if intact:
            use()
        else:
            with pytest.raises(CacheCorrupted):
                use()
    again.status()
    damage = {one.procedure_id: one.parked_reason for one in again.procedures()}
    assert again.flush(5) is intact
    assert (damage["p"] is None) is intact
    assert damage["q"] is None
    assert not marker.exists()
    assert again.storage("q").get_state("q") == {"k": 1}


# --- any sequence of calls --------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 1, 1.0, True, "x", [], [1, {"n": 2.0}], {"n": 1}, {"n": {"m": []}}]
)


class Sequence(RuleBasedStateMachine):
    """A document under any sequence of calls is what a dict and a list would be; reopening it shows that."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: ProcedureCache | None = None
        self.state: dict[str, Any] = {}
        self.log: list[Any] = []
        self.names: list[str | None] = []
        self.unsaved = False

    directories: Iterator[Path]

    @initialize()
    def open(self) -> None:
        self.place = next(self.directories)
        self.cache = ProcedureCache(None, self.place, fast(durability="normal"))

    @property
    def storage(self) -> PlexusStorageAdapter:
        assert self.cache is not None
        return self.cache.storage("p")

    @rule(key=KEYS, value=VALUES)
    def state_set(self, key: str, value: Any) -> None:
        self.storage.state_set("p", key, value)
        self.state[key] = value

    @rule(key=KEYS)
    def state_delete(self, key: str) -> None:
        self.storage.state_delete("p", key)
        self.state.pop(key, None)

    @rule(state=st.dictionaries(KEYS, VALUES))
    def set_state(self, state: dict[str, Any]) -> None:
        self.storage.set_state("p", dict(state))
        self.state = dict(state)
        self.unsaved = False

    @rule(key=KEYS, value=VALUES)
    def change_in_place(self, key: str, value: Any) -> None:
        self.storage.get_state("p")[key] = value
        self.state[key] = value
        self.unsaved = True

    @rule(result=VALUES)
    def append(self, result: Any) -> None:
        append(self.storage, result)
        self.log.append(result)
        self.names.append(None)
        self.unsaved = False

    @precondition(lambda self: self.log)
    @rule(data=st.data(), result=VALUES)
    def replace(self, data: st.DataObject, result: Any) -> None:
        position = data.draw(st.integers(0, len(self.log) - 1))
        live = self.storage.load_procedure_metadata("p")
        live.execution_log[position] = entry(position, result)
        self.storage.save_procedure_metadata(live)
        self.log[position], self.names[position] = result, None
        self.unsaved = False

    @rule(name=KEYS, result=VALUES)
    def checkpoint_save(self, name: str, result: Any) -> None:
        self.storage.checkpoint_save("p", name, result)
        if name in self.names:
            self.log[self.names.index(name)] = result
        else:
            self.log.append(result)
            self.names.append(name)
        self.unsaved = False

    @rule(name=KEYS)
    def checkpoint_clear_after(self, name: str) -> None:
        self.storage.checkpoint_clear_after("p", name)
        if name in self.names:
            position = self.names.index(name)
            del self.log[position:], self.names[position:]
        self.unsaved = False

    @rule()
    def checkpoint_clear_all(self) -> None:
        self.storage.checkpoint_clear_all("p")
        self.log, self.names = [], []
        self.unsaved = False

    @rule()
    def a_copy_replaces_the_document(self) -> None:
        live = self.storage.load_procedure_metadata("p")
        self.storage.save_procedure_metadata(live.model_copy(deep=True))
        self.unsaved = False

    @precondition(lambda self: not self.unsaved)
    @rule()
    def somebody_else_writes(self) -> None:
        with ProcedureCache(None, self.place, fast(durability="normal")) as other:
            other.storage("p").state_set("p", "other", len(self.log))
            other.storage("p").checkpoint_save("p", "other", 1)
        self.state["other"] = len(self.log)
        if "other" in self.names:
            self.log[self.names.index("other")] = 1
        else:
            self.log.append(1)
            self.names.append("other")

    @precondition(lambda self: not self.unsaved)
    @rule()
    def reopen(self) -> None:
        assert self.cache is not None
        self.cache.close()
        self.cache = ProcedureCache(None, self.place, fast(durability="normal"))

    @invariant()
    def it_is_as_the_model(self) -> None:
        if self.cache is None:
            return
        live = self.storage.load_procedure_metadata("p")
        assert repr(sorted(live.state.items())) == repr(sorted(self.state.items()))
        assert repr(results(live)) == repr(self.log)
        for name in ("a", "b", "c"):
            assert self.storage.checkpoint_exists("p", name) == (name in self.names)

    def teardown(self) -> None:
        if self.cache is not None:
            self.cache.close()


def test_any_sequence_of_calls(tmp_path: Path) -> None:
    Sequence.directories = (tmp_path / str(number) for number in itertools.count())
    run_state_machine_as_test(
        Sequence,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("change", ["front", "swap"])
def test_entries_that_moved_keep_their_order_everywhere(
    plexus: Simulator, open_cache: OpenCache, stored: Stored, change: str
) -> None:
    plexus.put("p")
    cache = open_cache()
    storage = cache.storage("p")
    for number in range(3):
        append(storage, number)
    live = storage.load_procedure_metadata("p")
    if change == "front":
        del live.execution_log[0]
    else:
        live.execution_log.reverse()
    storage.save_procedure_metadata("p", live)
    assert results(stored()) == results(live)
    assert cache.flush(10)
    elsewhere = open_cache("elsewhere")
    assert results(elsewhere.storage("p").load_procedure_metadata("p")) == results(live)
    assert elsewhere.status().parked == 0


def test_an_entry_that_was_loaded_can_be_changed_as_any_other(storage: PlexusStorageAdapter, stored: Stored) -> None:
    append(storage, "one")
    loaded = stored().execution_log[0]
    assert loaded.model_copy(update={"result": 2}).result == 2
    loaded.result = 3
    assert loaded.result == 3
