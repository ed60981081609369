"""Transactions and snapshots of rows, in threads and in processes: all or nothing, and one writer at a time."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plexus_tactus_cache.errors import LocalStoreError, StoreBusy, StoreFull
from plexus_tactus_cache.store.local.directory import LOG
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import MEGABYTE, PATIENCE, Oops, fail, in_process, in_thread, open_rows, put, put_all


@pytest.mark.parametrize(
    "error",
    [Oops("x"), KeyboardInterrupt(), OSError("theirs"), TimeoutError("theirs"), KeyError("x"), StoreFull("x")],
    ids=repr,
)
def test_an_exception_undoes_the_transaction_and_comes_out_as_it_is(
    rows: Rows, directory: Path, error: BaseException
) -> None:
    def work() -> None:
        rows.write_row("a", b"after")
        rows.write_row("b", b"new")
        raise error

    put(rows, "a", b"before")
    with pytest.raises(type(error)) as caught:
        rows.transaction(work)
    assert caught.value is error
    assert rows.read_row("a") == b"before"
    assert rows.read_row("b") is None
    put(rows, "c")
    put(open_rows(directory), "d")


def test_a_transaction_returns_what_its_work_returns(rows: Rows) -> None:
    found = object()
    assert rows.transaction(lambda: found) is found
    assert rows.transaction(lambda: rows.transaction(lambda: found)) is found
    assert rows.snapshot(lambda: found) is found
    assert rows.snapshot(lambda: rows.snapshot(lambda: found)) is found


def test_a_transaction_inside_a_transaction_is_part_of_it(rows: Rows) -> None:
    def work() -> None:
        rows.write_row("a", b"1")
        rows.transaction(lambda: rows.write_row("b", b"2"))
        assert in_thread(lambda: rows.read_row("b")) is None
        rows.write_row("c", b"3")

    rows.transaction(work)
    assert in_thread(lambda: [rows.read_row(key) for key in "abc"]) == [b"1", b"2", b"3"]


def test_an_exception_in_a_nested_transaction_comes_out_as_it_is(rows: Rows) -> None:
    def inner() -> None:
        rows.write_row("b", b"2")
        raise Oops

    def work() -> None:
        rows.write_row("a", b"1")
        rows.transaction(inner)

    with pytest.raises(Oops):
        rows.transaction(work)
    assert [rows.read_row(key) for key in "ab"] == [None, None]
    put(rows, "c")


def _too_much(rows: Rows) -> None:
    connection = rows.database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    try:
        rows.write_row("big", os.urandom(MEGABYTE))  # SQLite itself undoes the transaction
    finally:
        connection.execute(f"PRAGMA max_page_count = {2**20}")


@pytest.mark.parametrize("failure", [lambda _: fail(), _too_much], ids=["of the caller", "of the disk"])
def test_a_nested_failure_that_is_caught_leaves_all_or_nothing(rows: Rows, failure: Callable[[Rows], None]) -> None:
    def inner() -> None:
        rows.write_row("b", b"2")
        failure(rows)

    def work() -> None:
        rows.write_row("a", b"1")
        try:
            rows.transaction(inner)
        except (Oops, StoreFull):
            pass
        rows.write_row("c", b"3")

    try:
        rows.transaction(work)
        acknowledged = True
    except LocalStoreError:
        acknowledged = False
    found = [rows.read_row(key) is not None for key in "ac"]
    assert found == [acknowledged, acknowledged]
    put(rows, "d")


def test_a_snapshot_sees_one_state_while_others_write(rows: Rows, directory: Path) -> None:
    def look() -> None:
        assert rows.read_row("a") == b"1"
        in_thread(lambda: put(rows, "b", b"2") or True)  # type: ignore[func-returns-value]  # None, and then True
        put(other, "c", b"2")
        assert rows.read_row("b") == b"1"
        assert rows.scan("c") == []
        assert rows.snapshot(lambda: rows.read_row("b")) == b"1"

    put(rows, "a", b"1")
    put(rows, "b", b"1")
    other = open_rows(directory)
    rows.snapshot(look)
    assert rows.read_row("b") == b"2"
    other.close()


def test_a_snapshot_inside_a_transaction_sees_its_writes(rows: Rows) -> None:
    def work() -> None:
        rows.write_row("a", b"1")
        assert rows.snapshot(lambda: rows.read_row("a")) == b"1"
        rows.write_row("b", b"2")

    rows.transaction(work)
    assert rows.read_row("b") == b"2"


def test_a_failing_snapshot_leaves_the_connection_usable(rows: Rows) -> None:
    with pytest.raises(Oops):
        rows.snapshot(fail)
    put(rows, "a")


def test_readers_never_see_half_a_transaction(rows: Rows) -> None:
    put_all(rows, {"a": b"0", "b": b"0"})
    stop = threading.Event()
    torn: list[tuple[bytes | None, bytes | None]] = []

    def read() -> None:
        while not stop.is_set():
            pair = rows.snapshot(lambda: (rows.read_row("a"), rows.read_row("b")))
            if pair[0] != pair[1]:
                torn.append(pair)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        put_all(rows, {"a": str(number).encode(), "b": str(number).encode()})
    stop.set()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert not torn


def test_threads_that_write_at_once_lose_nothing(rows: Rows) -> None:
    def count(name: int) -> None:
        found = int(rows.read_row("count") or b"0") + 1
        rows.write_row("count", str(found).encode())
        rows.write_row(f"by/{name}/{found}", b"")

    def work(name: int) -> None:
        for _ in range(25):
            rows.transaction(lambda: count(name))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert rows.read_row("count") == b"100"
    assert len(rows.scan("by/")) == 100


def test_a_thread_that_ends_takes_its_connection_along(rows: Rows, directory: Path) -> None:
    """At once: until the collector comes, a fork would inherit it, and no close would be the last."""
    gc.disable()
    try:
        in_thread(lambda: put_all(rows, {"a": b"1"}) or True)  # type: ignore[func-returns-value]  # None, and then True
        assert (directory / LOG).exists()
        rows.close()
        assert not (directory / LOG).exists()  # as the last connection to close leaves it
    finally:
        gc.enable()


def test_processes_that_write_at_once_lose_nothing(rows: Rows, directory: Path) -> None:
    script = (
        "rows = Rows(Path(sys.argv[1]), durability='normal', lock_timeout=30)\n"
        "def work():\n"
        "    count = int(rows.read_row('count') or b'0') + 1\n"
        "    rows.write_row('count', str(count).encode())\n"
        "    rows.write_row(f'by/{sys.argv[2]}/{count}', b'')\n"
        "for _ in range(60):\n"
        "    rows.transaction(work)\n"
        "rows.close()\n"
    )
    done: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: done.append(in_process(script, str(directory), name)))
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(done) == 2
    assert rows.read_row("count") == b"120"
    assert len(rows.scan("by/a/")) == len(rows.scan("by/b/")) == 60


def test_a_process_that_dies_inside_a_transaction_leaves_nothing_of_it(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"before")
    script = (
        "rows = Rows(Path(sys.argv[1]), durability='full', lock_timeout=30)\n"
        "rows.transaction(lambda: rows.write_row('kept', b'1'))\n"
        "rows.transaction(lambda: (rows.write_row('a', b'after'), os._exit(0)))\n"
    )
    in_process(script, str(directory))
    assert rows.read_row("a") == b"before"
    assert rows.read_row("kept") == b"1"
    put(rows, "b")


def test_a_lock_held_by_another_is_store_busy_in_about_the_time_allowed(rows: Rows, directory: Path) -> None:
    def work() -> float:
        rows.write_row("a", b"1")
        began = time.monotonic()
        with pytest.raises(StoreBusy):
            put(impatient, "b")
        took = time.monotonic() - began
        assert impatient.read_row("a") is None
        return took

    impatient = open_rows(directory, lock_timeout=0.4)
    took = rows.transaction(work)
    put(impatient, "b")
    assert 0.3 <= took < 0.75
    impatient.close()
