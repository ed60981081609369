"""Rows in a process that forks: the child writes, the parent goes on, and neither loses what the other wrote."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from interrupts import at_event
from processes import Process

from plexus_tactus_cache.errors import LocalStoreError
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import PATIENCE, enter, fork, open_rows, opened, put, until_somebody_waits

_TOLD = 17  # exit status of a child that was told that it cannot use the store


def test_a_forked_child_can_write_and_the_parent_goes_on(rows: Rows, directory: Path) -> None:
    put(rows, "parent/1")
    wait = fork(lambda: put(rows, "child/1"))
    assert wait() == 0
    put(rows, "parent/2")
    assert rows.read_row("child/1") == b"x"
    assert open_rows(directory).read_row("parent/2") == b"x"


def test_parent_and_child_write_at_once(rows: Rows) -> None:
    put(rows, "parent/0")

    def work(who: str) -> None:
        for number in range(40):
            put(rows, f"{who}/{number}")

    wait = fork(lambda: work("child"))
    work("parent")
    assert wait() == 0
    assert len(rows.scan("child/")) == len(rows.scan("parent/")) == 40


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(rows: Rows) -> None:
    def work() -> Callable[[], int]:
        rows.write_row("a", b"1")
        wait = fork(lambda: None)
        rows.write_row("b", b"2")
        return wait

    assert rows.transaction(work)() == 0
    assert rows.read_row("a") == b"1"
    assert rows.read_row("b") == b"2"


def test_a_child_keeps_what_it_wrote_when_the_parent_closes_first(rows: Rows, directory: Path) -> None:
    """The parent's last connection deletes SQLite's log, unless the child's lock says that it is in use."""
    put(rows, "parent/1")
    opened_read, opened_write = os.pipe()
    closed_read, closed_write = os.pipe()

    def work() -> None:
        put(rows, "child/1")
        os.write(opened_write, b"x")
        os.read(closed_read, 1)
        put(rows, "child/2")
        os.kill(os.getpid(), signal.SIGKILL)  # no closing of its own

    wait = fork(work)
    os.read(opened_read, 1)
    rows.close()
    os.write(closed_write, b"x")
    assert wait() == -signal.SIGKILL
    assert [key for key, _ in open_rows(directory).scan("child/")] == ["1", "2"]


def test_a_child_forked_inside_a_transaction_is_refused(directory: Path) -> None:
    """What the child inherits of SQLite says that the parent writes, for ever."""
    rows = open_rows(directory, lock_timeout=0.3)

    def child() -> None:
        for write in (lambda: rows.write_row("child", b"1"), lambda: put(rows, "child")):
            with pytest.raises(LocalStoreError, match="forked in the middle of a use"):
                write()

    def work() -> Callable[[], int]:
        rows.write_row("a", b"1")
        wait = fork(child)
        rows.write_row("b", b"2")
        return wait

    assert rows.transaction(work)() == 0
    put(rows, "c")
    assert [rows.read_row(key) for key in ("a", "b", "child")] == [b"1", b"2", None]
    rows.close()


def test_a_fork_while_a_thread_waits_to_write(rows: Rows, directory: Path) -> None:
    """Its connection is closed too: with one that is open the child writes where the parent deletes."""
    opened_read, opened_write = os.pipe()
    closed_read, closed_write = os.pipe()
    connected, go, written, end = (threading.Event() for _ in range(4))

    def write() -> None:
        put(rows, "thread/1")
        connected.set()
        go.wait(PATIENCE)
        put(rows, "thread/2")
        written.set()
        end.wait(PATIENCE)  # with its connection

    def child() -> None:
        os.read(opened_read, 1)
        put(rows, "child/1")
        os.write(closed_write, b"x")
        os.read(opened_read, 1)
        put(rows, "child/2")
        os.kill(os.getpid(), signal.SIGKILL)  # no closing of its own

    writer = threading.Thread(target=write)
    writer.start()
    assert connected.wait(PATIENCE)
    with Process(*opened(directory)) as other:
        enter(other)
        go.set()
        until_somebody_waits(directory)
        wait = fork(child)
    assert written.wait(PATIENCE)
    os.write(opened_write, b"x")
    os.read(closed_read, 1)
    rows.close()
    end.set()
    writer.join(PATIENCE)
    os.write(opened_write, b"x")
    assert wait() == -signal.SIGKILL
    again = open_rows(directory)
    assert [key for key, _ in again.scan("child/")] == ["1", "2"]
    assert [key for key, _ in again.scan("thread/")] == ["1", "2"]
    again.close()


def test_a_child_forked_while_another_thread_writes_can_write(rows: Rows) -> None:
    inside, forked = threading.Event(), threading.Event()

    def work() -> None:
        rows.write_row("parent/1", b"x")
        inside.set()
        forked.wait(1)  # the fork has to wait for us, so this passes without it

    writer = threading.Thread(target=lambda: rows.transaction(work))
    writer.start()
    inside.wait()
    wait = fork(lambda: put(rows, "child/1"))
    forked.set()
    writer.join()
    assert wait() == 0
    assert rows.read_row("child/1") == rows.read_row("parent/1") == b"x"


def test_forks_while_many_threads_write(rows: Rows) -> None:
    stop = threading.Event()
    written = [0, 0]

    def write(who: int) -> None:
        while not stop.is_set():
            put(rows, f"thread/{who}/{written[who]:06}")
            written[who] += 1

    threads = [threading.Thread(target=write, args=(who,)) for who in range(len(written))]
    for thread in threads:
        thread.start()
    waits = [fork(lambda name=f"child/{number}": put(rows, name)) for number in range(5)]  # type: ignore[misc]
    assert [wait() for wait in waits] == [0] * 5
    stop.set()
    for thread in threads:
        thread.join()
    assert len(rows.scan("child/")) == 5
    assert [len(rows.scan(f"thread/{who}/")) for who in range(len(written))] == written


