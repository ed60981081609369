"""Rows in a process that forks: the child writes, the parent goes on, and neither loses what the other wrote."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Process

from plexus_tactus_cache.errors import LocalStoreError
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import PATIENCE, enter, fork, open_rows, opened, put, until_somebody_waits


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
        with pytest.raises(RuntimeError, match="outside of a transaction"):
            rows.write_row("child", b"1")
        with pytest.raises(LocalStoreError):
            put(rows, "child")

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
