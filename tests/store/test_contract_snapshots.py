"""The contract of a store: what is read at one moment is of one moment."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import CacheClosed
from plexus_tactus_cache.store.contract import Store
from store.acts import (
    NOW,
    PATIENCE,
    conflict,
    document_writes,
    in_threads,
    log,
    other_writes,
    picture,
    put,
    state,
    value,
    write,
)
from store.stores import StoreHarness


class Oops(Exception):
    """What a snapshot fails with."""


def test_a_snapshot_sees_one_state_while_others_write(store: Store, other: Store) -> None:
    put(store, "a", "k", 1)

    def work() -> str:
        before = picture(store)
        put(other, "a", "k", 2)
        other.transaction("b", lambda: [act(other) for act in (document_writes("b") | other_writes()).values()])
        in_threads(lambda: put(store, "b", "k", 3))
        assert store.snapshot(lambda: picture(store)) == before
        return "what it returns"

    assert store.snapshot(work) == "what it returns"
    assert state(store, "a") == {"k": 2}
    assert state(store, "b")["k"] == 3


def test_a_snapshot_inside_a_transaction_sees_its_writes(store: Store) -> None:
    def work() -> dict[str, object]:
        put(store, "a", "k", 1)
        return store.snapshot(lambda: state(store, "a"))

    assert store.transaction("a", work) == {"k": 1}


def test_a_snapshot_that_fails_leaves_nothing_open(store: Store, other: Store) -> None:
    def fail() -> None:
        store.header("a")
        raise Oops

    with pytest.raises(Oops):
        store.snapshot(fail)
    put(other, "a", "k", 1)
    assert state(store, "a") == {"k": 1}
    put(store, "a", "k", 2)


def test_no_transaction_begins_inside_a_snapshot(store: Store) -> None:
    with pytest.raises(RuntimeError):
        store.snapshot(lambda: put(store, "a"))
    assert state(store, "a") == {}
    put(store, "a")


def test_readers_never_see_half_a_transaction(store: Store, other: Store) -> None:
    stop = threading.Event()

    def work() -> None:
        number = state(store, "a").get("k", 0) + 1
        for name in ("a", "b"):
            store.write(name, Changes(state={"k": value(number)}), NOW)

    def write_on() -> None:
        try:
            for _ in range(60):
                store.transaction(["a", "b"], work)
        finally:
            stop.set()

    def read(one: Store) -> None:
        while not stop.is_set():
            first, second = one.snapshot(lambda: (state(one, "a"), state(one, "b")))
            assert first == second

    in_threads(write_on, lambda: read(store), lambda: read(other))


def test_a_document_is_read_as_it_is_at_one_moment(store: Store, other: Store) -> None:
    stop = threading.Event()

    def write_on() -> None:
        try:
            for number in range(1, 100):
                entries, mark = log(number, start=number % 5), {"k": value(number)}
                write(store, "a", entries=entries, state=mark, lua_state=mark, extras=(value(number),))
        finally:
            stop.set()

    def read() -> None:
        while not stop.is_set():
            found = other.read("a")
            if found is not None:
                header, document = found
                assert max(one.result for one in document.log) == header.version
                marks = (document.state["k"], document.lua_state["k"], document.extras)
                assert marks == (value(header.version),) * 3

    in_threads(write_on, read)


def test_the_open_conflicts_of_a_document_are_those_of_one_moment(store: Store, other: Store) -> None:
    stop = threading.Event()
    numbers = [store.transaction((), partial(store.put_conflict, conflict(key=f"k{n}"))) for n in range(10)]

    def toggle() -> None:
        try:
            for _ in range(20):
                for resolved in ("local", None):
                    for number in numbers:
                        record = conflict(key=f"k{number}", resolved=resolved)
                        store.transaction((), partial(store.put_conflict, record, number))
        finally:
            stop.set()

    def look() -> None:
        while not stop.is_set():
            assert all(one.resolved is None for one in other.conflicts(procedure_id="a").values())

    in_threads(toggle, look)


def test_a_close_in_the_middle_of_a_snapshot(harness: StoreHarness, other: Store) -> None:
    """It is of its moment, or over."""
    store = harness.open()
    put(store, "a", "k", 1)
    began, end = threading.Event(), threading.Event()

    def work() -> None:
        before = picture(store)
        began.set()
        end.wait(PATIENCE)
        try:
            assert picture(store) == before
        except CacheClosed:
            pass

    def look() -> None:
        try:
            store.snapshot(work)
        except CacheClosed:
            pass

    def close() -> None:
        began.wait(PATIENCE)
        put(other, "a", "k", 2)
        threading.Timer(0.2, end.set).start()
        store.close()

    in_threads(look, close)
    assert state(other, "a") == {"k": 2}
