"""An interrupt at every place where CPython looks for signals: all or nothing, and nothing stays open.

CPython runs signal handlers when a Python function is entered and when a C function has returned: the `call` and
`c_return` events of a profiler, whose exceptions come out there as a handler's do.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import interrupts
import pytest

from plexus_tactus_cache.errors import StoreBusy
from plexus_tactus_cache.store.local import database
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import PATIENCE, Oops, in_thread, open_rows, put

Work = Callable[[], Any]


@pytest.fixture
def rows(directory: Path) -> Iterator[Rows]:
    opened = open_rows(directory, "normal")
    yield opened
    opened.close()


@pytest.fixture
def other(directory: Path, rows: Rows) -> Iterator[Rows]:
    """As another process has it."""
    opened = open_rows(directory, "normal", lock_timeout=2)
    yield opened
    opened.close()


def interrupted(work: Work, at: int, again: int = 0) -> bool:
    """As in interrupts.py; the work may fail besides, and wait in vain."""
    return interrupts.interrupted(work, at, again, (Oops, StoreBusy))


def write(rows: Rows, key: str) -> None:
    """Two rows in one transaction."""

    def work() -> None:
        rows.write_row(f"a/{key}", b"1")
        rows.write_row(f"b/{key}", b"1")

    rows.transaction(work)


def write_nested(rows: Rows, key: str) -> None:
    rows.transaction(lambda: write(rows, key))


def write_for_the_first_time(rows: Rows, key: str) -> None:
    rows.release_thread()
    write(rows, key)


def write_and_fail(rows: Rows, key: str) -> None:
    def work() -> None:
        write(rows, key)
        raise Oops

    rows.transaction(work)


def look(rows: Rows, key: str) -> None:
    rows.snapshot(lambda: (rows.read_row(f"a/{key}"), rows.scan("b/", key, key + "0")))


def look_for_the_first_time(rows: Rows, key: str) -> None:
    rows.release_thread()
    look(rows, key)


def check(rows: Rows, other: Rows, key: str) -> None:
    """That an interrupted `key` has left everything in order."""
    put(other, f"other/{key}")
    found = other.read_row(f"a/{key}"), other.read_row(f"b/{key}")
    assert found in ((None, None), (b"1", b"1")), key
    assert in_thread(lambda: put(rows, f"thread/{key}") or True)  # type: ignore[func-returns-value]
    assert rows.read_row(f"other/{key}") == b"x", key  # not what an old snapshot holds
    put(rows, f"mine/{key}")
    assert other.read_row(f"mine/{key}") == other.read_row(f"thread/{key}") == b"x", key
    assert (rows.read_row(f"a/{key}"), rows.read_row(f"b/{key}")) == found


@pytest.mark.parametrize(
    "work",
    [write, write_nested, write_for_the_first_time, write_and_fail, look, look_for_the_first_time],
    ids=lambda work: work.__name__,
)
def test_an_interrupt_anywhere(
    rows: Rows, other: Rows, work: Callable[[Rows, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    for at in itertools.count(1):
        key = f"{at:05}"
        reached = interrupted(lambda key=key: work(rows, key), at)  # type: ignore[misc]
        check(rows, other, key)
        if not reached:
            break
    assert at > 15
    if work in (write, write_nested, write_for_the_first_time):
        assert rows.read_row(f"a/{key}") == b"1"  # nothing interrupted it
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_interrupt_leaves_no_connection_open(rows: Rows, directory: Path) -> None:
    """Not even while somebody keeps the exception, with its frames: a fork would not find it."""
    log_file = directory / f"{DATABASE}-wal"
    kept: list[BaseException] = []

    def work() -> None:
        try:
            write_for_the_first_time(rows, "x")
        except BaseException as error:
            kept.append(error)
            raise

    for at in itertools.count(1):
        reached = interrupted(work, at)
        rows.release_thread()
        assert not log_file.exists(), at  # the last to close removes it
        if not reached:
            break
    assert len(kept) > 15


def test_an_interrupt_anywhere_while_the_log_is_shortened(
    directory: Path, other: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_PAGES", 1)
    rows = open_rows(directory, "normal")  # shortens the log at each commit
    for at in itertools.count(1):
        key = f"{at:05}"
        reached = interrupted(lambda key=key: write(rows, key), at)  # type: ignore[misc]
        check(rows, other, key)
        if not reached:
            break
    assert at > 15
    assert rows.read_row(f"a/{key}") == b"1"


@pytest.mark.parametrize("who", ["another process", "another thread", "a program that is not ours"])
def test_an_interrupt_anywhere_while_it_waits(directory: Path, other: Rows, who: str) -> None:
    rows = open_rows(directory, "normal", lock_timeout=0.02)
    for at in itertools.count(1):
        key = f"{at:05}"
        with _held(rows if who == "another thread" else other, directory, ours=who != "a program that is not ours"):
            reached = interrupted(lambda key=key: write(rows, key), at)  # type: ignore[misc]
        assert other.read_row(f"a/{key}") is None
        check(rows, other, key)
        if not reached:
            break
    assert at > 15
    rows.close()


class _held:  # noqa: N801 - used as a function is
    """A write transaction in another thread, for as long as the block."""

    def __init__(self, rows: Rows, directory: Path, *, ours: bool) -> None:
        self._inside, self._leave = threading.Event(), threading.Event()
        self._rows, self._file = rows, directory / DATABASE
        self._thread = threading.Thread(target=self._hold if ours else self._hold_sqlite)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._inside.wait(PATIENCE)

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join(PATIENCE)

    def _hold(self) -> None:
        self._rows.transaction(self._stay)

    def _hold_sqlite(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        self._stay()
        connection.execute("ROLLBACK")
        connection.close()

    def _stay(self) -> None:
        self._inside.set()
        self._leave.wait(PATIENCE)


@pytest.mark.parametrize("work", [write, write_and_fail, look], ids=lambda work: work.__name__)
@pytest.mark.parametrize("again", range(1, 9))
def test_two_interrupts(rows: Rows, other: Rows, work: Callable[[Rows, str], None], again: int) -> None:
    """The second may hit the undoing itself: then the thread's next call undoes what was left."""
    for at in itertools.count(1):
        key = f"{at:05}"
        reached = interrupted(lambda key=key: work(rows, key), at, again)  # type: ignore[misc]
        assert rows.read_row(f"a/{key}") == other.read_row(f"a/{key}")  # nothing that was not committed
        put(rows, f"next/{key}")
        assert other.read_row(f"next/{key}") == b"x"
        check(rows, other, key)
        if not reached:
            break
