"""Rows: nothing is evicted, nothing is pickled, nothing is half written, and every error is one of ours."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plexus_tactus_cache.errors import (
    CacheCorrupted,
    LocalStoreError,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
)
from plexus_tactus_cache.store.local.rows import DATABASE, Rows

MEGABYTE = 2**20


def open_rows(directory: Path, durability: str = "full", lock_timeout: float = 10.0) -> Rows:
    return Rows(directory, durability=durability, lock_timeout=lock_timeout)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def rows(directory: Path) -> Iterator[Rows]:
    opened = open_rows(directory)
    yield opened
    opened.close()


def put(rows: Rows, key: str, payload: bytes = b"x") -> None:
    with rows.transaction():
        rows.write_row(key, payload)


def tamper(directory: Path, statement: str, *values: Any) -> int:
    """Change the database behind everybody's back: how many rows were hit."""
    connection = sqlite3.connect(directory / DATABASE)
    with connection:
        hit = connection.execute(statement, values).rowcount
    connection.close()
    return hit


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in another thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    assert found, "the thread failed"
    return found[0]


def in_process(script: str, *arguments: str) -> str:
    """The output of a script in a process of its own."""
    command = [sys.executable, "-c", "from plexus_tactus_cache.store.local.rows import *\n" + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


# --- nothing is lost --------------------------------------------------------------------------------------


def test_a_row_is_there_for_others_when_the_write_returned(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"1")
    other = open_rows(directory)
    assert other.read_row("a") == b"1"
    assert in_thread(lambda: rows.read_row("a")) == b"1"
    other.close()


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, MEGABYTE, 20 * MEGABYTE])
def test_a_value_of_any_size_stays_in_the_database_file(rows: Rows, directory: Path, size: int) -> None:
    payload = os.urandom(size)
    put(rows, "big", payload)
    assert rows.read_row("big") == payload
    assert {path.name for path in directory.rglob("*")} <= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}


def test_nothing_is_evicted(rows: Rows, directory: Path) -> None:
    with rows.transaction():
        for number in range(200):
            rows.write_row(f"many/{number:04}", os.urandom(20_000))
    rows.cull()
    rows.expire()
    rows.close()
    again = open_rows(directory)
    assert len(again.scan("many/")) == 200
    assert (again.eviction_policy, again.cull_limit, again.statistics) == ("none", 0, 0)
    assert again.size_limit > 2**60
    again.close()


def test_another_opener_cannot_weaken_the_store(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"1")
    weak = diskcache.Cache(
        str(directory),
        eviction_policy="least-recently-used",
        cull_limit=10,
        size_limit=1000,
        sqlite_synchronous=0,
        disk_min_file_size=10,
    )
    weak.close()

    def write_in_a_new_thread() -> tuple[int, str]:
        put(rows, "b", os.urandom(MEGABYTE))
        connection = rows._con
        return connection.execute("PRAGMA synchronous").fetchone()[0], connection.execute(
            "PRAGMA journal_mode"
        ).fetchone()[0]

    assert in_thread(write_in_a_new_thread) == (2, "wal")
    again = open_rows(directory)
    assert again._con.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert again.eviction_policy == "none"
    with again.transaction():
        for number in range(30):
            again.write_row(f"c/{number}", os.urandom(1000))
    again.close()
    assert len(rows.scan("c/")) == 30
    assert not list(directory.rglob("*.val"))
    assert rows.read_row("a") == b"1"


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_holds_on_the_connection_of_every_thread(directory: Path, durability: str, level: int) -> None:
    rows = open_rows(directory, durability)
    ask = lambda: rows._con.execute("PRAGMA synchronous").fetchone()[0]  # noqa: E731
    assert ask() == level  # type: ignore[no-untyped-call]
    assert in_thread(ask) == level
    assert ask() == level  # type: ignore[no-untyped-call]
    rows.close()
    assert ask() == level  # type: ignore[no-untyped-call]  # diskcache opens again on use
    assert rows._con.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    rows.close()


