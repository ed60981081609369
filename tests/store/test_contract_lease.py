"""The contract of a store: one process at a time may sync it, and whoever lost that right changes nothing."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest
from helpers import eventually

from plexus_tactus_cache.errors import LeaseLost, StoreBusy
from plexus_tactus_cache.store.contract import LEASE_SECONDS, Lease, Store
from store.acts import PATIENCE, helping, in_child, in_threads, inside, picture, put, state
from store.stores import StoreHarness

STEP = LEASE_SECONDS / 3


def taken(store: Store, who: str = "somebody") -> Lease:
    found = store.lease(who)
    assert found is not None
    return found


def put_under(store: Store, lease: Lease, plain: int = 1) -> None:
    store.transaction("a", lambda: put(store, "a", "k", plain), lease=lease)


def wait_out(harness: StoreHarness, candidate: Store) -> Lease:
    """The lease of a holder that does not beat, for a candidate that asks all the while."""
    assert candidate.lease("candidate") is None
    for seconds in (STEP, STEP, STEP - 0.1):
        harness.clock.seconds += seconds
        assert candidate.lease("candidate") is None
    harness.clock.seconds += 0.2
    return taken(candidate, "candidate")


# --- one at a time ----------------------------------------------------------------------------------------


def test_one_holder_at_a_time(harness: StoreHarness, store: Store, other: Store) -> None:
    lease = taken(store)
    assert lease.beat()
    assert store.lease("again") is None
    assert other.lease("other") is None
    with helping(harness.opening()) as process:
        assert process.do("store.lease('process') is None")
    assert lease.beat()
    put_under(store, lease)
    assert state(other, "a") == {"k": 1}


def test_a_lease_that_was_released_is_free_at_once(store: Store, other: Store) -> None:
    before = taken(store)
    before.release()
    after = taken(other)
    assert store.lease("former") is None
    after.release()
    assert taken(store).beat()


def test_the_generation_rises_each_time(harness: StoreHarness, store: Store, other: Store) -> None:
    generations = []
    for one in (store, store, other, harness.open(), store):
        lease = taken(one)
        generations.append(lease.generation)
        lease.release()
    assert generations == sorted({*generations})
    with helping(harness.opening()) as process:
        assert process.do("store.lease('process').generation") > generations[-1]


def test_the_leader_is_named(store: Store, other: Store) -> None:
    assert store.leader() is None
    started = time.time()
    lease = taken(store, "process 7 on there")
    for one in (store, other):
        leader = one.leader()
        assert leader is not None
        assert (leader.who, leader.generation) == ("process 7 on there", lease.generation)
        assert started - 1 <= leader.since <= time.time() + 1
    since = [one.since for one in (store.leader(), other.leader()) if one is not None]
    eventually(lambda: time.time() > since[0] + 0.01, PATIENCE)
    assert lease.beat()
    assert [one.since for one in (store.leader(), other.leader()) if one is not None] == since == [since[0]] * 2
    beat = store.leader()
    assert beat is not None
    assert beat.beat > since[0]
    lease.release()
    assert store.leader() is other.leader() is None
    after = taken(other, "the next")
    leader = store.leader()
    assert leader is not None
    assert (leader.who, leader.generation) == ("the next", after.generation)


def test_a_lease_that_was_given_back_is_good_for_nothing(store: Store, other: Store) -> None:
    """Also while nobody else took it."""
    lease = taken(store)
    lease.release()
    assert not lease.beat()
    with pytest.raises(LeaseLost):
        put_under(store, lease)
    assert (state(store, "a"), store.leader()) == ({}, None)
    assert taken(other).generation > lease.generation


def test_a_beat_waits_for_no_writer(harness: StoreHarness, tmp_path: Path) -> None:
    hurried = harness.open(lock_timeout=0.2)
    lease = taken(hurried)
    with helping(harness.opening()) as process:
        inside(process, tmp_path)
        assert lease.beat()
        process.kill()


def test_releasing_twice_or_long_after_frees_nobody_elses(store: Store, other: Store) -> None:
    old = taken(store)
    old.release()
    old.release()
    new = taken(store)
    old.release()
    assert other.lease("other") is None
    assert new.beat()
    put_under(store, new)
    assert not old.beat()


def test_many_candidates_and_one_winner(harness: StoreHarness, store: Store, other: Store) -> None:
    found: list[Lease | None] = []

    def ask(one: Store) -> None:
        found.extend(one.lease("one of many") for _ in range(5))

    in_threads(*[partial(ask, one) for one in (store, store, other, harness.open(), harness.open())])
    winners = [lease for lease in found if lease is not None]
    assert len(winners) <= 1  # those who ask at the very same time may all have to ask again
    lease = winners[0] if winners else taken(store)
    assert lease.beat()


def test_a_candidate_that_could_not_write_can_ask_again(harness: StoreHarness, store: Store, tmp_path: Path) -> None:
    hurried = harness.open(lock_timeout=0.2)
    with helping(harness.opening()) as process:
        inside(process, tmp_path)
        with pytest.raises(StoreBusy):
            hurried.lease("hurried")
    taken(store).release()
    assert taken(hurried).beat()


def test_a_store_that_is_closed_gives_its_lease_back(harness: StoreHarness, store: Store) -> None:
    closing = harness.open()
    lease = taken(closing)
    closing.close()
    taken(store)
    lease.release()  # too late, and no harm
    assert store.lease("again") is None


# --- a holder that is gone --------------------------------------------------------------------------------


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(harness: StoreHarness, store: Store) -> None:
    with helping(harness.opening()) as process:
        generation = process.do("(lease := store.lease('process')).generation")
        assert store.lease("here") is None
        process.kill()
        lease = taken(store, "here")
    assert lease.generation > generation
    leader = store.leader()
    assert leader is not None
    assert leader.who == "here"


def test_the_lease_of_a_process_is_not_kept_by_its_children(harness: StoreHarness, store: Store) -> None:
    with helping(harness.opening()) as process:
        process.do("lease = store.lease('process')")
        child = process.do("os.fork() or time.sleep(1000)")
        try:
            assert store.lease("here") is None
            process.kill()
            eventually(lambda: store.lease("here"), PATIENCE)  # the child may be about to let go of what it inherited
        finally:
            os.kill(child, 9)


# --- a holder that is stuck -------------------------------------------------------------------------------


def test_a_lease_is_taken_from_a_holder_that_does_not_beat(harness: StoreHarness, store: Store, other: Store) -> None:
    before = taken(store)
    after = wait_out(harness, other)
    assert after.generation > before.generation
    assert after.beat()
    leader = store.leader()
    assert leader is not None
    assert (leader.who, leader.generation) == ("candidate", after.generation)


def test_a_process_that_is_stopped_loses_the_lease(harness: StoreHarness, store: Store) -> None:
    with helping(harness.opening()) as process:
        process.do("lease = store.lease('process')")
        process.do("from plexus_tactus_cache.errors import *")
        process.suspend()
        lease = wait_out(harness, store)
        put_under(store, lease)
        process.resume()
        assert not process.do("lease.beat()")
        process.tell("store.transaction('a', lambda: put(store, 'a', 'k', 'too late'), lease=lease)")
        with pytest.raises(AssertionError, match="LeaseLost"):
            process.answer()
        process.do("lease.release()")
        assert process.do("store.lease('again') is None")
    assert lease.beat()
    assert state(store, "a") == {"k": 1}


def test_a_holder_that_beats_keeps_the_lease(harness: StoreHarness, store: Store, other: Store) -> None:
    lease = taken(store)
    for _ in range(20):
        harness.clock.seconds += STEP
        assert lease.beat()
        assert other.lease("other") is None
    put_under(store, lease)


def test_a_candidate_that_did_not_ask_all_the_while_takes_nothing(harness: StoreHarness, store: Store) -> None:
    lease, late, paused = taken(store), harness.open(), harness.open()
    assert paused.lease("paused") is None
    harness.clock.seconds += LEASE_SECONDS * 100
    assert late.lease("late") is None
    assert lease.beat()
    assert paused.lease("paused") is None


def test_a_holder_that_lost_the_lease_changes_nothing(harness: StoreHarness, store: Store, other: Store) -> None:
    put(store, "a", "k", 0)
    old = taken(store)
    new = wait_out(harness, other)
    before = picture(store)

    def work() -> None:
        put(store, "a", "k", 9)
        store.put_request("too late")

    for named in ("a", ["a", "b"]):
        with pytest.raises(LeaseLost):
            store.transaction(named, work, lease=old)

    def around() -> None:
        work()
        put_under(store, old)

    with pytest.raises(LeaseLost):  # what is around it is undone, too
        store.transaction("a", around)
    assert picture(store) == picture(other) == before
    put_under(other, new, 1)
    put(store, "a", "free", 1)  # whoever writes without it needs none
    assert state(store, "a") == {"k": 1, "free": 1}


def test_a_holder_notices_that_it_lost_the_lease(harness: StoreHarness, store: Store, other: Store) -> None:
    old = taken(store)
    assert old.beat()
    new = wait_out(harness, other)
    assert not old.beat()
    assert new.beat()
    assert not old.beat()


def test_a_former_holder_becomes_a_candidate(harness: StoreHarness, store: Store, other: Store) -> None:
    old = taken(store)
    new = wait_out(harness, other)
    old.release()
    assert store.lease("former") is None  # before the new holder ever moved
    for _ in range(6):
        harness.clock.seconds += STEP
        assert new.beat()
        assert store.lease("former") is None
    put_under(other, new)
    new.release()
    again = taken(store, "former")
    assert again.generation > new.generation
    put_under(store, again)
    with pytest.raises(LeaseLost):
        put_under(other, new)


def test_a_lease_that_was_taken_from_the_living_is_free_at_once_when_it_is_released(
    harness: StoreHarness, store: Store, other: Store
) -> None:
    old = taken(store)
    new = wait_out(harness, other)
    new.release()
    assert store.leader() is None
    third = harness.open()
    last = taken(third)
    assert last.generation > new.generation
    old.release()
    assert store.lease("former") is None
    assert last.beat()
    put_under(third, last)


def test_the_beats_of_a_former_holder_keep_no_lease(harness: StoreHarness, store: Store, other: Store) -> None:
    old, third = taken(store), harness.open()
    new = wait_out(harness, other)
    assert third.lease("third") is None
    for _ in range(3):
        harness.clock.seconds += STEP + 0.1
        assert not old.beat()
        last = third.lease("third")
    assert last is not None
    assert last.generation > new.generation
    with pytest.raises(LeaseLost):
        put_under(other, new)


def test_a_lease_that_is_taken_twice_from_the_living(harness: StoreHarness, store: Store, other: Store) -> None:
    """Each of the holders is stuck; the first wakes up and is a candidate again."""
    first = taken(store)
    second = wait_out(harness, other)
    third = wait_out(harness, harness.open())
    assert first.generation < second.generation < third.generation
    first.release()
    assert not second.beat()
    second.release()
    assert third.beat()
    assert store.lease("first") is None
    assert other.lease("second") is None
    third.release()
    assert taken(store).generation > third.generation


# --- forks ------------------------------------------------------------------------------------------------


def test_a_lease_stays_with_the_parent(store: Store, other: Store) -> None:
    lease = taken(store)

    def child() -> None:
        assert store.lease("child") is None
        assert not lease.beat()
        with pytest.raises(LeaseLost):
            put_under(store, lease, 2)
        lease.release()
        store.close()

    assert in_child(child)
    assert other.lease("other") is None
    assert lease.beat()
    put_under(store, lease)
    assert state(other, "a") == {"k": 1}
    lease.release()
    assert taken(other).generation > lease.generation


def test_a_child_can_take_a_lease_that_is_free(store: Store) -> None:
    taken(store).release()

    def child() -> None:
        lease = taken(store, "child")
        assert lease.beat()
        put_under(store, lease)

    assert in_child(child)
    assert state(store, "a") == {"k": 1}
    assert taken(store, "parent").beat()
