"""The contract of a store: what belongs to all of it: the journal, garbage, traces, and what processes tell each other."""

from __future__ import annotations

import os
import random
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from plexus_tactus_cache.errors import CacheClosed, EndpointMismatch, StoreReadOnly
from plexus_tactus_cache.reconcile.journal import ConflictRecord
from plexus_tactus_cache.store.contract import Link, Store
from store.acts import (
    NAMES,
    NOW,
    PATIENCE,
    Act,
    conflict,
    do,
    document_writes,
    fill,
    helping,
    in_threads,
    inside,
    other_writes,
    picture,
    put,
    write,
)
from store.stores import StoreHarness

# --- the journal ------------------------------------------------------------------------------------------


def test_conflicts_by_number(store: Store, other: Store) -> None:
    records = [conflict(key=f"k{number}", local={"n": [number]}, remote=None) for number in range(12)]
    numbers = [store.transaction((), partial(store.put_conflict, one)) for one in records]
    assert numbers == sorted(set(numbers))
    for one in (store, other):
        assert one.conflicts() == dict(zip(numbers, records, strict=True))
        assert list(one.conflicts()) == numbers
        assert one.conflicts(resolved=True) == {}


DIFFERENT: list[dict[str, Any]] = [
    *({}, {"procedure_id": "b"}, {"part": "lua_state"}, {"key": "K"}, {"key": 1}, {"key": "1"}, {"key": None}),
    *({"kept": "remote"}, {"kept": None}, {"reason": "Why"}, {"prefix": "p"}, {"base": 0}, {"base": {}}),
    *({"local": 9}, {"local": True}, {"local": "1"}, {"local": None}, {"remote": 9}, {"remote": [2]}),
]


def test_conflicts_that_differ_in_anything_but_the_time_are_two(store: Store, other: Store) -> None:
    records = [conflict(**fields) for fields in DIFFERENT]
    numbers = [store.transaction((), partial(store.put_conflict, one)) for one in records]
    assert numbers == sorted({*numbers})
    for number, record in zip(numbers, records, strict=True):
        again = record._replace(at=NOW + 99)
        assert other.transaction((), partial(other.put_conflict, again)) == number
    assert other.conflicts() == dict(zip(numbers, records, strict=True))


def test_a_new_conflict_may_be_resolved_already(store: Store, other: Store) -> None:
    done = conflict(resolved="local")
    number = store.transaction((), lambda: store.put_conflict(done))
    assert (other.conflict(number), other.conflicts(), other.open_conflicts()) == (done, {}, 0)
    assert other.conflicts(resolved=True) == {number: done}
    assert store.transaction((), lambda: store.put_conflict(conflict())) > number
    assert other.open_conflicts() == 1


def test_a_conflict_by_its_number(store: Store, other: Store) -> None:
    def put(record: ConflictRecord, number: int | None = None) -> int:
        return store.transaction((), lambda: store.put_conflict(record, number))

    def shown() -> tuple[dict[int, ConflictRecord], dict[int, ConflictRecord]]:
        opened, resolved = other.conflicts(), other.conflicts(resolved=True)
        assert {n: other.conflict(n) for n in range(60)} == dict.fromkeys(range(60)) | opened | resolved
        assert other.open_conflicts() == store.open_conflicts() == len(opened)
        assert other.conflicts(procedure_id="a") == opened
        assert other.conflicts(procedure_id="a", resolved=True) == resolved
        return opened, resolved

    record, done, changed = conflict(), conflict(resolved="local"), conflict(remote=9)
    assert (shown(), other.conflict(-1)) == (({}, {}), None)
    first = put(record)
    assert put(done, first) == first
    assert shown() == ({}, {first: done})
    second = put(record)  # the same happened once more
    assert second > first
    assert shown() == ({second: record}, {first: done})
    assert put(changed, second) == second
    assert shown() == ({second: changed}, {first: done})
    assert put(changed) == second
    third = put(record)  # what it was before is known no more
    assert shown() == ({second: changed, third: record}, {first: done})
    put(done, third)
    assert put(record, first) == first  # opened again
    assert put(record) == first
    assert shown() == ({first: record, second: changed}, {third: done})
    assert put(conflict(key="far"), 50) == 50
    assert put(conflict(key="next")) > 50


