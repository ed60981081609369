"""The contract of a store: any text is a name, no two of them are the same, and nothing else is one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import InvalidArgument
from plexus_tactus_cache.store.contract import Header, Pending, Store
from store.acts import (
    ALIKE,
    NAMES,
    NOW,
    Act,
    conflict,
    document_writes,
    entry,
    fill,
    picture,
    reads_of_one,
    value,
)

MARKS: dict[str, int] = {name: number for number, name in enumerate(random.Random(1).sample(NAMES, len(NAMES)), 1)}


class Kind(NamedTuple):
    """Something that is kept under a name. Each is called in a transaction."""

    put: Callable[[Store, str, int], object]
    get: Callable[[Store, str], object]  # the number that was put; None: nothing is there
    drop: Callable[[Store, str], object] | None  # None: it stays until the document is forgotten, or for ever


def put_content(store: Store, name: str, mark: int) -> None:
    one = value(mark)
    changes = Changes(
        entries={0: entry(0, mark, v="d"), 1: entry(1, mark)},
        state={"k": one},
        lua_state={"k": one},
        variables={"d": one},
        extras=(one,),
    )
    store.write(name, changes, NOW)


def content(store: Store, name: str) -> object:
    found = store.read(name)
    if found is None:
        return None
    document = found[1]
    parts = [*document.state.values(), *document.lua_state.values(), *document.variables.values(), document.extras]
    marks = [one.result for one in document.log] + [one.plain for one in parts if one is not None]
    assert marks in ([], [marks[0]] * 6 if marks else [])
    return marks[0] if marks else None


def clear_content(store: Store, name: str) -> None:
    store.write(name, Changes(log_length=0, state={"k": None}, lua_state={"k": None}, extras=(None,)), NOW)
    store.sweep(name)


def put_old(store: Store, name: str, mark: int) -> None:
    store.forget_old(name)
    for number in (mark, 0):
        store.write(name, Changes(state={"k": value(number)}, lua_state={"k": value(number)}), NOW)
        if number:
            store.forget_old(name)


def old(store: Store, name: str) -> object:
    found = store.old(name)
    assert found["state"] == found["lua_state"]
    return found["state"]["k"].plain if found["state"] else None


def place(store: Store, name: str) -> object:
    found = store.pending(name)
    assert (name in store.due(math.inf)) == (name in store.outbox()) == (found is not None)
    return None if found is None else found.attempts


def header(store: Store, name: str) -> object:
    found = store.header(name)
    assert store.headers().get(name) == found
    return None if found is None else found.replay_index


def resolve_all(store: Store, name: str) -> None:
    for number, record in store.conflicts(procedure_id=name).items():
        store.put_conflict(record._replace(resolved="local"), number)


def put_resolved(store: Store, name: str, mark: int) -> None:
    unresolve(store, name)
    store.put_conflict(conflict(name, local=mark, resolved="local"))


def unresolve(store: Store, name: str) -> None:
    for number, record in store.conflicts(procedure_id=name, resolved=True).items():
        store.put_conflict(record._replace(procedure_id="another"), number)


def conflict_of(store: Store, name: str, *, resolved: bool = False) -> object:
    marks = [record.local for record in store.conflicts(procedure_id=name, resolved=resolved).values()]
    assert len(marks) <= 1
    return marks[0] if marks else None


def key_of(part: str) -> Kind:
    """A key of the state, or of Lua's."""

    def put(store: Store, name: str, mark: int | None) -> None:
        changes: dict[str, Any] = {part: {name: None if mark is None else value(mark)}}
        store.write("a", Changes(**changes), NOW)

    def get(store: Store, name: str) -> object:
        found = store.read("a")
        one = None if found is None else getattr(found[1], part).get(name)
        return None if one is None else one.plain

    return Kind(put, get, lambda store, name: put(store, name, None))


def book(name: str, drop: Callable[[Store, str], object] | None) -> Kind:
    """Something that syncing remembers of a document."""

    def put(store: Store, procedure_id: str, mark: int) -> None:
        getattr(store, f"put_{name}")(procedure_id, {"k": mark})

    def get(store: Store, procedure_id: str) -> object:
        found = getattr(store, name)(procedure_id)
        return found["k"] if found else None

    return Kind(put, get, drop)


KINDS = {
    "content": Kind(put_content, content, clear_content),
    "header": Kind(lambda store, name, mark: store.put_header(name, Header(replay_index=mark)), header, None),
    "place": Kind(
        lambda store, name, mark: store.put_pending(name, Pending(since=NOW, attempts=mark)),
        place,
        lambda store, name: store.drop_pending(name),
    ),
    "place, adopted": Kind(
        lambda store, name, mark: store.update_pending(name, NOW, attempts=mark),
        place,
        lambda store, name: store.adopt(name, Changes(), ()),
    ),
    "base": book("base", None),
    "history": book("history", lambda store, name: store.put_history(name, {})),
    "creation": book("creation", lambda store, name: store.drop_creation(name)),
    "uploads": book("uploads", lambda store, name: store.put_uploads(name, {})),
    "inline_limit": Kind(
        lambda store, name, mark: store.put_inline_limit(name, mark),
        lambda store, name: store.inline_limit(name),
        None,
    ),
    "old": Kind(put_old, old, lambda store, name: store.forget_old(name)),
    "old, adopted": Kind(put_old, old, lambda store, name: store.adopt(name, Changes(), ())),
    "state": key_of("state"),
    "lua_state": key_of("lua_state"),
    "garbage": Kind(
        lambda store, name, mark: store.put_garbage(name, [f"k{mark}"], NOW),
        lambda store, name: next((int(key[1:]) for key in store.garbage(NOW).get(name, ())), None),
        lambda store, name: store.drop_garbage(name, store.garbage(NOW).get(name, ())),
    ),
    "keys of garbage": Kind(
        lambda store, name, _: store.put_garbage("b", [name], NOW),
        lambda store, name: MARKS[name] if name in store.garbage(NOW).get("b", ()) else None,
        lambda store, name: store.drop_garbage("b", [name]),
    ),
    "conflicts": Kind(
        lambda store, name, mark: store.put_conflict(conflict(name, local=mark)), conflict_of, resolve_all
    ),
    "resolved": Kind(put_resolved, partial(conflict_of, resolved=True), unresolve),
    "requests": Kind(
        lambda store, name, _: store.put_request(name),
        lambda store, name: MARKS[name] if name in store.requests() else None,
        lambda store, name: store.drop_request(name),
    ),
    "traces": Kind(
        lambda store, name, mark: store.put_trace("run", name, b"%d" % mark),
        lambda store, name: int(store.trace("run", name) or b"0") or None,
        None,
    ),
}
OF_DOCUMENTS = ["content", "header", "place", "base", "history", "creation", "uploads", "inline_limit", "old"]


