"""Wrong arguments, of every public method: an error that names them, at once, and nothing is changed by it."""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, fast, remote_state

from plexus_tactus_cache import (
    OFFLINE,
    CacheSettings,
    CheckpointEntry,
    InvalidArgument,
    PlexusClient,
    PlexusStorageAdapter,
    ProcedureCache,
    ProcedureMetadata,
    SourceLocation,
    StorageError,
    ValueNotSerializable,
    WrongType,
)
from plexus_tactus_cache.testing.simulator import Simulator

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = "payload-of-somebody"  # in what is refused, and never in an error


class Waiting(enum.StrEnum):
    """A status that is a str and more."""

    HUMAN = "WAITING_FOR_HUMAN"


class Plain(enum.Enum):
    """A status that is no str; JSON makes one of it."""

    RUNNING = "RUNNING"


def cyclic() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def run(**changes: Any) -> Any:
    """What an ExecutionRun of Tactus is found by."""
    return SimpleNamespace(**{"run_id": "r", "procedure_name": "n", "start_time": AT, **changes})


# --- what is wrong ----------------------------------------------------------------------------------------

SURROGATE = {"a lone surrogate": f"{SECRET}\ud800"}
NO_TEXT: dict[str, Any] = {
    "a number": 3,
    "bytes": SECRET.encode(),
    "a list": [SECRET],
    "True": True,
    "NaN": float("nan"),
}
NONE = {"None": None}
TEXT = {**SURROGATE, **NO_TEXT, **NONE, "too long": SECRET + "x" * 70_000}
OPTIONAL_TEXT = {name: value for name, value in TEXT.items() if name != "None"}
ID = {**TEXT, "too long for S3": "x" * 901, "too long for S3, encoded": "é" * 151}
STATUS = {**TEXT, "too long to be indexed": "x" * 1025}
MESSAGE = {name: value for name, value in STATUS.items() if name != "None"}
KEY = {
    **SURROGATE,
    "a list": [SECRET],
    "a dict": {},
    "an object": object(),
    "a tuple of a list": ([],),
    "too long": "x" * 70_000,
}
SECONDS: dict[str, Any] = {
    "text": SECRET,
    "True": True,
    "NaN": float("nan"),
    "negative": -1,
    "a list": [],
}
WAIT = {what: value for what, value in SECONDS.items() if what != "negative"}
WHOLE = {
    "64 bits": 2**64,
    "63 bits": 2**63,
    "unsafe in JSON": 2**53 + 1,
    "negative": -1,
    "True": True,
    "a fraction": 1.5,
    "text": "1",
    **NONE,
}
NO_DICT: dict[str, Any] = {"a list": [SECRET], "text": SECRET, "a number": 1, **NONE}
NO_OBJECT: dict[str, Any] = {"text": SECRET, "a number": 1, "a dict": {SECRET: 1}, "an object": object()}

Call = Callable[[ProcedureCache, PlexusStorageAdapter, Any], object]