def test_a_conflict_that_two_store_at_once_is_one(store: Store, other: Store) -> None:
    def add(one: Store) -> None:
        numbers.extend(one.transaction((), partial(one.put_conflict, conflict(key=f"k{n}"))) for n in range(10))

    numbers: list[int] = []
    in_threads(*[partial(add, one) for one in (store, other, store, other)])
    assert (len(numbers), sorted({*numbers})) == (40, [*store.conflicts()])
    assert store.open_conflicts() == 10


# --- objects that nothing refers to -----------------------------------------------------------------------


def test_garbage_may_go_when_it_is_due(store: Store) -> None:
    """At that very moment; its keys come from anything that can be walked once."""
    do(store, "a", "put_garbage", (key for key in ("k1", "k2", "k3")), NOW + 10)
    assert store.garbage(NOW + 9.9) == {}
    assert {name: sorted(keys) for name, keys in store.garbage(NOW + 10).items()} == {"a": ["k1", "k2", "k3"]}
    do(store, "a", "drop_garbage", (key for key in ("k1", "k3")))
    assert store.garbage(NOW + 10) == {"a": ["k2"]}
    do(store, "a", "put_garbage", (), NOW)
    assert store.garbage_due() == NOW + 10


def test_garbage_by_the_time_that_it_may_go(store: Store, other: Store) -> None:
    assert store.garbage_due() is None
    do(store, "late", "put_garbage", ["k3"], NOW + 30)
    do(store, "p/q", "put_garbage", ["a/b", "a%2Fb"], NOW + 10)
    do(store, "late", "put_garbage", ["k2"], NOW + 20)
    for one in (store, other):
        assert one.garbage_due() == pytest.approx(NOW + 10, abs=0.002)
        assert one.garbage(NOW + 9) == {}
        found = one.garbage(NOW + 20.01)
        assert {name: sorted(keys) for name, keys in found.items()} == {"p/q": ["a%2Fb", "a/b"], "late": ["k2"]}
        assert sorted(one.garbage(NOW + 99)["late"]) == ["k2", "k3"]
    do(store, "p/q", "drop_garbage", ["a/b"])
    assert other.garbage(NOW + 15) == {"p/q": ["a%2Fb"]}
    do(store, "p/q", "drop_garbage", ["a%2Fb", "unknown"])
    assert other.garbage_due() == pytest.approx(NOW + 20, abs=0.002)
    do(store, "late", "put_garbage", ["k2"], NOW + 40)
    do(store, "late", "drop_garbage", ["k2"])
    assert other.garbage(NOW + 99) == {"late": ["k3"]}
    do(store, "late", "drop_garbage", ["k3"])
    assert other.garbage_due() is None


def test_keys_with_one_name_belong_to_their_procedures(store: Store) -> None:
    for name in ("a", "b"):
        do(store, name, "put_garbage", ["k"], NOW)
    do(store, "a", "drop_garbage", ["k"])
    assert store.garbage(NOW + 1) == {"b": ["k"]}


# --- traces, link, requests, endpoint ---------------------------------------------------------------------


def test_traces_by_kind_and_name(store: Store, other: Store) -> None:
    assert (store.trace("run", "x"), store.traces("run")) == (None, [])
    for name in random.Random(2).sample(NAMES, len(NAMES)):
        store.transaction((), partial(store.put_trace, "run", name, name.encode()))
    store.transaction((), lambda: store.put_trace("breakpoints", "p/q", b"\x00\xff"))
    for one in (store, other):
        assert one.traces("run") == [name.encode() for name in sorted(NAMES)]
        assert one.traces("breakpoints") == [b"\x00\xff"]
        assert one.trace("run", "p/q") == b"p/q"
        assert one.trace("breakpoints", "p/q") == b"\x00\xff"
    store.transaction((), lambda: store.put_trace("run", "p/q", b"new"))
    assert other.trace("run", "p/q") == b"new"
    assert other.trace("run", "p%2Fq") == b"p%2Fq"
    store.transaction((), lambda: store.put_trace("run", "p/q", b""))
    assert (other.trace("run", "p/q"), b"" in other.traces("run")) == (b"", True)


def test_the_link_is_what_was_last_put(store: Store, other: Store) -> None:
    assert store.link() == other.link() == Link()
    link = Link("throttled", "too much", 3, NOW + 5.5, True, NOW - 1, "fingerprint")
    store.transaction((), lambda: store.put_link(link))
    assert store.link() == other.link() == link
    other.transaction((), lambda: other.put_link(Link(problem="")))
    assert store.link() == other.link() == Link(problem="")


