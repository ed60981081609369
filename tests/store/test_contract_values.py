"""The contract of a store: values come back as they were, nobody else's change gets into them, and none is half there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest

from plexus_tactus_cache.document.encoded import Changes, Document
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.store.contract import Link, Pending, Store
from store.acts import (
    NOW,
    Act,
    conflict,
    do,
    document_of,
    entry,
    fill,
    header_of,
    picture,
    reads,
    value,
    write,
)

# --- exactly ----------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, "", [], {}),
    *(0, 1, 1.0, -0.0, 0.1 + 0.2, 1e-130, 1e125, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1),
    *("1", "null", " ", "\x00", "a\x00b", "ü", "u\u0308", "日本😀\uffff", '"\\/', "x" * 100_000),
    {"b": 1, "a": {"z": [], "y": {}}, "": None, "B": 1.0, "\x00": True},
    {"10": 0, "9": 0, "ü": 0, "u\u0308": 0},
    [None, [[]], [{}], 1, 1.0, True],
]
PLACES = ["state", "lua_state", "variables", "extras", "result", "notes", "base", "history", "creation", "conflict"]


def put_at(store: Store, place: str, plain: Any) -> None:
    """A value in one of the places that values are kept in."""
    one = value(plain)
    match place:
        case "base":
            store.put_base("a", plain)
        case "history":
            store.put_history("a", {"k": plain})
        case "creation":
            store.put_creation("a", {"k": plain})
        case "conflict":
            store.put_conflict(conflict(local=plain, remote=[plain], base=plain))
        case _:
            changes: dict[str, dict[str, Any]] = {
                "result": {"entries": {0: entry(0, plain)}},
                "notes": {"state": {"k": Encoded(None, {"b": [plain], "a": []})}},
                "extras": {"extras": (one,)},
            }
            store.write("a", Changes(**changes.get(place, {place: {"k": one}})), NOW)


def get_at(store: Store, place: str) -> Any:
    match place:
        case "state" | "lua_state" | "variables":
            return getattr(document_of(store), place)["k"].plain
        case "extras":
            found = document_of(store).extras
            assert found is not None
            return found.plain
        case "result":
            return document_of(store).log[0].result
        case "notes":
            notes = document_of(store).state["k"].notes
            assert [*notes] == ["b", "a"]
            return notes["b"][0]
        case "conflict":
            record = [*store.conflicts().values()][-1]
            assert repr(record.remote) == repr([record.local]) == repr([record.base])
            return record.local
        case "base":
            return store.base("a")
        case _:
            return getattr(store, place)("a")["k"]


@pytest.mark.parametrize("place", PLACES)
def test_a_value_comes_back_as_it_was(store: Store, other: Store, place: str) -> None:
    for plain in VALUES:
        store.transaction("a", partial(put_at, store, place, plain))
        assert repr(get_at(other, place)) == repr(plain)  # 1, 1.0 and True are equal


def test_what_is_empty_is_not_what_is_not_there(store: Store, other: Store) -> None:
    do(store, "a", "put_creation", {})
    do(store, "a", "put_inline_limit", 0)
    entries = {0: entry(0, "")._replace(captured={}, run_id="", name="", input_hash="", source_location=[])}
    changes = Changes(entries=entries, state={"": value(None)}, status=("", ""), extras=(value(None),))
    do(store, "a", "write", changes, NOW)
    document = document_of(other)
    assert (other.creation("a"), other.inline_limit("a")) == ({}, 0)
    assert (document.log, document.state, document.extras) == ([entries[0]], {"": value(None)}, value(None))
    assert document.status_unit == ("", "")
    do(store, "a", "put_pending", Pending(since=NOW, parked="", error=""))
    assert other.pending("a") == Pending(since=NOW, parked="", error="")
    write(store, "a", status=("RUNNING", "m"))
    write(store, "a", status=("RUNNING", None), extras=(None,), state={"": None})
    after = document_of(other)
    assert (after.status_unit, after.extras, after.state) == (("RUNNING", None), None, {})
    do(store, "a", "drop_creation")
    assert other.creation("a") is None


# --- nobody else's ----------------------------------------------------------------------------------------


def containers(found: Any) -> Iterator[Any]:
    """All dicts and lists in it, the inner ones first."""
    if isinstance(found, Document):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, dict | list | tuple):
        for one in found.values() if isinstance(found, dict) else found:
            yield from containers(one)
    if isinstance(found, dict | list):
        yield found


def spoil(found: Any) -> None:
    for one in [*containers(found)]:
        one.clear()


def test_what_is_returned_is_the_callers(store: Store, other: Store) -> None:
    fill(store)
    store.transaction("a", lambda: store.put_conflict(conflict(local={"k": [1]}, resolved="local")))
    write(store, "a", state={"deep": value({"k": [{"l": 1}]})})
    do(store, "a", "put_base", {"k": [{"l": 1}]})
    do(store, "a", "put_header", header_of(store)._replace(cancelled=["r"], held=["PENDING", None]))
    before = deepcopy(picture(store))
    for read in reads(store).values():
        for _ in range(2):
            spoil(read())
            spoil(store.snapshot(read))
            spoil(store.transaction("a", read))
        assert picture(store) == before
    assert picture(other) == before


def test_what_was_handed_over_stays_the_callers(store: Store, other: Store) -> None:
    changes = Changes(
        entries={0: entry(0, {"k": [1]}, v="d")},
        state={"k": value({"k": [1]})},
        lua_state={"k": value([1])},
        variables={"d": value([1])},
        extras=(value([1]),),
    )
    books = {name: {"k": {"l": [1]}} for name in ("base", "history", "creation")}
    record = conflict(local={"k": [1]})

    def work(*, then_spoilt: bool) -> None:
        store.write("a", changes, NOW)
        for name, wrote in books.items():
            getattr(store, f"put_{name}")("a", wrote)
        store.put_conflict(record)
        if then_spoilt:
            before.append(deepcopy(picture(store)))
            spoil([changes.entries[0], changes.state, changes.lua_state, changes.variables, changes.extras])
            spoil([books, record])
            assert picture(store) == before[0]

    before: list[dict[str, Any]] = []
    store.transaction("a", lambda: work(then_spoilt=True))
    assert picture(store) == picture(other) == before[0]


# --- not half ---------------------------------------------------------------------------------------------

NO_JSON: Any = object()
_BAD = value(NO_JSON)
UNSTORABLE: dict[str, Changes] = {
    "state": Changes(state={"k": value(9), "bad": _BAD}),
    "half a character": Changes(state={"k": value(9), "bad": value("\ud83d")}),
    "lua_state": Changes(state={"k": value(9)}, lua_state={"l": value(9), "bad": _BAD}),
    "variables": Changes(variables={"d": value(9), "bad": _BAD}),
    "entries": Changes(state={"k": value(9)}, entries={0: entry(0, 9), 1: entry(1, NO_JSON)}),
    "extras": Changes(state={"k": value(9), "drop": None}, extras=(_BAD,), log_length=0),
    "status": Changes(state={"k": value(9)}, entries={0: entry(0, 9)}, status=NO_JSON),
}


def no_keys() -> Iterator[str]:
    yield "k1"
    raise TypeError


def _changing(method: str, changes: Changes, *arguments: Any) -> Act:
    return lambda store: getattr(store, method)("a", changes, *arguments)


HALF_WAY: dict[str, Act] = {
    **{f"write {name}": _changing("write", c, NOW) for name, c in UNSTORABLE.items()},
    **{f"merge {name}": _changing("merge", c, (), NOW) for name, c in UNSTORABLE.items()},
    **{f"adopt {name}": _changing("adopt", c, ()) for name, c in UNSTORABLE.items()},
    "write to a new one": lambda one: one.write("b", UNSTORABLE["state"], NOW),
    "adopt as a new one": lambda one: one.adopt("b", UNSTORABLE["entries"], ()),
    "put_base": lambda one: one.put_base("a", {"k": 9, "bad": NO_JSON}),
    "put_base of a new one": lambda one: one.put_base("b", NO_JSON),
    "put_history": lambda one: one.put_history("a", {"bad": NO_JSON}),
    "put_creation": lambda one: one.put_creation("a", {"bad": NO_JSON}),
    "put_uploads": lambda one: one.put_uploads("a", {"k": NO_JSON}),
    "put_inline_limit": lambda one: one.put_inline_limit("a", NO_JSON),
    "put_pending": lambda one: one.put_pending("a", Pending(since=NOW + 50, error=NO_JSON)),
    "put_pending of a new one": lambda one: one.put_pending("b", Pending(since=NOW + 50, error=NO_JSON)),
    "update_pending": lambda one: one.update_pending("a", NOW, due=NOW + 50, error=NO_JSON),
    "park": lambda one: one.park("a", NO_JSON, NOW),
    "put_garbage": lambda one: one.put_garbage("a", no_keys(), NOW),
    "drop_garbage": lambda one: one.drop_garbage("b", ["key 1", NO_JSON]),
    "put_conflict": lambda one: one.put_conflict(conflict(local=NO_JSON)),
    "put_conflict in place of another": lambda one: one.put_conflict(conflict(local=NO_JSON), 1),
    "put_trace": lambda one: one.put_trace("run", "name", NO_JSON),
    "put_link": lambda one: one.put_link(Link(problem=NO_JSON)),
}


def test_a_call_that_raised_has_changed_nothing(store: Store, other: Store) -> None:
    """Also where its transaction goes on."""
    fill(store)
    before = picture(store)

    def work(name: str) -> None:
        with pytest.raises(TypeError):
            HALF_WAY[name](store)
        assert picture(store) == before, name

    for name, act in HALF_WAY.items():
        store.transaction(["a", "b"], partial(work, name))
        assert picture(store) == picture(other) == before, name
        with pytest.raises(TypeError):
            store.transaction(["a", "b"], partial(act, store))
    fill(store, 3)