ADAPTER: dict[str, dict[str, tuple[Call, dict[str, Any]]]] = {  # method -> argument -> how it is called, what is wrong
    "load_procedure_metadata": {"procedure_id": (lambda _, s, bad: s.load_procedure_metadata(bad), ID)},
    "save_procedure_metadata": {
        "procedure_id": (
            lambda _, s, bad: s.save_procedure_metadata(bad, ProcedureMetadata(procedure_id="p")),
            {name: value for name, value in ID.items() if name != "None"},  # None: that of the metadata
        ),
        "metadata": (lambda _, s, bad: s.save_procedure_metadata("p", bad), NO_OBJECT),
        "metadata.procedure_id": (
            lambda _, s, bad: s.save_procedure_metadata(ProcedureMetadata.model_construct(procedure_id=bad)),
            ID,
        ),
    },
    "update_procedure_status": {
        "procedure_id": (lambda _, s, bad: s.update_procedure_status(bad, "RUNNING"), ID),
        "status": (lambda _, s, bad: s.update_procedure_status("p", bad), STATUS),
        "waiting_on_message_id": (lambda _, s, bad: s.update_procedure_status("p", "RUNNING", bad), MESSAGE),
    },
    "get_state": {"procedure_id": (lambda _, s, bad: s.get_state(bad), ID)},
    "set_state": {
        "procedure_id": (lambda _, s, bad: s.set_state(bad, {}), ID),
        "state": (lambda _, s, bad: s.set_state("p", bad), NO_DICT),
        "a key of state": (
            lambda _, s, bad: s.set_state("p", {"k": 2, bad: 1}),
            {name: value for name, value in KEY.items() if name in ("a lone surrogate", "an object", "too long")},
        ),
    },
    "state_get": {
        "procedure_id": (lambda _, s, bad: s.state_get(bad, "k"), ID),
        "key": (lambda _, s, bad: s.state_get("p", bad), KEY),
    },
    "state_set": {
        "procedure_id": (lambda _, s, bad: s.state_set(bad, "k", 2), ID),
        "key": (lambda _, s, bad: s.state_set("p", bad, 2), KEY),
    },
    "state_delete": {
        "procedure_id": (lambda _, s, bad: s.state_delete(bad, "k"), ID),
        "key": (lambda _, s, bad: s.state_delete("p", bad), KEY),
    },
    "state_clear": {"procedure_id": (lambda _, s, bad: s.state_clear(bad), ID)},
    "save_run": {
        "run": (lambda _, s, bad: s.save_run(bad), {**NO_OBJECT, **NONE, "what could not be read again": run()}),
        "run.run_id": (lambda _, s, bad: s.save_run(run(run_id=bad)), TEXT),
        "run.procedure_name": (lambda _, s, bad: s.save_run(run(procedure_name=bad)), TEXT),
        "run.start_time": (lambda _, s, bad: s.save_run(run(start_time=bad)), NO_OBJECT),
    },
    "load_run": {"run_id": (lambda _, s, bad: s.load_run(bad), TEXT)},
    "list_runs": {"procedure_name": (lambda _, s, bad: s.list_runs(bad), OPTIONAL_TEXT)},
    "save_breakpoints": {
        "procedure_name": (lambda _, s, bad: s.save_breakpoints(bad, []), TEXT),
        "breakpoints": (lambda _, s, bad: s.save_breakpoints("n", bad), {"text": SECRET, "a number": 1, **NONE}),
    },
    "load_breakpoints": {"procedure_name": (lambda _, s, bad: s.load_breakpoints(bad), TEXT)},
    "checkpoint_save": {
        "procedure_id": (lambda _, s, bad: s.checkpoint_save(bad, "a", 1), ID),
        "name": (lambda _, s, bad: s.checkpoint_save("p", bad, 1), TEXT),
    },
    "checkpoint_get": {
        "procedure_id": (lambda _, s, bad: s.checkpoint_get(bad, "a"), ID),
        "name": (lambda _, s, bad: s.checkpoint_get("p", bad), TEXT),
    },
    "checkpoint_exists": {
        "procedure_id": (lambda _, s, bad: s.checkpoint_exists(bad, "a"), ID),
        "name": (lambda _, s, bad: s.checkpoint_exists("p", bad), TEXT),
    },
    "checkpoint_clear_all": {"procedure_id": (lambda _, s, bad: s.checkpoint_clear_all(bad), ID)},
    "checkpoint_clear_after": {
        "procedure_id": (lambda _, s, bad: s.checkpoint_clear_after(bad, "a"), ID),
        "name": (lambda _, s, bad: s.checkpoint_clear_after("p", bad), TEXT),
    },
}
CACHE: dict[str, dict[str, tuple[Call, dict[str, Any]]]] = {
    "storage": {"procedure_id": (lambda c, _, bad: c.storage(bad), ID)},
    "sync": {"timeout": (lambda c, _, bad: c.sync(bad), {**WAIT, **NONE})},
    "flush": {"timeout": (lambda c, _, bad: c.flush(bad), {**WAIT, **NONE})},
    "close": {"timeout": (lambda c, _, bad: c.close(bad), WAIT)},
    "create_procedure": {
        "account_id": (lambda c, _, bad: c.create_procedure(account_id=bad, name="n"), {**SURROGATE, **NO_TEXT}),
        "name": (lambda c, _, bad: c.create_procedure(account_id="a", name=bad), {**SURROGATE, **NO_TEXT}),
        "status": (lambda c, _, bad: c.create_procedure(account_id="a", name="n", status=bad), MESSAGE),
        "waiting_on_message_id": (
            lambda c, _, bad: c.create_procedure(account_id="a", name="n", status="x", waiting_on_message_id=bad),
            MESSAGE,
        ),
        "category": (
            lambda c, _, bad: c.create_procedure(account_id="a", name="n", category=bad),
            {**SURROGATE, "an object": object(), "a surrogate inside": ["\ud800"], "too long": "x" * 400_000},
        ),
        "fields": (
            lambda c, _, bad: c.create_procedure(account_id="a", name="n", code=bad, description=bad),
            {"too long together": "x" * 200_000},
        ),
    },
    "conflicts": {},
    "resolve": {
        "conflict_id": (lambda c, _, bad: c.resolve(bad, "local"), TEXT),
        "keep": (lambda c, _, bad: c.resolve("1", bad), {"text": SECRET, "a number": 1, "a list": [], **NONE}),
    },
    "pull": {"procedure_id": (lambda c, _, bad: c.pull(bad), ID)},
    "retry": {"procedure_id": (lambda c, _, bad: c.retry(bad), ID)},
    "forget": {"procedure_id": (lambda c, _, bad: c.forget(bad), ID)},
    "gc": {"older_than": (lambda c, _, bad: c.gc(bad), SECONDS)},
    "status": {},
    "procedures": {},
    "check_open": {},
    **{name: {} for name in ("hold_still", "go_on", "begin_anew")},  # for forks
    "revalidate": {},  # for adapters, that have checked it
}
CASES = [
    pytest.param(*case, id=f"{method}-{argument}-{what}")
    for method, arguments in {**ADAPTER, **CACHE}.items()
    for argument, (call, wrong) in arguments.items()
    for what, value in wrong.items()
    for case in [(argument, call, value)]
]


