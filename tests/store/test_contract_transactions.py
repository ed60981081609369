"""The contract of a store: transactions are all or nothing, whatever is raised, and come one after the other."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers import eventually
from interrupts import unmeasured

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import LocalStoreError, StoreBusy
from plexus_tactus_cache.store.contract import Store
from store.acts import (
    NOW,
    PATIENCE,
    Act,
    conflict,
    count,
    document_writes,
    fill,
    helping,
    in_child,
    in_threads,
    inside,
    other_writes,
    picture,
    put,
    reads,
    state,
    value,
)
from store.stores import StoreHarness

MEGABYTE = "x" * 2**20


class Oops(Exception):
    """What a transaction fails with."""


# --- it is there ------------------------------------------------------------------------------------------


def test_a_transaction_returns_what_its_work_returns_and_others_see_what_it_wrote(store: Store, other: Store) -> None:
    header = store.transaction("a", lambda: store.write("a", Changes(state={"k": value(1)}), NOW))
    assert other.header("a") == header
    assert state(other, "a") == {"k": 1}


def test_nobody_sees_a_transaction_before_it_returns(store: Store, other: Store) -> None:
    def work() -> None:
        put(store, "a")
        assert state(other, "a") == {}
        in_threads(lambda: seen.append(state(store, "a")))

    seen: list[object] = []
    store.transaction("a", work)
    assert seen == [{}]
    assert state(other, "a") == {"k": 1}


def test_a_first_write_is_never_half_seen(store: Store, other: Store) -> None:
    """Nor taken for damage by those who look at a document while it comes to be."""
    names = [f"new {number}" for number in range(300)]
    begun = [threading.Event() for _ in names]

    def look() -> None:
        for name, event in zip(names, begun, strict=True):
            assert event.wait(PATIENCE)
            while other.header(name) is None:
                pass

    def write_all() -> None:
        for name, event in zip(names, begun, strict=True):
            event.set()
            put(store, name)

    in_threads(look, write_all)


@pytest.mark.parametrize("name", [*document_writes("a"), *other_writes(), "bind"])
def test_a_transaction_sees_what_it_wrote_so_far(store: Store, other: Store, name: str) -> None:
    """In lists of all, too; and just that is what others see when it is over."""
    _fill(store)
    acts: dict[str, Act] = {**document_writes("a", 2), **other_writes(2), "bind": lambda one: one.bind("https://one")}
    before, seen = picture(store), {}

    def work(first: str) -> None:
        acts[name](store)
        seen[first] = reads(store)[first]()
        raise Oops

    for first in before:  # each as the first that looks
        with pytest.raises(Oops):
            store.transaction("a", partial(work, first))
    assert picture(store) == before
    store.transaction("a", partial(acts[name], store))
    assert seen == picture(store) == picture(other)
    assert seen != before


# --- it is not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Oops, KeyboardInterrupt, SystemExit, LocalStoreError])
def test_what_a_transaction_wrote_before_an_exception_is_not_there(
    store: Store, other: Store, error: type[BaseException]
) -> None:
    """After each of all the writes that there are, over a store that has something of everything already."""
    fill(store)
    acts = list((document_writes("a", 2) | other_writes(2)).values())
    before = picture(store)

    def work(end: int, raised: BaseException) -> None:
        for act in acts[:end]:
            act(store)
        raise raised

    for end in range(1, len(acts) + 1):
        raised = error("at this point")
        with pytest.raises(error) as caught:
            store.transaction("a", partial(work, end, raised))
        assert caught.value is raised
        assert picture(store) == before
        assert picture(other) == before
    for one in (store, other):
        put(one, "a", "after", 1)
    assert state(other, "a")["after"] == 1


def test_every_write_changes_something(store: Store) -> None:
    """Else the test above would not notice that it stayed."""
    fill(store)
    for name, act in (document_writes("a", 2) | other_writes(2)).items():
        before = picture(store)
        store.transaction("a", partial(act, store))
        assert name == "sweep" or picture(store) != before, name


def test_an_error_of_the_store_undoes_the_transaction(harness: StoreHarness, store: Store, other: Store) -> None:
    put(store, "a")
    before = picture(store)

    def work() -> None:
        put(store, "a", "k", 2)
        put(store, "a", "large", MEGABYTE)

    with harness.failing(store), pytest.raises(LocalStoreError):
        store.transaction("a", work)
    assert picture(store) == before
    assert picture(other) == before
    put(store, "b")
    assert state(other, "b") == {"k": 1}
    store.transaction("a", work)
    assert state(other, "a") == {"k": 2, "large": MEGABYTE}


def test_an_error_of_the_store_that_is_caught_leaves_all_of_the_rest_or_nothing(
    harness: StoreHarness, store: Store, other: Store
) -> None:
    def work() -> None:
        put(store, "a", "before", 1)
        with contextlib.suppress(LocalStoreError):
            put(store, "a", "large", MEGABYTE)
        put(store, "a", "after", 1)

    wanted: dict[str, int] = {}
    with harness.failing(store):
        try:
            store.transaction("a", work)
            wanted = {"before": 1, "after": 1}
        except LocalStoreError:
            pass
    assert state(store, "a") == wanted
    assert state(other, "a") == wanted
    put(store, "a")
    assert state(other, "a") == {**wanted, "k": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that is raised in a finalizer
def test_a_signal_handler_that_raises_at_any_moment_leaves_all_or_nothing(store: Store, other: Store) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        found = state(store, "a")
        for key in "xyz":
            store.write("a", Changes(state={key: value(found.get(key, 0) + 1)}), NOW)

    started = time.monotonic()
    for _ in range(5):
        store.transaction("a", work)
    usual = (time.monotonic() - started) / 5
    acknowledged, interrupted = 5, 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with unmeasured():
            for _ in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(usual / 50, usual * 1.2))
                    store.transaction("a", work)
                    acknowledged += 1
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                found = state(other, "a")
                assert found["x"] == found["y"] == found["z"], found
                assert acknowledged <= found["x"] <= acknowledged + interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 10
    for one in (store, other):
        one.transaction("a", partial(put, one, "a", "after"))


def test_a_process_that_dies_in_the_middle_leaves_nothing(harness: StoreHarness, store: Store, tmp_path: Path) -> None:
    put(store, "a")
    with helping(harness.opening()) as process:
        inside(process, tmp_path)
        process.kill()
        put(store, "a", "after", 1)  # and does not have to be waited for
    assert state(store, "a") == {"k": 1, "after": 1}


# --- one inside another -----------------------------------------------------------------------------------


def test_an_inner_transaction_is_part_of_the_outer_one(store: Store, other: Store) -> None:
    def inner() -> str:
        put(store, "b", "inner", 1)
        return "inner's"

    def work() -> str:
        put(store, "a", "outer", 1)
        found = store.transaction("b", inner)
        assert state(other, "b") == {}
        assert state(store, "b") == {"inner": 1}
        return found

    assert store.transaction(["a", "b"], work) == "inner's"
    assert state(other, "a") == {"outer": 1}
    assert state(other, "b") == {"inner": 1}


def test_what_an_inner_transaction_wrote_goes_with_the_outer_one(store: Store, other: Store) -> None:
    def work() -> None:
        put(store, "a", "inner", 1)
        raise Oops

    _leaves_nothing(store, other, work)


def test_the_failure_of_an_inner_transaction_is_the_outer_ones(store: Store, other: Store) -> None:
    def fail() -> None:
        put(store, "a", "inner", 1)
        raise Oops

    def work() -> None:
        put(store, "a", "outer", 1)
        store.transaction("a", fail)

    _leaves_nothing(store, other, work)


def _leaves_nothing(store: Store, other: Store, work: Callable[[], None]) -> None:
    """Not even what would show later only, when the document is there."""
    before = picture(store)
    with pytest.raises(Oops):
        store.transaction("a", work)
    assert picture(store) == picture(other) == before
    put(store, "a", "after", 1)
    assert state(store, "a") == state(other, "a") == {"after": 1}


def test_the_failure_of_an_inner_transaction_that_is_caught_undoes_nothing(store: Store, other: Store) -> None:
    def fail() -> None:
        put(store, "a", "inner", 1)
        raise Oops

    def work() -> None:
        put(store, "a", "outer", 1)
        with contextlib.suppress(Oops):
            store.transaction("a", fail)
        put(store, "a", "after", 1)

    store.transaction("a", work)
    assert state(store, "a") == state(other, "a") == {"outer": 1, "inner": 1, "after": 1}


# --- which documents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", document_writes("a"))
@pytest.mark.parametrize("named", ["b", (), ["b", "c"]])
def test_a_transaction_writes_no_document_that_it_does_not_name(
    store: Store, other: Store, name: str, named: str | list[str]
) -> None:
    _fill(store)
    before = picture(store)

    def work() -> None:
        store.put_request("with it")
        document_writes("a", 2)[name](store)

    def caught() -> None:
        with pytest.raises(RuntimeError):
            document_writes("a", 2)[name](store)
        assert picture(store) == before

    with pytest.raises(RuntimeError):
        store.transaction(named, work)
    assert picture(store) == picture(other) == before
    store.transaction(named, caught)
    assert picture(store) == picture(other) == before


def test_an_inner_transaction_names_no_document_that_the_outer_one_does_not(store: Store) -> None:
    def work() -> None:
        put(store, "a")
        store.transaction(["a", "b"], lambda: None)

    with pytest.raises(RuntimeError):
        store.transaction("a", work)
    assert state(store, "a") == {}
    store.transaction(["a", "b"], work)


def test_the_whole_stores_may_be_written_in_any_transaction(store: Store) -> None:
    for named in ((), "a"):
        for act in other_writes(1).values():
            store.transaction(named, partial(act, store))
    assert store.requests() == ["request 1"]


@pytest.mark.parametrize("name", [*document_writes("a"), *other_writes()])
def test_what_is_not_written_in_a_transaction_is_refused(store: Store, other: Store, name: str) -> None:
    _fill(store)
    before = picture(store)
    acts = document_writes("a", 2) | other_writes(2)
    if name in ("park", "update_pending"):  # each is a transaction
        acts[name](store)
        assert picture(other) != before
        return
    with pytest.raises(RuntimeError):
        acts[name](store)
    with pytest.raises(RuntimeError):
        store.snapshot(lambda: acts[name](store))
    assert picture(store) == before
    assert picture(other) == before


def _fill(store: Store) -> None:
    """A store in which every write has something to do."""

    def work() -> None:
        put(store, "a", "k", 0)
        put(store, "a", "k", 1)
        store.write("a", Changes(variables={"unused": value(1)}), NOW)
        store.put_creation("a", {"name": "a"})
        store.put_garbage("b", ["key 1"], NOW)
        store.put_request("request 1")

    store.transaction("a", work)


# --- one after the other ----------------------------------------------------------------------------------


def test_writers_of_one_document_lose_nothing(harness: StoreHarness, store: Store, other: Store) -> None:
    def count_on(one: Store) -> None:
        for _ in range(25):
            count(one, "a")

    with helping(harness.opening()) as process:
        process.tell("for _ in range(25): count(store, 'a')")
        in_threads(*[partial(count_on, one) for one in (store, store, other, other)])
        process.answer()
    assert state(store, "a") == {"n": 125}
    header = store.header("a")
    assert header is not None
    assert header.version == 125


def test_writers_of_different_documents_all_come_through(harness: StoreHarness, store: Store, other: Store) -> None:
    def fill_up(one: Store, name: str) -> None:
        for number in range(50):
            put(one, name, f"k{number}", number)

    with helping(harness.opening()) as process:
        process.tell("for number in range(50): put(store, 'd', f'k{number}', number)")

        in_threads(partial(fill_up, store, "a"), partial(fill_up, store, "b"), partial(fill_up, other, "c"))
        process.answer()
    for name in "abcd":
        assert state(store, name) == state(other, name) == {f"k{number}": number for number in range(50)}


def test_documents_that_are_named_in_different_orders(harness: StoreHarness) -> None:
    """Nobody waits for somebody who waits for him."""
    one, another = harness.open(lock_timeout=20), harness.open(lock_timeout=20)

    def work(store: Store, named: list[str]) -> None:
        for name in named:
            store.write(name, Changes(state={"k": value(1)}), NOW)

    def write_on(store: Store, *named: str) -> Callable[[], object]:
        order = [*named]
        return lambda: [store.transaction(order, partial(work, store, order)) for _ in range(30)]

    orders = (("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c"))
    in_threads(*[write_on(store, *order) for order in orders for store in (one, another)])
    assert [header.version for header in one.headers().values() if not isinstance(header, str)] == [180] * 3


def test_conflicts_that_are_stored_at_once_have_numbers_of_their_own(store: Store, other: Store) -> None:
    """The journal belongs to no document, so transactions about different ones meet there."""

    def add(one: Store, name: str) -> Callable[[], object]:
        def work(key: str) -> int:
            return one.transaction(name, lambda: one.put_conflict(conflict(name, key)))

        return lambda: numbers.extend(work(str(key)) for key in range(20))

    numbers: list[int] = []
    in_threads(add(store, "a"), add(store, "b"), add(other, "c"))
    assert len(set(numbers)) == 60
    assert sorted(numbers) == list(store.conflicts())


def test_a_writer_that_waits_too_long_is_told_who_writes(harness: StoreHarness, store: Store, tmp_path: Path) -> None:
    put(store, "a")
    hurried = harness.open(lock_timeout=0.5)
    with helping(harness.opening()) as process:
        pid = process.do("os.getpid()")
        inside(process, tmp_path)
        process.suspend()
        started = time.monotonic()
        with pytest.raises(StoreBusy, match=str(pid)):
            put(hurried, "a", "k", 2)
        assert 0.4 < time.monotonic() - started < 30
        assert state(hurried, "a") == {"k": 1}  # readers do not wait
        assert hurried.snapshot(hurried.procedure_ids) == ["a"]
        process.resume()
        (tmp_path / "go").touch()
        process.answer()
    put(hurried, "a", "k", 2)
    assert state(store, "a") == {"k": 2, "half": 1}


def test_a_thread_that_waits_too_long_for_another(harness: StoreHarness) -> None:
    store = harness.open(lock_timeout=0.5)
    began, end = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        end.wait(PATIENCE)
        put(store, "a", "held", 1)

    def hurry() -> None:
        began.wait(PATIENCE)
        try:
            with pytest.raises(StoreBusy):
                put(store, "a")
        finally:
            end.set()

    in_threads(lambda: store.transaction("a", hold), hurry)
    put(store, "a")
    assert state(store, "a") == {"held": 1, "k": 1}


# --- forks ------------------------------------------------------------------------------------------------


def test_a_child_that_was_forked_inside_a_transaction_leaves_it_to_the_parent(store: Store, other: Store) -> None:
    def work() -> None:
        put(store, "a", "before", 1)
        assert in_child(refused)
        put(store, "a", "after", 1)

    def refused() -> None:
        with pytest.raises((RuntimeError, LocalStoreError)):
            store.write("a", Changes(state={"child": value(1)}), NOW)

    store.transaction("a", work)
    assert state(other, "a") == {"before": 1, "after": 1}
    assert in_child(lambda: put(store, "a", "child", 1))
    assert state(store, "a") == {"before": 1, "after": 1, "child": 1}


def test_a_child_that_was_forked_while_threads_write_can_write(store: Store) -> None:
    stop = threading.Event()

    def write_on(name: str) -> Callable[[], None]:
        def work() -> None:
            while not stop.is_set():
                count(store, name)

        return work

    def fork() -> None:
        try:
            eventually(lambda: state(store, "a") and state(store, "b"), PATIENCE)
            for number in range(5):
                assert in_child(partial(put, store, "c", f"k{number}", number))
                put(store, "d", f"k{number}", number)
        finally:
            stop.set()

    in_threads(write_on("a"), write_on("b"), fork)
    for name in "cd":
        assert state(store, name) == {f"k{number}": number for number in range(5)}
    for name in "ab":
        header = store.header(name)
        assert header is not None
        assert state(store, name) == {"n": header.version}