def test_only_the_owner_may_look(rows: Rows, directory: Path) -> None:
    put(rows, "a")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = list(directory.glob(f"{DATABASE}*"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_only_the_owner_may_look_after_everything_was_reopened(rows: Rows, directory: Path) -> None:
    rows.close()
    put(rows, "a")
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.glob(f"{DATABASE}*")} == {0o600}


# --- rows and ranges --------------------------------------------------------------------------------------


def test_rows_replace_and_vanish(rows: Rows) -> None:
    put(rows, "a", b"1")
    put(rows, "a", b"2")
    assert rows.read_row("a") == b"2"
    rows.delete_row("a")
    rows.delete_row("a")
    assert rows.read_row("a") is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=4),
        max_size=8,
        unique=True,
    ),
    st.sampled_from(["p/", "log/a/", "é/", "p/x/", "0"]),
    st.text("0123ab/", max_size=2),
)
def test_a_scan_returns_what_starts_with_the_prefix(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], prefix: str, start: str
) -> None:
    rows = _shared_rows(tmp_path_factory)
    with rows.transaction():
        rows._execute("DELETE FROM Cache", ())
        for name in names:
            for full in (name, prefix + name, f"{prefix[:-1]}{name}", f"p{name}"):
                rows.write_row(full, full.encode())
    everything = {key for name in names for key in (name, prefix + name, f"{prefix[:-1]}{name}", f"p{name}")}
    wanted = sorted(key for key in everything if key.startswith(prefix) and key >= prefix + start)
    assert rows.scan(prefix, start) == [(key[len(prefix) :], key.encode()) for key in wanted]
    with rows.transaction():
        rows.delete_range(prefix, start)
    assert rows.scan(prefix, start) == []
    left = {key for key in everything if key not in wanted}
    assert {key for key in everything if rows.read_row(key) is not None} == left


_kept: list[Rows] = []


def _shared_rows(factory: pytest.TempPathFactory) -> Rows:
    if not _kept:
        _kept.append(open_rows(factory.mktemp("shared") / "store", "normal"))
    return _kept[0]


@pytest.mark.parametrize("key", [1, b"a", None, ("a",)])
def test_keys_are_text(rows: Rows, key: Any) -> None:
    with pytest.raises(TypeError):
        rows.write_row(key, b"")


@pytest.mark.parametrize("value", ["text", 1, None, {}])
def test_values_are_bytes(rows: Rows, value: Any) -> None:
    with pytest.raises(TypeError):
        rows.write_row("a", value)
    assert rows.read_row("a") is None


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE Cache SET value = zeroblob(length(value)) WHERE key = 'b'",
        "UPDATE Cache SET value = substr(value, 1, length(value) - 1) WHERE key = 'b'",
        "UPDATE Cache SET value = x'' WHERE key = 'b'",
        "UPDATE Cache SET value = x'0102' WHERE key = 'b'",
        "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = 'a') WHERE key = 'b'",
        "UPDATE Cache SET value = NULL WHERE key = 'b'",
        "UPDATE Cache SET value = 'text' WHERE key = 'b'",
        "UPDATE Cache SET value = 5 WHERE key = 'b'",
        "UPDATE Cache SET mode = 4 WHERE key = 'b'",
        "UPDATE Cache SET mode = 2, filename = '../../../etc/passwd', value = NULL WHERE key = 'b'",
        "UPDATE Cache SET filename = 'x.val' WHERE key = 'b'",
    ],
)
def test_a_damaged_row_is_named_and_the_others_are_readable(rows: Rows, directory: Path, damage: str) -> None:
    for key in "abc":
        put(rows, key, key.encode() * 50)
    assert tamper(directory, damage) == 1
    with pytest.raises(CacheCorrupted, match="'b'"):
        rows.read_row("b")
    with pytest.raises(CacheCorrupted, match="'b'"):
        rows.scan("b")
    assert rows.read_row("a") == b"a" * 50
    assert rows.scan("c") == [("", b"c" * 50)]
    put(rows, "b", b"new")
    assert rows.read_row("b") == b"new"


