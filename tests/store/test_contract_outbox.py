"""The contract of a store: the outbox, in the order in which its documents are due."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.store.contract import Header, Pending, Store
from store.acts import NOW, PATIENCE, in_threads, put
from store.stores import StoreHarness

GRAIN = 0.002  # seconds: what a moment may be off by


def queue(store: Store, procedure_id: str, **place: Any) -> None:
    pending = Pending(**{"since": NOW, **place})
    store.transaction(procedure_id, lambda: store.put_pending(procedure_id, pending))


def drop(store: Store, procedure_id: str) -> None:
    store.transaction(procedure_id, lambda: store.drop_pending(procedure_id))


def update(store: Store, procedure_id: str, **changes: Any) -> None:
    store.transaction(procedure_id, lambda: store.update_pending(procedure_id, NOW, **changes))


def near(found: Pending, wanted: Pending) -> bool:
    """The same place, to the grain."""
    times = ("since", "due")
    return found._replace(**{name: getattr(wanted, name) for name in times}) == wanted and all(
        getattr(found, name) == pytest.approx(getattr(wanted, name), abs=GRAIN) for name in times
    )


def test_an_empty_outbox(store: Store) -> None:
    assert (store.outbox(), store.due(math.inf), store.due(0, 0), store.next_due()) == ({}, [], [], None)


def test_every_field_of_a_place_comes_back(store: Store, other: Store) -> None:
    place = Pending(NOW, NOW + 0.25, 3, "parked", "error", True, NOW - 1, "remote")
    queue(store, "a", **place._asdict())
    assert store.pending("a") == other.pending("a") == place
    assert other.outbox() == {"a": place}


def test_those_that_are_due_come_in_the_order_of_their_moments(store: Store, other: Store) -> None:
    moments = {
        f"p{number}": NOW + offset for number, offset in enumerate(random.Random(3).sample(range(-500, 500), 40))
    }
    for name, moment in moments.items():
        queue(store, name, since=NOW - 1000, due=moment)
    order = sorted(moments, key=lambda name: moments[name])
    for one in (store, other):
        assert one.due(NOW + 1000) == one.due(math.inf) == order
        assert one.due(NOW) == [name for name in order if moments[name] <= NOW]
        assert one.due(NOW - 1000) == []
        assert one.next_due() == pytest.approx(moments[order[0]], abs=GRAIN)


def test_a_moment_is_not_before_it_became_dirty(store: Store) -> None:
    queue(store, "a", since=NOW + 10, due=NOW)
    queue(store, "b", since=NOW, due=NOW + 5)
    assert store.due(NOW + 20) == ["b", "a"]
    assert store.due(NOW + 9) == ["b"]


def test_those_too_far_off_come_after_the_others(store: Store) -> None:
    """Their moment was written by a clock that jumped."""
    for name, moment in {"far": NOW + 1000, "farther": NOW + 5000, "due": NOW - 1, "soon": NOW + 30}.items():
        queue(store, name, since=0.0, due=moment)
    assert store.due(NOW, NOW + 60) == ["due", "far", "farther"]
    assert store.due(NOW, NOW + 2000) == ["due", "farther"]
    assert store.due(NOW, NOW + 9000) == ["due"]
    assert store.due(NOW + 1000, NOW) == ["due", "soon", "far", "farther"]  # nobody twice


@pytest.mark.parametrize("moment", [0.0, 1.0, 1e9, 1e10, 1e12, 1e15])
def test_whatever_the_clock_said_it_is_found(store: Store, moment: float) -> None:
    queue(store, "usual")
    queue(store, "odd", since=0.0, due=moment)
    assert sorted(store.due(math.inf)) == ["odd", "usual"]
    assert store.due(NOW, NOW + 60) == (["odd", "usual"] if moment < NOW else ["usual", "odd"])
    drop(store, "odd")
    assert store.due(math.inf) == ["usual"]


def test_parked_ones_are_listed_and_not_due(store: Store) -> None:
    for name in "abc":
        put(store, name)
    before = store.pending("b")
    assert before is not None
    store.transaction("b", lambda: store.park("b", "why", NOW + 5))
    assert store.due(math.inf) == store.due(0, 0) == ["a", "c"]
    parked = store.pending("b")
    assert parked == before._replace(parked="why", reread=True)
    assert store.outbox() == {"a": before, "b": parked, "c": before}
    for name in "ac":
        drop(store, name)
    assert store.next_due() is None
    queue(store, "b", **parked.again()._asdict())
    assert store.due(NOW) == ["b"]


def test_a_place_that_is_updated(store: Store, other: Store) -> None:
    queue(store, "a", attempts=1, error="old")
    update(store, "a", due=NOW + 50, attempts=2)
    assert other.pending("a") == Pending(since=NOW, due=NOW + 50, attempts=2, error="old")
    assert (other.due(NOW + 49), other.due(NOW + 50)) == ([], ["a"])
    update(store, "a", due=0.0, error=None, doubtful_since=NOW + 1, fork="local", reread=True)
    assert other.due(NOW) == ["a"]
    assert other.pending("a") == Pending(NOW, 0.0, 2, None, None, True, NOW + 1, "local")
    update(store, "a", doubtful_since=None, fork=None, reread=False, error="")
    assert other.pending("a") == Pending(NOW, 0.0, 2, error="")
    update(store, "a", parked="")
    assert other.due(math.inf) == []
    update(store, "a", parked=None)
    assert other.due(NOW) == ["a"]


def by_update(store: Store) -> None:
    store.update_pending("a", NOW + 3, error="new")  # a transaction of its own


def by_parking(store: Store) -> None:
    store.park("a", "why", NOW + 3)


def by_placing(store: Store) -> None:
    queue(store, "a", since=NOW + 3, fork="remote")


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("how", [by_update, by_parking, by_placing])
def test_a_document_that_has_a_place_is_queued(
    store: Store, other: Store, how: Callable[[Store], None], stored: bool
) -> None:
    """Else the next write would give it another one, and what the first said would be lost."""
    if stored:
        store.transaction("a", lambda: store.adopt("a", Changes(), ()))
    how(store)
    place = store.pending("a")
    assert place is not None
    assert place.since == NOW + 3
    assert other.header("a") == Header(queued=True)
    put(store, "a", now=NOW + 9)
    store.transaction("a", lambda: store.merge("a", Changes(), (), NOW + 9))
    assert other.pending("a") == place
    drop(store, "a")
    header = other.header("a")
    assert header is not None
    assert (header.queued, header.dirty) == (False, True)
    put(store, "a", "k", 2, now=NOW + 20)
    assert other.pending("a") == Pending(since=NOW + 20, due=NOW + 20)
    drop(store, "never stored")
    assert store.header("never stored") is None


def test_a_place_that_is_dropped_and_taken_again(store: Store) -> None:
    put(store, "a", now=NOW)
    put(store, "b", now=NOW)
    header = store.header("a")
    assert header is not None

    def confirm() -> None:
        store.put_header("a", header._replace(pushed=header.version, queued=False))
        store.drop_pending("a")

    store.transaction("a", confirm)
    assert (store.pending("a"), store.due(math.inf)) == (None, ["b"])
    drop(store, "a")  # twice is fine
    put(store, "a", "k", 2, now=NOW + 9)
    assert store.pending("a") == Pending(since=NOW + 9, due=NOW + 9)
    assert store.due(math.inf) == ["b", "a"]


def test_a_transaction_that_fails_moves_nothing(store: Store) -> None:
    queue(store, "a", due=NOW + 1)
    queue(store, "b", due=NOW + 2)

    def fail() -> None:
        store.update_pending("a", NOW, due=NOW + 9)
        store.park("b", "why", NOW)
        raise KeyboardInterrupt

    before = store.outbox()
    with pytest.raises(KeyboardInterrupt):
        store.transaction(["a", "b"], fail)
    assert store.due(NOW + 50) == ["a", "b"]
    assert store.outbox() == before


MOMENTS = st.floats(0, 3e9) | st.integers(0, 40_000).map(lambda tenths: NOW + tenths / 10_000)
PLACES = st.none() | st.tuples(MOMENTS, MOMENTS, st.sampled_from([None, None, "why"])).map(
    lambda found: Pending(since=found[0], due=found[1], parked=found[2])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("abcd"), PLACES), max_size=12), until=MOMENTS, after=MOMENTS)
def test_any_sequence_leaves_the_outbox_in_order_and_nothing_stale(
    store: Store, steps: list[tuple[str, Pending | None]], until: float, after: float
) -> None:
    wanted: dict[str, Pending] = {}

    def work() -> None:
        for name in "abcd":
            store.drop_pending(name)
        for name, place in steps:
            if place is None:
                store.drop_pending(name)
                wanted.pop(name, None)
            else:
                store.put_pending(name, place)
                wanted[name] = place

    store.transaction(["a", "b", "c", "d"], work)
    found = store.outbox()
    assert found.keys() == wanted.keys()
    assert all(near(found[name], place) for name, place in wanted.items())
    moments = {name: place.moment for name, place in wanted.items() if place.parked is None}
    assert sorted(store.due(math.inf)) == sorted(moments)
    order = [moments[name] for name in store.due(math.inf)]
    assert all(later >= earlier - GRAIN for earlier, later in itertools.pairwise(order))
    in_time = {*store.due(until)}
    assert {name for name, moment in moments.items() if moment <= until} <= in_time
    assert all(moments[name] <= until + GRAIN for name in in_time)
    for name, moment in moments.items():
        assert name in store.due(moment)
    both = store.due(until, after)
    assert both[: len(in_time)] == store.due(until)
    assert len(both) == len({*both})
    assert {name for name, moment in moments.items() if moment > max(until, after) + GRAIN} <= {*both} - in_time
    first = store.next_due()
    assert (first is None) == (not moments)
    assert first is None or first == pytest.approx(min(moments.values()), abs=GRAIN)


def test_openers_that_queue_at_once_all_find_a_place(harness: StoreHarness, store: Store, other: Store) -> None:
    def fill(one: Store, name: str) -> None:
        for number in range(20):
            put(one, f"{name}{number}", now=NOW + number)

    in_threads(partial(fill, store, "a"), partial(fill, other, "b"), partial(fill, harness.open(), "c"))
    assert len(store.due(NOW + PATIENCE)) == 60
    assert {name[1:] for name in other.due(NOW + PATIENCE)[:3]} == {"0"}
