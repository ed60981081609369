"""The contract of a store: damage concerns the document that it is in, and can be put in order, or forgotten."""

from __future__ import annotations

import math
import time
from functools import partial

import pytest

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Header, Pending, Store
from store.acts import NOW, do, header_of, in_threads, log, picture, put, results, state, value, write
from store.stores import StoreHarness

NAMES = ["the damaged/one", "fine", "zzz"]


def damaged(harness: StoreHarness, store: Store) -> str:
    """The name of one that was damaged; others are there as well."""
    for name in NAMES:
        write(store, name, entries=log("x"), state={"k": value(1)}, status=("RUNNING", None))
        do(store, name, "put_base", {"of": name})
    harness.damage(NAMES[0])
    return NAMES[0]


def test_damage_of_a_document_is_raised_for_it(harness: StoreHarness, store: Store, other: Store) -> None:
    name = damaged(harness, store)
    for one in (store, other, harness.open()):
        for act in (one.header, one.read):
            with pytest.raises(CacheCorrupted, match=name):
                act(name)
        for method, arguments in {
            "write": (Changes(state={"k": value(2)}), NOW),
            "merge": (Changes(state={"k": value(2)}), (), NOW),
            "adopt": (Changes(state={"k": value(2)}), ()),
            "sweep": (),
            "put_header": (Header(),),
        }.items():
            with pytest.raises(CacheCorrupted, match=name):
                do(one, name, method, *arguments)


def test_damage_of_a_document_does_not_affect_others(harness: StoreHarness, store: Store, other: Store) -> None:
    damaged(harness, store)
    for number, one in enumerate((store, other, harness.open())):
        assert {*NAMES} <= {*one.procedure_ids()}
        assert {*one.due(NOW + 1)} == {*NAMES}
        headers = one.headers()
        assert NAMES[0] in str(headers.pop(NAMES[0]))
        assert headers == {name: header_of(one, name) for name in one.procedure_ids() if name != NAMES[0]}
        assert one.idle(time.time() + 1000) == []
        assert one.next_due() == pytest.approx(NOW, abs=0.002)
        put(one, "fine", "k", number)
        put(one, f"new {number}")
        assert state(one, "fine") == {"k": number}
        assert results(one, "fine") == ["x"]
        do(one, "fine", "put_pending", Pending(since=NOW, attempts=number))
        assert one.pending("fine") == Pending(since=NOW, attempts=number)
        in_threads(partial(state, one, "zzz"))
        do(one, f"new {number}", "drop_pending")
    do(store, "fine", "adopt", Changes(), ())
    assert sorted(store.due(NOW + 1)) == sorted({*NAMES} - {"fine"})


def test_a_place_in_the_outbox_that_is_damaged_is_one_all_the_same(harness: StoreHarness, store: Store) -> None:
    """What is known of it besides can be done without: the record is read again."""
    damaged(harness, store)
    found = store.outbox()
    assert found.pop(NAMES[0]) == store.pending(NAMES[0]) == Pending(since=0.0, reread=True)
    store.park(NAMES[0], "why", NOW)
    assert store.outbox()[NAMES[0]].parked == "why"
    assert NAMES[0] not in store.due(NOW + 1)
    assert found["fine"] == found["zzz"] == Pending(since=NOW, due=NOW)


def test_a_transaction_that_meets_damage_leaves_nothing(harness: StoreHarness, store: Store, other: Store) -> None:
    name = damaged(harness, store)

    def work() -> None:
        put(store, "fine", "k", 2)
        put(store, name, "k", 2)

    with pytest.raises(CacheCorrupted):
        store.transaction(["fine", name], work)
    assert state(other, "fine") == {"k": 1}


def test_recovering_says_what_is_damaged(harness: StoreHarness, store: Store) -> None:
    name = damaged(harness, store)
    assert any(name in said for said in store.recover(NOW))


def test_what_is_damaged_can_be_forgotten(harness: StoreHarness, store: Store, other: Store) -> None:
    name = damaged(harness, store)
    do(store, name, "forget")
    for one in (store, other, harness.open()):
        assert (one.header(name), one.read(name), one.pending(name), one.base(name)) == (None, None, None, None)
        assert one.procedure_ids() == [*one.headers()] == NAMES[1:]
        assert sorted(one.due(math.inf)) == NAMES[1:]
        assert one.unknown().version > 1
        assert one.recover(NOW) == []
    put(store, name, "k", 2)
    assert state(other, name) == {"k": 2}


def test_recovering_gives_a_place_back_that_was_lost(harness: StoreHarness, store: Store, other: Store) -> None:
    for name in ("fine", "lost", "parked"):
        put(store, name)
    store.park("parked", "why", NOW)
    before = picture(store), store.outbox()
    assert store.recover(NOW + 9) == []
    assert (picture(other), other.outbox()) == before
    harness.misplace("lost")
    assert store.due(math.inf) == ["fine"]
    (said,) = store.recover(NOW + 9)
    assert "lost" in said
    assert sorted(other.due(math.inf)) == ["fine", "lost"]
    assert (other.outbox().keys(), other.outbox()["parked"]) == (before[1].keys(), before[1]["parked"])
    assert other.recover(NOW + 9) == []