@pytest.mark.parametrize(("holder", "table"), [(PlexusStorageAdapter, ADAPTER), (ProcedureCache, CACHE)])
def test_every_public_method_is_here(holder: type, table: dict[str, Any]) -> None:
    methods = {name for name, _ in inspect.getmembers(holder, inspect.isfunction) if not name.startswith("_")}
    assert methods == set(table)


# --- and nothing is changed -------------------------------------------------------------------------------


@pytest.fixture
def cache(open_offline: OpenCache) -> ProcedureCache:
    """With a document that has something of everything."""
    cache = open_offline(durability="normal")
    storage = cache.storage("p")
    append(storage, "one")
    storage.checkpoint_save("p", "a", {"r": [1.0]})
    storage.set_state("p", {"k": 1, "other": [2]})
    storage.update_procedure_status("p", "WAITING_FOR_HUMAN", "m1")
    storage.save_breakpoints("n", [{"line": 1}])
    return cache


def picture(cache: ProcedureCache) -> Any:
    """All that can be seen of a cache."""
    storage = cache.storage("p")
    documents = {
        one.procedure_id: cache.storage(one.procedure_id).load_procedure_metadata(one.procedure_id)
        for one in cache.procedures()
    }
    return (
        {name: found.model_dump() for name, found in documents.items()},
        cache.procedures(),
        cache.conflicts(resolved=True),
        (cache.status().dirty, cache.status().parked, cache.status().store_problem),
        (storage.load_breakpoints("n"), storage.list_runs()),
    )


Unchanged = Callable[[], None]