def keep_apart(store: Store, other: Store, kind: Kind, drop: Callable[[Store, str], object] | None) -> None:
    """Everything that is put is there; what is dropped is gone, and nothing goes with it that has a name alike."""

    def put_all() -> None:
        for name, mark in MARKS.items():
            kind.put(store, name, mark)

    def drop_each(drop: Callable[[Store, str], object]) -> None:
        for pair in ALIKE:
            for gone, left in (pair, pair[::-1]):
                drop(store, gone)
                drop(store, f"{gone}, never stored")
                assert kind.get(store, gone) is None
                assert kind.get(store, left) == MARKS[left], f"{left!r} is gone with {gone!r}"
                kind.put(store, gone, MARKS[gone])
                assert kind.get(store, left) == MARKS[left], f"{left!r} is {gone!r}"

    named = [*NAMES, *(f"{name}, never stored" for name in NAMES), "a", "another"]
    store.transaction(named, put_all)
    if drop is not None:
        store.transaction(named, partial(drop_each, drop))
    for one in (store, other):
        assert {name: kind.get(one, name) for name in NAMES} == MARKS


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_under_names_that_are_alike_is_kept_apart(store: Store, other: Store, kind: str) -> None:
    keep_apart(store, other, KINDS[kind], KINDS[kind].drop)


@pytest.mark.parametrize("kind", OF_DOCUMENTS)
def test_what_is_forgotten_takes_nothing_along(store: Store, other: Store, kind: str) -> None:
    keep_apart(store, other, KINDS[kind], lambda store, name: store.forget(name))


def test_lists_have_every_name_once(store: Store, other: Store) -> None:
    for name in MARKS:
        store.transaction(name, partial(put_content, store, name, MARKS[name]))
        store.transaction(name, partial(store.put_trace, "run", name, name.encode()))
    for one in (store, other):
        assert one.procedure_ids() == NAMES
        assert sorted(one.headers()) == sorted(one.outbox()) == sorted(one.due(math.inf)) == NAMES
        assert one.traces("run") == [name.encode() for name in NAMES]
    for name in NAMES[::2]:
        store.transaction(name, partial(store.adopt, name, Changes(), ()))
    assert sorted(other.idle(math.inf)) == NAMES[::2]
    assert sorted(other.due(math.inf)) == NAMES[1::2]


def test_what_keys_were_is_kept_by_their_names(store: Store, other: Store) -> None:
    first = {name: value(mark) for name, mark in MARKS.items()}

    def work() -> None:
        for keys in (first, dict.fromkeys(MARKS, value(0))):
            store.write("a", Changes(state={**keys}, lua_state={**keys}), NOW)
            if keys is first:
                store.forget_old("a")

    store.transaction("a", work)
    assert other.old("a") == {"state": first, "lua_state": first}


# --- what is no name --------------------------------------------------------------------------------------

NO_NAMES = [(None, TypeError), (5, TypeError), (b"a", TypeError), ("half \ud83d", InvalidArgument)]


@pytest.mark.parametrize(("name", "error"), NO_NAMES)
def test_what_is_no_text_is_no_name(store: Store, other: Store, name: Any, error: type[Exception]) -> None:
    fill(store)
    before = picture(store)
    for method, read in reads_of_one(store).items():
        if method not in ("conflicts", "resolved") or name is not None:  # where it says: of all
            with pytest.raises(error):
                read(name)
    for named in (name, [name], ["a", name]):
        with pytest.raises(error):
            store.transaction(named, lambda: None)
    acts: list[Act] = [
        *document_writes(name).values(),
        partial(_write_key, name=name),
        lambda one: one.put_garbage(name, ["k"], NOW),
        lambda one: one.put_garbage("a", ["k", name], NOW),
        lambda one: one.drop_garbage(name, ["key 1"]),
        lambda one: one.drop_garbage("b", ["key 1", name]),
        lambda one: one.put_conflict(conflict(name)),
        lambda one: one.put_conflict(conflict(name), 1),
        lambda one: one.put_trace("run", name, b""),
        lambda one: one.trace("run", name),
        lambda one: one.put_request(name),
        lambda one: one.drop_request(name),
    ]

    def work() -> None:
        for act in acts:
            with pytest.raises(error):
                act(store)
            assert picture(store) == before

    store.transaction("a", work)
    assert picture(store) == picture(other) == before


def _write_key(store: Store, name: Any) -> None:
    store.write("a", Changes(state={"k": value(9), name: value(9)}), NOW)
