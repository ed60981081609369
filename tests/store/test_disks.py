"""Rows on a disk that is full, cannot be written, or fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import Process, ProcessError

from plexus_tactus_cache.errors import StoreFull, StoreReadOnly
from plexus_tactus_cache.store.local.directory import INDEX
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import MEGABYTE, fork, open_rows, opened, put, put_all

# --- a full disk ------------------------------------------------------------------------------------------


def limit_pages(rows: Rows, extra: int) -> None:
    """Let the database grow by `extra` pages and no more."""
    connection = rows.database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + extra}")


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_full_disk_loses_nothing_and_the_store_goes_on(rows: Rows, directory: Path, where: str) -> None:
    small = {"a": b"after", "b": b"small"} if where == "last" else {}
    put(rows, "a", b"before")
    limit_pages(rows, 2)
    for _ in range(3):
        with pytest.raises(StoreFull):
            put_all(rows, {**small, "big": os.urandom(MEGABYTE)})
        assert rows.read_row("a") == b"before"
        assert rows.read_row("b") is None
        assert rows.read_row("big") is None
    put(rows, "a", b"small")
    limit_pages(rows, 2**20)
    put(rows, "big", b"y" * MEGABYTE)
    assert rows.read_row("a") == b"small"
    assert open_rows(directory).read_row("big") == b"y" * MEGABYTE


def test_a_full_disk_in_a_nested_transaction(rows: Rows) -> None:
    def work() -> None:
        rows.write_row("a", b"after")
        put(rows, "big", os.urandom(MEGABYTE))

    put(rows, "a", b"before")
    limit_pages(rows, 2)
    with pytest.raises(StoreFull):
        rows.transaction(work)
    assert rows.read_row("a") == b"before"
    put(rows, "a", b"again")


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    rows = open_rows(small_disk / "store")
    put(rows, "a", b"before")
    filler = small_disk / "filler"
    try:
        with filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    except OSError:
        pass
    with pytest.raises(StoreFull):
        put_all(rows, {f"b/{number}": os.urandom(5000) for number in range(100)})
    assert rows.read_row("a") == b"before"
    filler.unlink()
    put(rows, "c", b"after")
    assert rows.read_row("c") == b"after"
    assert rows.scan("b/") == []
    rows.close()


# --- a disk that cannot be written ------------------------------------------------------------------------


def _filled(place: Path) -> None:
    rows = open_rows(place / "store")
    put(rows, "a", b"1")
    rows.close()


def test_no_store_on_a_read_only_disk(read_only: Any) -> None:
    place = read_only(lambda place: None)
    with pytest.raises(StoreReadOnly, match=str(place)):
        open_rows(place / "store")


def test_a_store_on_a_read_only_disk_can_be_read(read_only: Any) -> None:
    place = read_only(_filled)
    rows = open_rows(place / "store")
    assert rows.read_only is not None
    assert str(place) in rows.read_only
    assert rows.read_row("a") == b"1"
    with pytest.raises(StoreReadOnly, match="cannot be written"):
        put(rows, "b", b"2")
    rows.close()


def test_writes_that_only_the_log_holds_are_read_from_a_read_only_disk(read_only: Any) -> None:
    def fill(place: Path) -> None:
        pid = os.fork()
        if pid == 0:
            rows = open_rows(place / "store")
            put(rows, "a", b"1")
            os._exit(0)  # without closing: the write is in the log
        os.waitpid(pid, 0)

    place = read_only(fill)
    assert list((place / "store").glob("*-wal"))
    rows = open_rows(place / "store")
    assert rows.read_row("a") == b"1"
    rows.close()


def test_the_copy_of_a_read_only_store_is_no_file_any_more(
    read_only: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    held: list[Rows] = []

    def fill(place: Path) -> None:
        def write() -> None:
            held.append(open_rows(place / "store"))
            put(held[0], "a", b"1")

        assert fork(write)() == 0  # without closing: the log stays
        (place / "store" / INDEX).unlink()  # and nothing says what is in it

    place = read_only(fill)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    rows = open_rows(place / "store")
    assert rows.read_row("a") == b"1"
    assert fork(lambda: None)() == 0
    assert rows.read_row("a") == b"1"
    assert not list(temporary.iterdir())
    rows.close()


# --- a disk that fails ------------------------------------------------------------------------------------

_SHIM = """
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
static int fails(void) { return access(getenv("FAILS"), F_OK) == 0 ? (errno = EIO, 1) : 0; }
int fsync(int file) { return fails() ? -1 : syscall(SYS_fsync, file); }
int fdatasync(int file) { return fails() ? -1 : syscall(SYS_fdatasync, file); }
"""


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="needs Linux and cc")
def test_a_write_whose_sync_failed_is_not_there_later(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log was written: whoever opens the store after a crash would take it for a commit."""
    shim, fails = directory.with_name("shim.so"), directory.with_name("fails")
    compile_ = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(shim)]
    subprocess.run(compile_, input=_SHIM, text=True, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("FAILS", str(fails))
    for goes_on in (False, True):
        with Process(*opened(directory)) as process:
            process.do(f"put('before/{goes_on}')")
            fails.touch()
            for number in range(3):
                with pytest.raises(ProcessError, match="LocalStoreError"):
                    process.do(f"put('failed/{number}')")
                assert process.do(f"rows.read_row('failed/{number}')") is None
            fails.unlink()
            if goes_on:
                process.do("put('after')")
            process.kill()
        rows = open_rows(directory)
        assert rows.scan("failed/") == []
        assert rows.read_row(f"before/{goes_on}") == b"x"
        assert (rows.read_row("after") == b"x") is goes_on
        rows.close()