@pytest.fixture
def unchanged(cache: ProcedureCache) -> Unchanged:
    """Checks that all is as it was, here and for who opens the directory anew, and that the next write works."""
    before = picture(cache)

    def check() -> None:
        assert picture(cache) == before
        with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
            assert picture(again) == before
        storage = cache.storage("p")
        storage.state_set("p", "next", "write")
        storage.checkpoint_save("p", "next", 3)
        append(storage, "two")
        with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
            found = again.storage("p").load_procedure_metadata("p")
            assert found.state == {"k": 1, "other": [2], "next": "write"}
            assert [entry.result for entry in found.execution_log] == ["one", {"r": [1.0]}, 3, "two"]

    return check


def check_error(error: Exception, argument: str) -> None:
    """It is of our tree, or a TypeError, and names the argument, but nobody's data."""
    assert isinstance(error, (StorageError, TypeError))
    assert argument in str(error)
    assert SECRET not in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(("argument", "call", "value"), CASES)
def test_a_wrong_argument(cache: ProcedureCache, unchanged: Unchanged, argument: str, call: Call, value: Any) -> None:
    for storage in (cache.storage("p"), cache.storage("p")):
        with pytest.raises((InvalidArgument, TypeError)) as raised:
            call(cache, storage, value)
        check_error(raised.value, argument)
        storage.load_procedure_metadata("p")  # the second adapter is as one that saw nothing yet
    unchanged()


def test_plexus_is_not_asked_about_what_cannot_be(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache(background=False)
    for arguments in ADAPTER.values():
        for argument, (call, wrong) in arguments.items():
            if argument == "procedure_id":
                for value in wrong.values():
                    with pytest.raises(InvalidArgument):
                        call(cache, cache.storage("p"), value)
    with pytest.raises(InvalidArgument):
        cache.pull("\ud800")
    assert plexus.requests == 0
    assert cache.procedures() == []


def test_the_procedures_that_live_in_memory(cache: ProcedureCache) -> None:
    storage = cache.storage("builtin:x")
    storage.state_set("builtin:x", "k", 1)
    with pytest.raises(InvalidArgument, match="key"):
        storage.state_set("builtin:x", "\ud800", 1)
    with pytest.raises(InvalidArgument, match="status"):
        storage.update_procedure_status("builtin:x", 3)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(InvalidArgument, match="name"):
        storage.checkpoint_save("builtin:x", "\ud800", 1)
    with pytest.raises(InvalidArgument, match="replay_index"):
        storage.save_procedure_metadata(built(replay_index=2**64, procedure_id="builtin:x"))
    assert storage.get_state("builtin:x") == {"k": 1}
    assert storage.load_procedure_metadata("builtin:x").execution_log == []


# --- objects ----------------------------------------------------------------------------------------------

METADATA: dict[str, dict[str, Any]] = {
    "replay_index": WHOLE,
    "state": NO_DICT,
    "lua_state": NO_DICT,
    "status": STATUS,
    "waiting_on_message_id": MESSAGE,
    "execution_log": {"text": SECRET, "a dict": {}, "a number": 1, **NONE},
}
ENTRY: dict[str, dict[str, Any]] = {
    "position": {**WHOLE, "another place": 7, "the place before": 1},
    "type": TEXT,
    "timestamp": {
        "text": SECRET,
        "a date": dt.date(2026, 1, 1),
        "before the year 1 in UTC": dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))),
        **NONE,
    },
    "duration_ms": {
        "NaN": float("nan"),
        "infinite": float("inf"),
        "64 bits": 2**64,
        "text": "1",
        "True": True,
        "tiny": 1e-200,
    },
    "input_hash": OPTIONAL_TEXT,
    "run_id": OPTIONAL_TEXT,
    "source_location": {
        **NO_OBJECT,
        "a surrogate": SourceLocation(file="\ud800", line=1),
        "a large line": SourceLocation(file="f", line=2**70),
    },
    "captured_vars": {"a list": [SECRET], "a number": 1, "text": SECRET},
}