class Bomb:
    """Says so when somebody unpickles it."""

    def __reduce__(self) -> Any:
        return (os.environ.__setitem__, ("UNIT_BOMB", "exploded"))


def test_a_file_that_is_no_database(directory: Path) -> None:
    directory.mkdir()
    (directory / DATABASE).write_bytes(b"this is not a database, whatever its name says. " * 100)
    with pytest.raises(CacheCorrupted, match=str(directory)):
        open_rows(directory)


def test_a_damaged_page(rows: Rows, directory: Path) -> None:
    with rows.transaction():
        for number in range(200):
            rows.write_row(f"k/{number:04}", os.urandom(500))
    rows.close()
    database = directory / DATABASE
    content = bytearray(database.read_bytes())
    for page in range(8, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    database.write_bytes(content)
    with pytest.raises(CacheCorrupted):
        open_rows(directory).scan("k/")


def test_a_file_in_place_of_the_directory(directory: Path) -> None:
    directory.write_text("I was here first")
    with pytest.raises(StoreReadOnly, match="not a directory"):
        open_rows(directory)
    with pytest.raises(StoreReadOnly):
        open_rows(directory / "below")
    assert directory.read_text() == "I was here first"


# --- transactions -----------------------------------------------------------------------------------------


class Oops(Exception):
    """Raised by a caller inside a transaction."""


@pytest.mark.parametrize(
    "error",
    [Oops("x"), KeyboardInterrupt(), OSError("theirs"), TimeoutError("theirs"), KeyError("x"), StoreFull("x")],
    ids=repr,
)
def test_an_exception_undoes_the_transaction_and_comes_out_as_it_is(
    rows: Rows, directory: Path, error: BaseException
) -> None:
    put(rows, "a", b"before")
    with pytest.raises(type(error)) as caught, rows.transaction():
        rows.write_row("a", b"after")
        rows.write_row("b", b"new")
        raise error
    assert caught.value is error
    assert rows.read_row("a") == b"before"
    assert rows.read_row("b") is None
    put(rows, "c")
    put(open_rows(directory), "d")


def test_a_transaction_inside_a_transaction_is_part_of_it(rows: Rows) -> None:
    with rows.transaction():
        rows.write_row("a", b"1")
        with rows.transaction():
            rows.write_row("b", b"2")
        assert in_thread(lambda: rows.read_row("b")) is None
        rows.write_row("c", b"3")
    assert in_thread(lambda: [rows.read_row(key) for key in "abc"]) == [b"1", b"2", b"3"]


def test_an_exception_in_a_nested_transaction_comes_out_as_it_is(rows: Rows) -> None:
    with pytest.raises(Oops), rows.transaction():
        rows.write_row("a", b"1")
        with rows.transaction():
            rows.write_row("b", b"2")
            raise Oops
    assert rows.scan("") == [] if False else [rows.read_row(key) for key in "ab"] == [None, None]
    put(rows, "c")


def test_a_nested_failure_that_is_caught_leaves_all_or_nothing(rows: Rows) -> None:
    try:
        with rows.transaction():
            rows.write_row("a", b"1")
            try:
                with rows.transaction():
                    rows.write_row("b", b"2")
                    raise Oops
            except Oops:
                pass
            rows.write_row("c", b"3")
        acknowledged = True
    except LocalStoreError:
        acknowledged = False
    found = [rows.read_row(key) is not None for key in "ac"]
    assert found == [acknowledged, acknowledged]


def test_a_snapshot_sees_one_state_while_others_write(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"1")
    put(rows, "b", b"1")
    other = open_rows(directory)
    with rows.snapshot():
        assert rows.read_row("a") == b"1"
        in_thread(lambda: put(rows, "b", b"2") or True)  # type: ignore[func-returns-value]
        put(other, "c", b"2")
        assert rows.read_row("b") == b"1"
        assert rows.scan("c") == []
        with rows.snapshot():
            assert rows.read_row("b") == b"1"
    assert rows.read_row("b") == b"2"
    other.close()


def test_a_snapshot_inside_a_transaction_sees_its_writes(rows: Rows) -> None:
    with rows.transaction():
        rows.write_row("a", b"1")
        with rows.snapshot():
            assert rows.read_row("a") == b"1"
        rows.write_row("b", b"2")
    assert rows.read_row("b") == b"2"


def test_a_failing_snapshot_leaves_the_connection_usable(rows: Rows) -> None:
    with pytest.raises(Oops), rows.snapshot():
        raise Oops
    put(rows, "a")


def test_readers_never_see_half_a_transaction(rows: Rows) -> None:
    put(rows, "a", b"0")
    put(rows, "b", b"0")
    stop = threading.Event()
    torn: list[tuple[bytes | None, bytes | None]] = []

    def read() -> bool:
        while not stop.is_set():
            with rows.snapshot():
                pair = rows.read_row("a"), rows.read_row("b")
            if pair[0] != pair[1]:
                torn.append(pair)
        return True

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        with rows.transaction():
            rows.write_row("a", str(number).encode())
            rows.write_row("b", str(number).encode())
    stop.set()
    reader.join(10)
    assert not torn


def test_threads_that_write_at_once_lose_nothing(rows: Rows) -> None:
    def work(name: int) -> None:
        for _ in range(25):
            with rows.transaction():
                count = int(rows.read_row("count") or b"0") + 1
                rows.write_row("count", str(count).encode())
                rows.write_row(f"by/{name}/{count}", b"")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert rows.read_row("count") == b"100"
    assert len(rows.scan("by/")) == 100


def test_processes_that_write_at_once_lose_nothing(rows: Rows, directory: Path) -> None:
    script = (
        "import sys\nrows = Rows(Path(sys.argv[1]), durability='normal', lock_timeout=30)\n"
        "for _ in range(60):\n"
        "    with rows.transaction():\n"
        "        count = int(rows.read_row('count') or b'0') + 1\n"
        "        rows.write_row('count', str(count).encode())\n"
        "        rows.write_row(f'by/{sys.argv[2]}/{count}', b'')\n"
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
        thread.join(60)
    assert len(done) == 2
    assert rows.read_row("count") == b"120"
    assert len(rows.scan("by/a/")) == len(rows.scan("by/b/")) == 60


def test_a_process_that_dies_inside_a_transaction_leaves_nothing_of_it(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"before")
    script = (
        "import sys\nrows = Rows(Path(sys.argv[1]), durability='full', lock_timeout=30)\n"
        "with rows.transaction(): rows.write_row('kept', b'1')\n"
        "with rows.transaction():\n"
        "    rows.write_row('a', b'after')\n"
        "    os._exit(0)\n"
    )
    in_process(script, str(directory))
    assert rows.read_row("a") == b"before"
    assert rows.read_row("kept") == b"1"
    put(rows, "b")


def test_a_lock_held_by_another_is_store_busy_in_about_the_time_allowed(rows: Rows, directory: Path) -> None:
    impatient = open_rows(directory, lock_timeout=0.4)
    with rows.transaction():
        rows.write_row("a", b"1")
        began = time.monotonic()
        with pytest.raises(StoreBusy):
            put(impatient, "b")
        took = time.monotonic() - began
        assert impatient.read_row("a") is None
    put(impatient, "b")
    assert 0.3 <= took < 0.75
    impatient.close()


# --- forks ------------------------------------------------------------------------------------------------


def fork(work: Callable[[], None]) -> Callable[[], int]:
    """Run `work` in a forked child: a function that waits for its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001 - the child must never return into pytest
            sys.stderr.write(f"child: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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
    with rows.transaction():
        rows.write_row("a", b"1")
        wait = fork(lambda: None)
        rows.write_row("b", b"2")
    assert wait() == 0
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
    rows.discard()
    os.write(closed_write, b"x")
    assert wait() == -signal.SIGKILL
    assert [key for key, _ in open_rows(directory).scan("child/")] == ["1", "2"]


def test_a_child_forked_while_another_thread_writes_can_write(rows: Rows) -> None:
    inside, forked = threading.Event(), threading.Event()

    def write() -> None:
        with rows.transaction():
            rows.write_row("parent/1", b"x")
            inside.set()
            forked.wait(1)  # the fork has to wait for us, so this passes without it

    writer = threading.Thread(target=write)
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


# --- a full disk ------------------------------------------------------------------------------------------


def limit_pages(rows: Rows, extra: int) -> None:
    """Let the database grow by `extra` pages and no more."""
    pages = rows._con.execute("PRAGMA page_count").fetchone()[0]
    rows._con.execute(f"PRAGMA max_page_count = {pages + extra}")


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_full_disk_loses_nothing_and_the_store_goes_on(rows: Rows, directory: Path, where: str) -> None:
    put(rows, "a", b"before")
    limit_pages(rows, 2)
    for _ in range(3):
        with pytest.raises(StoreFull), rows.transaction():
            if where == "last":
                rows.write_row("a", b"after")
                rows.write_row("b", b"small")
            rows.write_row("big", os.urandom(MEGABYTE))
        assert rows.read_row("a") == b"before"
        assert rows.read_row("b") is None
        assert rows.read_row("big") is None
    put(rows, "a", b"small")
    limit_pages(rows, 2**20)
    put(rows, "big", b"y" * MEGABYTE)
    assert rows.read_row("a") == b"small"
    assert open_rows(directory).read_row("big") == b"y" * MEGABYTE


def test_a_full_disk_in_a_nested_transaction(rows: Rows) -> None:
    put(rows, "a", b"before")
    limit_pages(rows, 2)
    with pytest.raises(StoreFull), rows.transaction():
        rows.write_row("a", b"after")
        with rows.transaction():
            rows.write_row("big", os.urandom(MEGABYTE))
    assert rows.read_row("a") == b"before"
    put(rows, "a", b"again")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    _mount(place, "size=1m")
    yield place
    _umount(place)


def _mount(place: Path, options: str) -> None:
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("cannot mount a file system here (needs root)")


def _umount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


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
    with pytest.raises(StoreFull), rows.transaction():
        for number in range(100):
            rows.write_row(f"b/{number}", os.urandom(5000))
    assert rows.read_row("a") == b"before"
    filler.unlink()
    put(rows, "c", b"after")
    assert rows.read_row("c") == b"after"
    assert rows.scan("b/") == []
    rows.close()


# --- a disk that cannot be written ------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Callable[[Path], None]], Path]]:
    """A maker of directories that not even root can write, filled by its argument first."""
    made: list[Path] = []

    def make(fill: Callable[[Path], None]) -> Path:
        place = tmp_path / "frozen"
        place.mkdir()
        _mount(place, "size=4m")
        made.append(place)
        fill(place)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
        return place

    yield make
    for place in made:
        _umount(place)


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
    with pytest.raises(StoreReadOnly, match="cannot be written"), rows.transaction():
        rows.write_row("b", b"2")
    rows.discard()


def test_writes_that_only_the_log_holds_are_read_from_a_read_only_disk(read_only: Any) -> None:
    def fill(place: Path) -> None:
        pid = os.fork()
        if pid == 0:
            put(open_rows(place / "store"), "a", b"1")
            os._exit(0)  # without closing: the write is in the log
        os.waitpid(pid, 0)

    place = read_only(fill)
    assert list((place / "store").glob("*-wal"))
    rows = open_rows(place / "store")
    assert rows.read_row("a") == b"1"
    rows.discard()


def test_the_copy_of_a_read_only_store_is_removed(
    read_only: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    place = read_only(_filled)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    rows = open_rows(place / "store")
    assert list(temporary.iterdir())
    assert fork(lambda: None)() == 0
    assert rows.read_row("a") == b"1"
    rows.discard()
    assert not list(temporary.iterdir())