def test_requests_stand_until_they_are_dropped(store: Store, other: Store) -> None:
    assert store.requests() == []
    for name in ("one", "two", "one"):
        store.transaction((), partial(store.put_request, name))
    assert sorted(other.requests()) == ["one", "two"]
    for name in ("one", "unknown"):
        other.transaction((), partial(other.drop_request, name))
    assert store.requests() == ["two"]


def test_a_store_belongs_to_one_endpoint(harness: StoreHarness, store: Store, other: Store) -> None:
    assert store.endpoint is other.endpoint is None
    store.check("https://one/api")
    store.bind("https://one/api")
    store.bind("https://one/api")
    for one in (store, other, harness.open()):
        assert one.endpoint == "https://one/api"
        one.check("https://one/api")
        for act in (one.check, one.bind):
            for foreign in ("https://two", "https://one/api/v2", "https://one/ap", "https://ONE/api", ""):
                with pytest.raises(EndpointMismatch, match="https://one/api"):
                    act(foreign)
        assert one.endpoint == "https://one/api"


def test_a_binding_is_part_of_its_transaction(store: Store, other: Store) -> None:
    def work() -> None:
        store.bind("https://one")
        assert store.endpoint == "https://one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.transaction((), work)
    assert store.endpoint is other.endpoint is None
    store.check("https://two")
    store.bind("https://two")
    assert store.endpoint == other.endpoint == "https://two"


def test_of_two_that_bind_at_once_one_is_too_late(store: Store, other: Store) -> None:
    begun = threading.Event()

    def work() -> None:
        store.bind("https://one")
        begun.set()
        time.sleep(0.2)  # it cannot be seen from here that the other waits; if it does not, the test is easier

    def too_late() -> None:
        begun.wait(PATIENCE)
        with pytest.raises(EndpointMismatch):
            other.bind("https://two")

    in_threads(lambda: store.transaction((), work), too_late)
    assert store.endpoint == other.endpoint == "https://one"


# --- the store itself -------------------------------------------------------------------------------------


def test_every_opener_knows_which_store_it_is(harness: StoreHarness, store: Store, other: Store) -> None:
    before = store.store_id
    assert before
    assert {store.location, other.location} == {harness.open().location} != {""}
    put(store, "a")
    assert {store.store_id, other.store_id, harness.open().store_id} == {before}
    with helping(harness.opening()) as process:
        assert process.do("store.store_id") == before
    assert store.read_only is None


def test_a_store_that_is_only_looked_at(harness: StoreHarness, store: Store) -> None:
    fill(store)
    before, looking = picture(store), harness.open(read_only=True)
    assert looking.read_only
    acts: dict[str, Act] = {**document_writes("a", 2), **other_writes(2), "nothing": lambda _: None}
    for name, act in acts.items():
        with pytest.raises(StoreReadOnly):
            looking.transaction("a", partial(act, looking))
        assert picture(looking) == picture(store) == before, name
    assert looking.lease("somebody") is None
    looking.check("https://one")
    assert not looking.tidy(1.0)
    assert (looking.store_id, looking.location) == (store.store_id, store.location)
    put(store, "b", "k", 1)
    assert picture(looking) == picture(store) != before
    looking.close()
    with pytest.raises(CacheClosed):
        looking.header("a")


def test_the_writer_is_the_process_that_writes(harness: StoreHarness, store: Store, tmp_path: Path) -> None:
    def known(pid: int) -> bool:
        return store.writer() in (pid, None)  # as far as the store knows one

    assert store.writer() is None
    store.transaction("a", lambda: put(store, "a"))
    assert store.transaction((), lambda: known(os.getpid()))
    with helping(harness.opening()) as process:
        pid = process.do("os.getpid()")
        inside(process, tmp_path)
        assert known(pid)
        process.kill()
    eventually(lambda: store.writer() is None, PATIENCE)


def test_the_size_is_what_it_takes(store: Store, other: Store) -> None:
    before = store.size
    assert before > 0
    for name in "ab":
        put(store, name, "large", random.Random(1).randbytes(2**20).hex())
    assert store.size > before + 2**21
    assert other.size > before + 2**21


def test_tidying_ends_and_takes_nothing(store: Store, other: Store) -> None:
    for number in range(8):
        put(store, "b", f"k{number}", "x" * 2**19)
    write(store, "b", state={f"k{number}": None for number in range(8)})
    fill(store)
    before, rounds = picture(other), 0
    while store.tidy(0.01):
        rounds += 1
        assert rounds < 10_000
    assert not other.tidy(0.0)
    assert picture(store) == picture(other) == before