def built(**changes: Any) -> ProcedureMetadata:
    """An object that its caller built, with values that its constructor would not have taken."""
    found = ProcedureMetadata(procedure_id="p")
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def entry(place: int, **changes: Any) -> CheckpointEntry:
    found = CheckpointEntry(position=place, type="t", result=SECRET, timestamp=AT)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def spoilt(wrong: dict[str, dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{what}")
        for name, values in wrong.items()
        for what, value in values.items()
    ]


@pytest.mark.parametrize("whose", ["the live object", "one that was built"])
@pytest.mark.parametrize(("field", "value"), spoilt(METADATA))
def test_an_object_without_the_shape_of_one(
    cache: ProcedureCache, unchanged: Unchanged, whose: str, field: str, value: Any
) -> None:
    storage = cache.storage("p")
    found = storage.load_procedure_metadata("p") if whose == "the live object" else built()
    setattr(found, field, value)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=f"metadata.{field}") as raised:
            storage.save_procedure_metadata(found)
        check_error(raised.value, field)
    unchanged()


@pytest.mark.parametrize("whose", ["the live object", "one that was built"])
@pytest.mark.parametrize(("field", "value"), spoilt(ENTRY))
def test_an_entry_that_cannot_be_stored(
    cache: ProcedureCache, unchanged: Unchanged, whose: str, field: str, value: Any
) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    found = live if whose == "the live object" else built(execution_log=list(live.execution_log))
    found.execution_log.append(entry(2, **{field: value}))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=rf"execution_log\[2\]\.{field}") as raised:
            storage.save_procedure_metadata(found)
        check_error(raised.value, field)
    unchanged()


@pytest.mark.parametrize("value", NO_OBJECT.values(), ids=NO_OBJECT)
def test_what_is_no_entry(cache: ProcedureCache, unchanged: Unchanged, value: Any) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    live.execution_log.append(value)
    with pytest.raises(WrongType, match=r"execution_log\[2\].entry: want a CheckpointEntry"):
        storage.save_procedure_metadata(live)
    unchanged()


@pytest.mark.parametrize("part", ["state", "lua_state"])
@pytest.mark.parametrize("what", ["a lone surrogate", "an object", "too long"])
def test_a_key_that_cannot_be_stored(cache: ProcedureCache, unchanged: Unchanged, part: str, what: str) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    getattr(live, part)[KEY[what]] = 1
    with pytest.raises(InvalidArgument, match=f"a key of {part}") as raised:
        storage.save_procedure_metadata(live)
    check_error(raised.value, part)
    unchanged()


@pytest.mark.parametrize("call", ["state_set", "checkpoint_save", "update_procedure_status", "set_state"])
def test_what_one_holder_spoilt_keeps_nobody_from_the_document(cache: ProcedureCache, call: str) -> None:
    """Its holder gets the error, again and again; the first call of another may, the next finds what is stored."""
    storage, other = cache.storage("p"), cache.storage("p")
    live = storage.load_procedure_metadata("p")
    live.execution_log.append(entry(2, run_id="\ud800"))
    with pytest.raises(InvalidArgument, match=r"execution_log\[2\]\.run_id"):
        other.checkpoint_save("p", "b", 1)
    calls: dict[str, Callable[[], None]] = {
        "state_set": lambda: other.state_set("p", "k", 2),
        "checkpoint_save": lambda: other.checkpoint_save("p", "b", 1),
        "update_procedure_status": lambda: other.update_procedure_status("p", "RUNNING"),
        "set_state": lambda: other.set_state("p", {"k": 2}),
    }
    calls[call]()
    assert other.load_procedure_metadata("p") is not live
    with pytest.raises(InvalidArgument, match=r"execution_log\[2\]\.run_id"):
        storage.save_procedure_metadata(live)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        assert len(again.storage("p").load_procedure_metadata("p").execution_log) == (
            3 if call == "checkpoint_save" else 2
        )


