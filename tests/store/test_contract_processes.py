"""The contract of a store: news for those who wait, openings and closings, and processes that are killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers import eventually
from processes import environment

from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.errors import CacheClosed, LocalStoreError
from plexus_tactus_cache.store.contract import Pending, Store, Wakeups
from store.acts import (
    NOW,
    PATIENCE,
    count,
    document_writes,
    fill,
    helping,
    in_child,
    in_threads,
    inside,
    picture,
    put,
    reads,
    state,
)
from store.stores import StoreHarness

PROMPT = 20.0  # seconds: "within a second", on a machine that has other things to do
LONG = 60.0


# --- news -------------------------------------------------------------------------------------------------


def quiet(store: Store) -> Wakeups:
    """Wake-ups of this thread, when what happened before is no news any more."""
    news = store.wakeups()
    eventually(lambda: not news.wait(0), PATIENCE)
    return news


def is_told(news: Wakeups, cause: Callable[[], object]) -> bool:
    """Whether what `cause` does, in another thread, ends a wait soon."""
    thread = threading.Thread(target=cause)
    started = time.monotonic()
    thread.start()
    told = news.wait(LONG)
    took = time.monotonic() - started
    thread.join(PATIENCE)
    return told and took < PROMPT


def queued(store: Store, name: str) -> None:
    put(store, name)


def requested(store: Store, name: str) -> None:
    store.transaction((), lambda: store.put_request(name))


def merged(store: Store, name: str) -> None:
    store.transaction(name, lambda: store.merge(name, Changes(), (), NOW))


def unparked(store: Store, name: str) -> None:
    store.transaction(name, lambda: store.put_pending(name, Pending(since=NOW)))


@pytest.mark.parametrize("cause", [queued, requested, merged, unparked])
def test_news_of_the_own_process(store: Store, cause: Callable[[Store, str], None]) -> None:
    news = quiet(store)
    assert is_told(news, partial(cause, store, "a"))
    assert is_told(news, partial(cause, store, "b"))
    cause(store, "c")  # before the wait, in this thread
    assert news.wait(LONG)


@pytest.mark.parametrize("cause", [queued, requested])
def test_news_of_another_opener(store: Store, other: Store, cause: Callable[[Store, str], None]) -> None:
    news = quiet(store)
    assert is_told(news, partial(cause, other, "a"))
    eventually(lambda: not news.wait(0), PATIENCE)
    cause(other, "b")
    assert news.wait(LONG)


@pytest.mark.parametrize("cause", ["put(store, 'a')", "store.transaction((), lambda: store.put_request('a'))"])
def test_news_of_another_process(harness: StoreHarness, store: Store, cause: str) -> None:
    with helping(harness.opening()) as process:
        news = quiet(store)
        started = time.monotonic()
        process.tell(cause)
        assert news.wait(LONG)
        assert time.monotonic() - started < PROMPT
        process.answer()


def test_news_from_before_the_first_wait(harness: StoreHarness, store: Store) -> None:
    news = store.wakeups()
    with helping(harness.opening()) as process:
        process.do("put(store, 'a')")
    assert news.wait(LONG)


@pytest.mark.parametrize("between", ["release", "fork"])
def test_news_that_came_while_the_thread_had_nothing_of_the_store(
    harness: StoreHarness, store: Store, between: str
) -> None:
    with helping(harness.opening()) as process:
        for number in range(3):
            news = quiet(store)
            if between == "release":
                store.release_thread()
            else:
                assert in_child(lambda: None)
            process.do(f"put(store, 'a{number}')")
            started = time.monotonic()
            assert news.wait(LONG)
            assert time.monotonic() - started < PROMPT


def test_each_waiting_thread_has_the_news(store: Store, other: Store) -> None:
    ready, told = threading.Barrier(4), []

    def wait(one: Store) -> None:
        news = quiet(one)
        ready.wait(PATIENCE)
        told.append(news.wait(LONG))

    def cause() -> None:
        ready.wait(PATIENCE)
        put(store, "a")

    in_threads(partial(wait, store), partial(wait, store), partial(wait, other), cause)
    assert told == [True] * 3


def test_a_wait_that_is_ended(store: Store) -> None:
    news = quiet(store)
    assert is_told(news, news.set)
    news.set()
    assert news.wait(LONG)
    eventually(lambda: not news.wait(0), PATIENCE)


def test_a_wait_without_news_ends_when_its_time_is_over(store: Store) -> None:
    news = quiet(store)
    started = time.monotonic()
    assert not news.wait(0.3)
    assert 0.25 < time.monotonic() - started < 0.3 + PROMPT


# --- openings and closings --------------------------------------------------------------------------------


def test_openings_and_closings_of_others_take_nothing_from_a_store(harness: StoreHarness, store: Store) -> None:
    """In this process and in others, while `store` is in the middle of reading, and of writing."""
    put(store, "a", "k", 0)

    def come_and_go() -> None:
        harness.open().close()
        in_threads(lambda: harness.open().close())
        with helping(harness.opening()) as process:
            process.do("store.close()")

    def look() -> None:
        before = picture(store)
        come_and_go()
        assert picture(store) == before

    def change() -> None:
        put(store, "a", "k", 1)
        assert state(other, "a") == {"k": 0}
        other.close()
        put(store, "a", "l", 1)

    store.snapshot(look)
    other = harness.open()
    store.transaction("a", change)
    come_and_go()
    put(store, "b")
    with helping(harness.opening()) as process:
        assert process.do("[state(store, 'a'), state(store, 'b')]") == [{"k": 1, "l": 1}, {"k": 1}]
        process.do("put(store, 'a', 'k', 2)")
    assert state(store, "a") == {"k": 2, "l": 1}
    assert state(harness.open(), "a") == {"k": 2, "l": 1}


def test_a_store_that_is_opened_by_many_at_once(harness: StoreHarness) -> None:
    in_threads(*[lambda name=name: put(harness.open(), name) for name in "abcdef"])
    assert harness.open().procedure_ids() == [*"abcdef"]


def test_a_thread_that_gave_back_what_it_held_goes_on(store: Store, other: Store) -> None:
    put(store, "a")
    store.release_thread()
    store.release_thread()
    assert state(store, "a") == {"k": 1}
    store.release_thread()
    put(store, "a", "k", 2)
    assert state(other, "a") == {"k": 2}


def test_a_transaction_whose_thread_gives_back_what_it_holds_is_not_half_there(store: Store, other: Store) -> None:
    def work() -> None:
        put(store, "a", "before", 1)
        store.release_thread()
        put(store, "a", "after", 1)

    wanted: dict[str, int] = {}
    with contextlib.suppress(LocalStoreError, RuntimeError):
        store.transaction("a", work)
        wanted = {"before": 1, "after": 1}
    assert state(store, "a") == state(other, "a") == wanted
    put(store, "a")
    assert state(other, "a") == {**wanted, "k": 1}


def test_nothing_works_after_a_close(harness: StoreHarness, other: Store) -> None:
    store = harness.open()
    put(store, "a")
    put(other, "b")
    news, lease = store.wakeups(), store.lease("somebody")
    assert lease is not None
    before = picture(other)
    store.close()
    store.close()
    acts: list[Callable[[], object]] = [
        *reads(store).values(),
        *(partial(store.transaction, "a", partial(act, store)) for act in document_writes("a").values()),
        partial(store.transaction, (), lambda: None),
        partial(store.snapshot, lambda: None),
        partial(store.park, "a", "why", NOW),
        partial(store.update_pending, "a", NOW, attempts=1),
        partial(store.recover, NOW),
        partial(store.tidy, 0.0),
        partial(getattr, store, "size"),
        store.writer,
        store.leader,
        partial(store.lease, "somebody"),
        store.wakeups,
        partial(news.wait, 0),
        partial(store.check, "https://one"),
        partial(store.bind, "https://one"),
        lease.beat,
    ]
    for act in acts:
        with pytest.raises(CacheClosed):
            act()
    for act in acts[::5]:
        with pytest.raises(CacheClosed):
            in_threads(act)
    lease.release()
    store.release_thread()
    assert (store.location, store.store_id, store.read_only) == (other.location, other.store_id, None)
    assert picture(other) == before
    put(other, "a", "k", 2)
    assert state(harness.open(), "a") == {"k": 2}


def test_a_closed_store_does_not_wait_for_others(harness: StoreHarness, tmp_path: Path) -> None:
    store = harness.open(lock_timeout=600)
    with helping(harness.opening()) as process:
        inside(process, tmp_path)
        store.close()
        with pytest.raises(CacheClosed):
            put(store, "a")


@pytest.mark.timeout(300)
def test_a_close_while_a_thread_waits_for_another_process(harness: StoreHarness, tmp_path: Path) -> None:
    store = harness.open(lock_timeout=600)
    waiting = threading.Event()

    def wait() -> None:
        store.header("a")
        waiting.set()
        with pytest.raises(CacheClosed):
            put(store, "a", "waited", 1)

    def close() -> None:
        waiting.wait(PATIENCE)
        time.sleep(0.2)  # it cannot be seen from here that it waits; if it does not yet, the test is easier
        store.close()

    with helping(harness.opening()) as process:
        inside(process, tmp_path)
        in_threads(wait, close)
        (tmp_path / "go").touch()
        process.answer()
    assert state(harness.open(), "a") == {"half": 1}


def test_a_close_ends_the_waits_for_news(harness: StoreHarness) -> None:
    store = harness.open()
    news, waiting = quiet(store), threading.Event()

    def wait() -> None:
        with pytest.raises(CacheClosed):
            while True:
                waiting.set()
                news.wait(PATIENCE * 2)

    def close() -> None:
        waiting.wait(PATIENCE)
        time.sleep(0.2)  # as above
        store.close()

    in_threads(wait, close)


def test_a_close_in_the_middle_of_a_transaction(harness: StoreHarness, other: Store) -> None:
    """It may take its time for those who are at it; they finish, or nothing of it is there."""
    store = harness.open()
    began, end = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        put(store, "a", "x", 1)
        began.set()
        end.wait(PATIENCE)
        put(store, "a", "y", 1)

    def write() -> None:
        try:
            store.transaction("a", work)
        except (CacheClosed, LocalStoreError):
            return
        finished.append(True)

    def close() -> None:
        began.wait(PATIENCE)
        threading.Timer(0.2, end.set).start()
        store.close()

    in_threads(write, close)
    assert state(other, "a") == ({"x": 1, "y": 1} if finished else {})
    put(other, "a")


def test_a_close_that_does_not_wait_for_ever_leaves_the_writer_alone(harness: StoreHarness) -> None:
    """A transaction that is still at it when a close returned is alone with its document until it ends."""
    store, other = harness.open(), harness.open(lock_timeout=0.3)
    began, end = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        put(store, "a", "x", 1)
        began.set()
        end.wait(PATIENCE)
        put(store, "a", "y", 1)

    def write() -> None:
        with contextlib.suppress(CacheClosed, LocalStoreError):
            store.transaction("a", work)
            finished.append(True)

    def close() -> None:
        try:
            began.wait(PATIENCE)
            store.close()
            with contextlib.suppress(LocalStoreError):
                count(other, "a")
                assert not finished
        finally:
            end.set()

    in_threads(write, close)
    found = state(other, "a")
    assert (found.get("x"), found.get("y")) == ((1, 1) if finished else (None, None))
    count(other, "a")
    assert state(other, "a")["n"] == found.get("n", 0) + 1


# --- processes that are killed ----------------------------------------------------------------------------

_WRITE_ON = """
import sys
sys.path[:0] = [{tests!r}]
from store.acts import *
{opening}
first = state(store, "a").get("n", 0)
print("ready", flush=True)
for number in range(first + 1, first + 100_000):
    def work():
        for name in ("a", "b"):
            store.write(name, Changes(state={{"n": value(number), f"k{{number % 50}}": value(number)}}, entries=log(number, start=number - 1)), NOW + number)
        store.put_request(f"request {{number}}")
        store.drop_request(f"request {{number - 1}}")
    store.transaction(["a", "b"], work)
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(harness: StoreHarness) -> None:
    """Again and again, at another moment each time; and nothing is half there."""
    tests = str(Path(__file__).parent.parent)
    source = _WRITE_ON.format(tests=tests, opening=harness.opening())
    for lines in (1, 7, 20, 33):
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines + 1)]
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
        process.wait(PATIENCE)
        process.stdout.close()
        acknowledged = int([line for line in said if line.endswith("\n")][-1])
        store = harness.open()
        number = state(store, "a")["n"]
        assert acknowledged <= number <= acknowledged + 1
        for name in ("a", "b"):
            found = store.read(name)
            assert found is not None
            header, document = found
            assert [entry.result for entry in document.log] == [*range(1, number + 1)]
            assert (header.version, header.log_length) == (number, number)
            recent = range(max(1, number - 49), number + 1)
            assert state(store, name) == {"n": number} | {f"k{one % 50}": one for one in recent}
            assert store.pending(name) == Pending(since=NOW + 1, due=NOW + 1)
        assert store.requests() == [f"request {number}"]
        assert store.due(NOW + 2) == ["a", "b"]
        put(store, "c", now=NOW + 500)


def test_everything_is_there_after_a_reopening(harness: StoreHarness) -> None:
    store = harness.open()
    for mark in (1, 2):
        fill(store, mark)
    for act in document_writes("b").values():
        store.transaction("b", partial(act, store))
    put(store, "a", "k", 9)
    before = picture(store)
    store.close()
    again = harness.open()
    assert picture(again) == before
    with helping(harness.opening()) as process:
        assert process.do("repr(picture(store))") == repr(before)