# --- in a signal handler, in the middle of a use of the store ---------------------------------------------


def test_a_child_of_any_moment_of_a_use_corrupts_nothing(directory: Path) -> None:
    """It can write, or is told at once that it never can; the parent goes on either way."""
    open_rows(directory).close()
    told = 0
    for at in itertools.count(1, 3):
        rows = open_rows(directory, "normal", lock_timeout=PATIENCE)
        put(rows, "parent")
        waits: list[Callable[[], int]] = []
        handle, forked = os.pipe()

        def child(rows: Rows = rows, handle: int = handle) -> None:
            os.read(handle, 1)  # the parent is done: nobody is in the way
            try:
                put(rows, "child")
            except LocalStoreError as error:
                if "forked in the middle of a use" not in str(error):
                    raise
                for use in (lambda: rows.read_row("parent"), lambda: open_rows(directory), lambda: rows.tidy(0)):
                    with pytest.raises(LocalStoreError, match="forked in the middle of a use"):
                        use()
                elsewhere = open_rows(directory.with_name("elsewhere"))
                put(elsewhere, "child")
                elsewhere.close()
                rows.close()
                gc.collect()
                os._exit(_TOLD)

        def use(rows: Rows = rows, at: int = at) -> None:
            put(rows, "parent", str(at).encode())
            rows.snapshot(lambda: rows.read_row("parent"))
            rows.read_row("parent")
            rows.release_thread()

        reached = at_event(at, lambda: waits.append(fork(child)), use)  # noqa: B023 - it is called before the next round
        put(rows, "after", b"x" * 5000)
        os.write(forked, b"x")
        outcomes = [wait() for wait in waits]
        assert outcomes in ([], [0], [_TOLD]), at
        told += outcomes == [_TOLD]
        put(rows, "last", b"x" * 5000)
        assert rows.read_row("parent") == str(at).encode()
        assert rows.database.execute("PRAGMA integrity_check") == [("ok",)], at
        rows.close()
        os.close(handle)
        os.close(forked)
        if not reached:
            break
    assert told > 15


def test_a_child_that_goes_on_with_the_use_it_was_forked_in(directory: Path) -> None:
    """It does not write for its parent, nor end what that has begun; before and after the use it is one as any."""
    rows = open_rows(directory, "normal", lock_timeout=PATIENCE)
    put(rows, "parent")
    for at in itertools.count(1):
        parent, children = os.getpid(), list[int]()
        handle, done = os.pipe()

        def go_on(children: list[int] = children, handle: int = handle) -> None:
            children.append(os.fork())
            if children[0] == 0:
                os.read(handle, 1)

        try:
            reached = at_event(at, go_on, lambda: put(rows, "parent", str(at).encode()))  # noqa: B023 - it is called before the next round
        except BaseException as error:
            if os.getpid() == parent:
                raise
            sys.stderr.write(f"child: {error!r}\n")
            os._exit(0 if isinstance(error, LocalStoreError) else 1)
        if os.getpid() != parent:
            os._exit(0)
        put(rows, "after", b"x" * 5000)
        os.write(done, b"x")
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] in ([], [0]), at
        put(rows, "last", b"x" * 5000)
        assert rows.read_row("parent") == str(at).encode()
        assert rows.database.execute("PRAGMA integrity_check") == [("ok",)], at
        os.close(handle)
        os.close(done)
        if not reached:
            break
    rows.close()


def test_a_child_of_any_moment_of_an_opening_corrupts_nothing(directory: Path) -> None:
    for at in itertools.count(1, 17):
        place = directory.with_name(f"{at}")
        waits: list[Callable[[], int]] = []
        opened: list[Rows] = []
        handle, forked = os.pipe()

        def child(place: Path = place, handle: int = handle) -> None:
            os.read(handle, 1)
            try:
                rows = open_rows(place, lock_timeout=PATIENCE)
            except LocalStoreError as error:
                os._exit(_TOLD if "forked in the middle of a use" in str(error) else 1)
            put(rows, "child")
            rows.close()

        reached = at_event(
            at,
            lambda: waits.append(fork(child)),  # noqa: B023 - it is called before the next round
            lambda: opened.append(open_rows(place, lock_timeout=PATIENCE)),  # noqa: B023 - it is called before the next round
        )
        rows = opened[0]
        put(rows, "parent")
        os.write(forked, b"x")
        assert [wait() for wait in waits] in ([], [0], [_TOLD]), at
        put(rows, "last")
        assert rows.database.execute("PRAGMA integrity_check") == [("ok",)], at
        rows.close()
        os.close(handle)
        os.close(forked)
        if not reached:
            break
    assert at > 500


def test_a_fork_inside_a_transaction_waits_for_no_writer(rows: Rows, directory: Path) -> None:
    """Who waits for it, here as an opener and as a writer, would be waited for in turn."""
    threads = [
        threading.Thread(target=lambda: open_rows(directory, lock_timeout=PATIENCE).close()),
        threading.Thread(target=lambda: put(rows, "thread")),
    ]

    def work() -> Callable[[], int]:
        for thread in threads:
            thread.start()
        return fork(lambda: None)

    began = time.monotonic()
    assert rows.transaction(work)() == 0
    for thread in threads:
        thread.join(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
    assert rows.read_row("thread") == b"x"