def test_what_is_put_right_is_saved(cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    live.execution_log.append(entry(2, run_id="\ud800"))
    live.replay_index, live.state["k"] = 2**64, 5
    with pytest.raises(InvalidArgument):
        storage.save_procedure_metadata(live)
    live.replay_index = 3
    with pytest.raises(InvalidArgument):
        storage.save_procedure_metadata(live)
    live.execution_log[2].run_id = "run"
    storage.save_procedure_metadata(live)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        found = again.storage("p").load_procedure_metadata("p")
        assert (found.replay_index, found.state["k"], found.execution_log[2].run_id) == (3, 5, "run")


# --- values -----------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, str]] = {
    "a cycle": ({"a": cyclic()}, "/a/0"),
    "too deep": ({"a": deep(200)}, "/a/0/0/0"),
    "deeper than Python goes": ({"a": deep(sys.getrecursionlimit() * 2)}, "/a/0/0/0"),
    "an object": ({"a": [1, object()]}, "/a/1"),
    "a function": ({"a": deep}, "/a"),
    "a generator": ({"a": iter([1])}, "/a"),
    "a key of a type that cannot be": ({"a": {object(): 1}}, "/a"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("call", ["state_set", "set_state", "checkpoint_save"])
def test_a_value_that_cannot_be_stored(cache: ProcedureCache, unchanged: Unchanged, call: str, name: str) -> None:
    value, path = VALUES[name]
    storage = cache.storage("p")
    calls: dict[str, Callable[[], None]] = {
        "state_set": lambda: storage.state_set("p", "k", value),
        "set_state": lambda: storage.set_state("p", {"k": 2, **value}),
        "checkpoint_save": lambda: storage.checkpoint_save("p", "a", value),
    }
    with pytest.raises(ValueNotSerializable) as raised:
        calls[call]()
    assert raised.value.path.startswith(path)
    unchanged()


EXACT: dict[str, Any] = {
    "lone surrogates": {"a": "x\ud800", "\udfff": 1},
    "a huge number": 10**5000,
    "keys that are no text": {1: "a", (1, 2): "b", None: "c"},
    "control characters": {"a\x00b": "\x00\x1f"},
}


@pytest.mark.parametrize("value", EXACT.values(), ids=EXACT)
def test_a_value_that_looks_wrong_and_is_kept_exactly(cache: ProcedureCache, value: Any) -> None:
    cache.storage("p").state_set("p", "k", value)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        assert again.storage("p").state_get("p", "k") == value


# --- what is legitimate -----------------------------------------------------------------------------------


def test_subclasses_of_text(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    storage = cache.storage("p")
    storage.update_procedure_status("p", Waiting.HUMAN, "m")
    storage.state_set("p", Waiting.HUMAN, 1)
    storage.checkpoint_save("p", Waiting.HUMAN, 2)
    assert cache.flush(10)
    record = plexus.record("p") or {}
    assert (record["status"], record["waitingOnMessageId"]) == ("WAITING_FOR_HUMAN", "m")
    assert remote_state(plexus, "p") == {"WAITING_FOR_HUMAN": 1}
    assert list(record["metadata"]["checkpoints"]) == ["WAITING_FOR_HUMAN"]
    live = storage.load_procedure_metadata("p")
    assert type(live.status) is str
    live.status = Plain.RUNNING  # type: ignore[assignment]  # that is the test
    storage.save_procedure_metadata(live)
    assert (live.status, cache.procedures()[0].status) == ("RUNNING", "RUNNING")


def test_ids_as_long_as_they_may_be(plexus: Simulator, open_cache: OpenCache) -> None:
    cache = open_cache()
    for procedure_id in ("x" * 900, "é" * 150, "a\x07b"):
        plexus.put(procedure_id)
        storage = cache.storage(procedure_id)
        storage.checkpoint_save(procedure_id, "é" * 3000, 2)
        storage.update_procedure_status(procedure_id, "S" * 1024, "m" * 1024)
    assert cache.flush(20)
    elsewhere = open_cache("elsewhere")
    assert elsewhere.storage("é" * 150).checkpoint_get("é" * 150, "é" * 3000) == 2


def test_names_as_long_as_they_may_be(cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    storage.state_set("p", "k" * 65_535, 1)
    storage.checkpoint_save("p", "é" * 32_767, 2)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        assert again.storage("p").state_get("p", "k" * 65_535) == 1
        assert again.storage("p").checkpoint_get("p", "é" * 32_767) == 2


def test_odd_entries_that_tactus_makes(cache: ProcedureCache) -> None:
    storage = cache.storage("p")
    live = storage.load_procedure_metadata("p")
    nowhere = SourceLocation(file="", line=-1)
    live.execution_log.append(entry(2, type="", duration_ms=-0.5, run_id="", source_location=nowhere))
    live.execution_log.append(entry(3, captured_vars={"\ud800": 1, 7: 2, (1,): 3}))
    storage.save_procedure_metadata(live)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        found = again.storage("p").load_procedure_metadata("p").execution_log
        assert (found[2].duration_ms, found[2].source_location) == (-0.5, nowhere)
        assert sorted(found[3].captured_vars.values()) == [1, 2, 3]


def test_a_lua_table_as_state(cache: ProcedureCache) -> None:
    table = pytest.importorskip("lupa").LuaRuntime().eval("{ a = 1, b = { 2, 3 }, [7] = 'x' }")
    cache.storage("p").set_state("p", table)
    with ProcedureCache(OFFLINE, cache.directory, fast()) as again:
        assert again.storage("p").get_state("p") == {"a": 1, "b": [2, 3], 7: "x"}


# --- opening ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("client", {"client": "http://localhost"}),
        ("client", {"client": 3}),
        ("directory", {"directory": 3}),
        ("directory", {"directory": b"store"}),
        ("directory", {"directory": "a\0b"}),
        ("directory", {"directory": "a\ud800"}),
        ("directory", {"directory": "~nobody-of-that-name/store"}),
        ("settings", {"settings": {"push_interval": 1}}),
    ],
)
def test_a_cache_with_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, given: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    every = {"client": OFFLINE, "directory": tmp_path / "store", "settings": fast(), **given}
    for open_ in (lambda: ProcedureCache(**every), lambda: PlexusStorageAdapter(procedure_id="p", **every)):
        with pytest.raises(InvalidArgument) as raised:
            open_()
        check_error(raised.value, argument)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ID.values(), ids=ID)
def test_an_adapter_of_a_wrong_id(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="procedure_id"):
        PlexusStorageAdapter(OFFLINE, value, directory=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "given"),
    [("api_url", {"api_url": None}), ("api_key", {"api_key": None}), ("timeout", {"timeout": float("nan")})],
)
def test_a_client_with_wrong_arguments(plexus: Simulator, argument: str, given: Any) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        PlexusClient(**{"api_url": plexus.url, "api_key": "k", **given})


def test_timeouts_of_a_cache_that_syncs(plexus: Simulator, tmp_path: Path) -> None:
    plexus.put("p")
    with ProcedureCache(client_of(plexus), tmp_path / "store", fast()) as cache:
        cache.storage("p").state_set("p", "k", 1)
        for value in WAIT.values():
            for call in (cache.sync, cache.flush, cache.close):
                with pytest.raises(InvalidArgument, match="timeout"):
                    call(value)
        assert cache.flush(1e300)  # longer than any machine waits, and fine
        assert remote_state(plexus, "p") == {"k": 1}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 1e300, "soon"])
@pytest.mark.parametrize(
    "name", ["push_interval", "load_timeout", "request_timeout", "close_timeout", "max_backoff", "lock_timeout"]
)
def test_settings_that_nobody_could_wait_for(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        CacheSettings(**{name: value})


def test_a_wait_that_is_over_and_one_without_an_end(plexus: Simulator, open_cache: OpenCache) -> None:
    plexus.put("p")
    cache = open_cache()
    cache.storage("p").state_set("p", "k", 1)
    assert cache.flush(float("inf"))
    cache.storage("p").state_set("p", "k", 2)
    assert not cache.flush(-1)
    cache.close(-1)
    assert cache.closed
