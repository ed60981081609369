"""The writer's lock: in turn, for threads and processes; who is killed, interrupted or forked away holds up nobody."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import diskcache
import pytest
from interrupts import unmeasured
from processes import Process

from plexus_tactus_cache.errors import CacheClosed, StoreBusy
from plexus_tactus_cache.store.local.lock import LOCK_NAME, TURNSTILE_NAME, Ticket, WriterLock
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import PATIENCE, enter, fork, in_thread, open_rows, opened, put, until_somebody_waits

_SECONDS = 3.0  # for which processes write flat out


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[WriterLock]:
    made = WriterLock(tmp_path)
    yield made
    made.close()


@pytest.fixture
def other(directory: Path, rows: Rows) -> Iterator[Process]:
    """Another process, with its own `rows` on the directory of ours."""
    with Process(*opened(directory)) as process:
        yield process


class Watched(Ticket):
    """A ticket that says when its holder stands in line."""

    def __init__(self) -> None:
        super().__init__()
        self.in_line = threading.Event()

    def wait(self, seconds: float) -> None:
        self.in_line.set()
        super().wait(seconds)


def deadline(seconds: float = PATIENCE) -> float:
    return time.monotonic() + seconds


def start(work: Callable[[], Any]) -> Callable[[], None]:
    """Run `work` in a thread: a function that waits for its end."""
    thread = threading.Thread(target=work)
    thread.start()

    def wait() -> None:
        thread.join(PATIENCE)
        assert not thread.is_alive()

    return wait


# --- in turn ----------------------------------------------------------------------------------------------


def test_threads_get_it_in_the_order_in_which_they_came(lock: WriterLock) -> None:
    order: list[int] = []
    mine = Ticket()
    lock.acquire(mine, deadline())
    waits = []
    for number in range(8):
        ticket = Watched()

        def work(number: int = number, ticket: Ticket = ticket) -> None:
            lock.acquire(ticket, deadline())
            order.append(number)
            lock.release(ticket)

        waits.append(start(work))
        assert ticket.in_line.wait(PATIENCE)
    assert order == []
    lock.release(mine)
    for wait in waits:
        wait()
    assert order == [*range(8)]


def test_one_at_a_time(lock: WriterLock, tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(lock: WriterLock) -> None:
        for _ in range(50):
            ticket = Ticket()
            lock.acquire(ticket, deadline())
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release(ticket)

    second = WriterLock(tmp_path)  # as another process has it
    for wait in [start(lambda found=found: work(found)) for found in (lock, lock, second, second)]:  # type: ignore[misc]
        wait()
    second.close()
    assert most == [1] * 200


def test_processes_that_write_flat_out_get_about_as_much(directory: Path) -> None:
    open_rows(directory).close()
    with Process(*opened(directory, "normal")) as a, Process(*opened(directory, "normal")) as b:
        for process in (a, b):
            process.do(
                "def flat_out():\n"
                "    count, end = 0, time.monotonic() + " + str(_SECONDS) + "\n"
                "    while time.monotonic() < end:\n"
                "        put(f'{os.getpid()}/{count % 50}')\n"
                "        count += 1\n"
                "    return count"
            )
        for process in (a, b):
            process.tell("flat_out()")
        counts = [process.answer() for process in (a, b)]
    assert min(counts) >= statistics.median(counts) / 4, counts


# --- who holds it -----------------------------------------------------------------------------------------


def test_who_waits_for_too_long_is_told_which_process_holds_it(rows: Rows, directory: Path, other: Process) -> None:
    pid = enter(other)
    other.suspend()
    impatient = open_rows(directory, lock_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(StoreBusy, match=rf"process {pid} "):
        put(impatient, "b")
    assert 0.4 <= time.monotonic() - began < 5
    assert impatient.lock.holder() == rows.lock.holder() == pid
    assert impatient.read_row("a") is None  # readers do not wait
    other.resume()
    other.kill()
    assert impatient.lock.holder() is None
    put(impatient, "b")
    assert impatient.read_row("a") is None
    impatient.close()


def test_who_only_looks_opens_the_store_while_another_process_writes(
    rows: Rows, directory: Path, other: Process
) -> None:
    put(rows, "b", b"1")
    enter(other)
    reader = open_rows(directory, lock_timeout=0.5)
    assert reader.read_row("b") == b"1"
    reader.close()


def test_who_has_to_prepare_the_store_waits_as_a_writer_does(rows: Rows, directory: Path, other: Process) -> None:
    diskcache.Cache(str(directory), cull_limit=10).close()  # that has to be undone
    pid = enter(other)
    other.suspend()
    began = time.monotonic()
    with pytest.raises(StoreBusy, match=rf"process {pid} "):
        open_rows(directory, lock_timeout=0.5)
    assert time.monotonic() - began < 5
    other.resume()
    other.kill()
    open_rows(directory).close()
    with diskcache.Cache(str(directory)) as opener:
        assert opener.cull_limit == 0


def test_the_holder_is_the_process_that_is_in_a_transaction(rows: Rows, directory: Path) -> None:
    observer = WriterLock(directory)
    assert observer.holder() is None
    assert rows.transaction(lambda: (rows.lock.holder(), observer.holder())) == (os.getpid(), os.getpid())
    assert rows.lock.holder() is observer.holder() is None


def test_who_has_taken_it_and_could_not_say_so_yet_is_nobody_else(rows: Rows, directory: Path, other: Process) -> None:
    """As one that is stopped in that very moment, after a process that goes on, and after one that was killed."""
    for kill in (False, True):
        other.do("put('a')")
        if kill:
            enter(other)
            other.kill()
        files = [(directory / name).open("rb") for name in (LOCK_NAME, TURNSTILE_NAME)]
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        impatient = open_rows(directory, lock_timeout=0.1)
        with pytest.raises(StoreBusy, match=r"process \? "):
            put(impatient, "b")
        assert impatient.lock.holder() is None
        impatient.close()
        for file in files:
            file.close()


def test_nobody_holds_a_lock_that_was_never_wanted(tmp_path: Path) -> None:
    assert WriterLock(tmp_path / "nothing").holder() is None


def test_asking_who_holds_it_takes_it_from_nobody(lock: WriterLock) -> None:
    ticket = Ticket()
    lock.acquire(ticket, deadline())
    assert [lock.holder() for _ in range(3)] == [os.getpid()] * 3
    lock.release(ticket)
    lock.acquire(again := Ticket(), deadline(0))
    lock.release(again)


# --- giving it back ---------------------------------------------------------------------------------------


def test_it_can_be_given_back_twice(lock: WriterLock) -> None:
    first, second, third = Ticket(), Ticket(), Ticket()
    lock.acquire(first, deadline())
    lock.release(first)
    lock.release(first)
    lock.acquire(second, deadline(0))
    lock.release(first)  # not what the second has
    assert lock.holder() == os.getpid()
    with pytest.raises(StoreBusy, match="other threads"):
        lock.acquire(third, deadline(0))
    lock.release(third)
    lock.release(second)
    lock.release(second)
    assert lock.holder() is None


def test_what_was_not_acquired_can_be_given_back(lock: WriterLock) -> None:
    lock.release(Ticket())
    lock.acquire(ticket := Ticket(), deadline(0))
    lock.release(Ticket())
    assert lock.holder() == os.getpid()
    lock.release(ticket)


def test_who_waited_for_too_long_has_left_the_line(lock: WriterLock) -> None:
    mine, late, next_one = Ticket(), Ticket(), Ticket()
    lock.acquire(mine, deadline())
    with pytest.raises(StoreBusy, match="other threads"):
        lock.acquire(late, deadline(0.1))
    lock.release(late)
    lock.release(mine)
    lock.acquire(next_one, deadline(0))
    lock.release(next_one)


# --- interrupts -------------------------------------------------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[Callable[[], None]]:
    """Send this thread a signal whose handler raises KeyboardInterrupt; for any thread to call."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    me = threading.get_ident()
    with unmeasured():
        yield lambda: signal.pthread_kill(me, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_who_is_interrupted_in_line_leaves_it(lock: WriterLock, interrupts: Callable[[], None]) -> None:
    inside, let_go, got = threading.Event(), threading.Event(), threading.Event()
    mine, behind = Watched(), Watched()

    def hold() -> None:
        lock.acquire(ticket := Ticket(), deadline())
        inside.set()
        mine.in_line.wait(PATIENCE)
        start(stand_behind)
        behind.in_line.wait(PATIENCE)
        interrupts()
        let_go.wait(PATIENCE)
        lock.release(ticket)

    def stand_behind() -> None:
        lock.acquire(behind, deadline())
        got.set()
        lock.release(behind)

    wait = start(hold)
    assert inside.wait(PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        try:
            lock.acquire(mine, deadline())
        finally:
            lock.release(mine)
    assert not got.is_set()
    let_go.set()
    assert got.wait(PATIENCE)
    wait()
    lock.acquire(again := Ticket(), deadline())
    lock.release(again)


def test_a_write_that_is_interrupted_while_another_process_writes(
    rows: Rows, directory: Path, other: Process, interrupts: Callable[[], None]
) -> None:
    pid = enter(other)

    def interrupt() -> None:
        until_somebody_waits(directory)
        interrupts()

    wait = start(interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(rows, "b")
    wait()
    assert rows.lock.holder() == pid
    with pytest.raises(StoreBusy):
        rows.lock.acquire(late := Ticket(), deadline(0.1))
    rows.lock.release(late)
    other.kill()
    second = open_rows(directory, lock_timeout=2)
    put(second, "c")
    in_thread(lambda: put(rows, "d") or True)  # type: ignore[func-returns-value]  # None, and then True
    put(rows, "e")
    assert [second.read_row(key) for key in "abcde"] == [None, None, b"x", b"x", b"x"]
    second.close()


# --- forks and closing ------------------------------------------------------------------------------------


def test_a_forked_child_can_write_and_the_parent_goes_on(rows: Rows) -> None:
    put(rows, "parent/1")
    go_read, go_write = os.pipe()

    def child() -> None:
        os.read(go_read, 1)
        for number in range(20):
            put(rows, f"child/{number}")

    wait = fork(child)
    os.write(go_write, b"x")
    for number in range(20):
        put(rows, f"parent/{number}")
    assert wait() == 0
    assert len(rows.scan("child/")) == len(rows.scan("parent/")) == 20
    assert rows.lock.holder() is None


def test_a_child_forked_inside_a_transaction_does_not_give_the_lock_away(rows: Rows, directory: Path) -> None:
    observer = WriterLock(directory)

    def work() -> int | None:
        rows.write_row("a", b"1")
        assert fork(lambda: None)() == 0
        return observer.holder()

    assert rows.transaction(work) == os.getpid()
    assert observer.holder() is None


def test_closing_takes_nothing_from_a_thread_that_waits(rows: Rows, directory: Path, other: Process) -> None:
    """Least of all the number of a file, which the next file that is opened gets."""
    enter(other)
    outcome: list[type[BaseException] | None] = []
    waits = Watched()

    def write() -> None:
        try:
            rows.lock.acquire(waits, deadline())
            outcome.append(None)
        except BaseException as error:  # noqa: BLE001
            outcome.append(type(error))
        finally:
            rows.lock.release(waits)

    wait = start(write)
    until_somebody_waits(directory)
    rows.close()
    theirs = [(directory.parent / f"theirs{number}").open("w+b", buffering=0) for number in range(4)]
    other.kill()
    wait()
    for file in theirs:
        file.seek(0)
        assert file.read() == b""
        file.close()
    assert outcome == [CacheClosed]
    assert rows.lock.holder() is None


def test_closing_lets_the_holder_keep_it(lock: WriterLock) -> None:
    lock.acquire(ticket := Ticket(), deadline())
    lock.close()
    assert lock.holder() == os.getpid()
    lock.release(ticket)
    assert lock.holder() is None


def test_a_closed_store_is_closed_for_those_who_wait(rows: Rows, directory: Path, other: Process) -> None:
    enter(other)
    outcome: list[BaseException] = []

    def write() -> None:
        try:
            put(rows, "b")
        except BaseException as error:  # noqa: BLE001
            outcome.append(error)

    wait = start(write)
    until_somebody_waits(directory)
    rows.close()
    other.kill()
    wait()
    assert [type(error) for error in outcome] == [CacheClosed]


def test_a_closed_store_leaves_the_directory_alone(rows: Rows, directory: Path) -> None:
    put(rows, "a")
    rows.close()
    shutil.rmtree(directory)
    directory.mkdir()
    with pytest.raises(CacheClosed):
        put(rows, "b")
    with pytest.raises(CacheClosed):
        rows.read_row("a")
    assert list(directory.iterdir()) == []
