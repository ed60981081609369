"""Looking changes nothing, and waits for nobody: `status`, `ls`, `conflicts` and ProcedureCache(read_only=True)."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, fast
from processes import Process, opened
from store.on_rows import enter, fork
from store.on_rows import opened as opened_rows

from faults.places import DATABASE, MARKER, files, fill, state
from plexus_tactus_cache import ProcedureCache, ProcedureMetadata, StoreReadOnly
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator

COMMANDS = (["status"], ["status", "--json"], ["ls"], ["ls", "--json"], ["conflicts"], ["conflicts", "--resolved"])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "store"
    fill(found)
    return found


def look(directory: Path) -> None:
    """Every command that looks; nothing may change."""
    before, threads = files(directory), set(threading.enumerate())
    for command in COMMANDS:
        assert main([*command, "--directory", str(directory)]) == 0, command
        assert files(directory) == before, command
    assert state(directory, read_only=True)["k"] == 1
    assert files(directory) == before
    assert set(threading.enumerate()) == threads


def test_what_changes_something_is_refused(directory: Path) -> None:
    with ProcedureCache(None, directory, fast(), read_only=True) as cache:
        for change in (
            lambda: cache.gc(1),
            lambda: cache.storage("p").state_set("p", "k", 2),
            lambda: cache.forget("p"),
        ):
            with pytest.raises(StoreReadOnly, match="to look at it only"):
                change()


def crash(directory: Path) -> None:
    """Leave a log behind, as a process does that is killed."""
    held: list[ProcedureCache] = []  # one that nobody holds closes its connections

    def write() -> None:
        held.append(ProcedureCache(None, directory, fast()))
        held[0].storage("p").state_set("p", "new", 2)

    assert fork(write)() == 0
    assert (directory / f"{DATABASE}-wal").stat().st_size


def test_at_rest(directory: Path) -> None:
    look(directory)


@pytest.mark.parametrize("mode", [0o755, 0o500], ids=oct)
def test_modes_and_settings_of_somebody_stay(directory: Path, mode: int) -> None:
    connection = sqlite3.connect(directory / DATABASE)
    with connection:
        connection.execute("UPDATE Settings SET value = 10 WHERE key = 'cull_limit'")
    connection.close()
    (directory / DATABASE).chmod(0o644)
    directory.chmod(mode)
    look(directory)
    directory.chmod(0o700)


@pytest.mark.parametrize("left", ["all", "no index", "an empty log", "a damaged index"])
def test_after_a_crash(directory: Path, left: str) -> None:
    log, index = directory / f"{DATABASE}-wal", directory / f"{DATABASE}-shm"
    if left == "an empty log":
        log.touch()
    else:
        crash(directory)
    if left == "no index":
        index.unlink()
    if left == "a damaged index":
        index.write_bytes(os.urandom(index.stat().st_size))
    look(directory)
    if left != "an empty log":
        assert state(directory, read_only=True) == {"k": 1, "new": 2}
    assert state(directory)["k"] == 1


def test_no_copy_is_left(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash(directory)
    (directory / f"{DATABASE}-shm").unlink()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with ProcedureCache(None, directory, fast(), read_only=True) as cache:
        assert state(directory, read_only=True) == {"k": 1, "new": 2}
        assert fork(cache.check_open)() == 0
        assert cache.status().procedures == 1
        assert not list(temporary.iterdir())


def test_beside_a_running_worker(directory: Path) -> None:
    with Process(opened(directory)) as worker:
        look(directory)
        with ProcedureCache(None, directory, fast(), read_only=True) as cache:
            storage = cache.storage("p")
            for number in range(5):
                worker.do(f"cache.storage('p').state_set('p', 'n', {number})")
                assert storage.state_get("p", "n") == number
            worker.do("cache.close()")
            assert storage.state_get("p", "n") == 4
            fill(directory)
            assert storage.get_state("p") == {"k": 1, "n": 4}
            look(directory)


@pytest.mark.parametrize("large", [False, True])
def test_what_is_written_meanwhile_is_seen(directory: Path, large: bool) -> None:
    """From a file that does not change, while it is looked at, to a log that comes and goes."""
    with ProcedureCache(None, directory, fast(), read_only=True) as cache:
        storage = cache.storage("p")
        assert storage.get_state("p") == {"k": 1}
        for number in range(4):
            with ProcedureCache(None, directory, fast()) as worker:
                for part in range(8 if large else 1):  # 8 MB: the log is brought into the database meanwhile
                    worker.storage("p").state_set("p", "n", [number, "x" * 2**20 if large else part])
                    assert storage.get_state("p")["n"] == worker.storage("p").get_state("p")["n"]
            assert storage.get_state("p")["n"][0] == number


def test_beside_a_worker_that_is_stopped_inside_a_write(directory: Path) -> None:
    with Process(*opened_rows(directory)) as worker:
        enter(worker)
        worker.suspend()
        begin = time.monotonic()
        look(directory)
        assert time.monotonic() - begin < 50  # lock_timeout is 60 s
        worker.resume()


def test_beside_a_program_that_holds_the_whole_database(directory: Path) -> None:
    """As a process does that is stopped while it closes."""
    crash(directory)
    connection = sqlite3.connect(directory / DATABASE, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    wait = fork(lambda: look(directory))  # SQLite's locks are those of a process
    assert wait() == 0
    assert time.monotonic() - begin < 50
    connection.close()


def test_writing_is_refused(plexus: Simulator, directory: Path) -> None:
    plexus.put("p")
    before = files(directory)
    with ProcedureCache(client_of(plexus), directory, fast(), read_only=True) as cache:
        storage = cache.storage("p")
        assert storage.get_state("p") == {"k": 1}
        writes: tuple[Callable[[], object], ...] = (
            lambda: storage.state_set("p", "k", 2),
            lambda: storage.save_procedure_metadata(ProcedureMetadata(procedure_id="p")),
            lambda: storage.checkpoint_save("p", "b", 2),
            lambda: storage.update_procedure_status("p", "RUNNING"),
            lambda: append(storage, 1),
            lambda: cache.create_procedure(account_id="a", name="n"),
            lambda: cache.retry("p"),
            lambda: cache.pull("p"),
        )
        for write in writes:
            with pytest.raises(StoreReadOnly, match="opened to look at it only"):
                write()
        assert cache.sync(1).errors == (f"{directory} was opened to look at it only: nothing can be pushed",)
        assert not cache.flush(1)
    assert files(directory) == before
    assert not plexus.operations


def test_the_status_is_that_of_the_store(plexus: Simulator, open_cache: OpenCache, tmp_path: Path) -> None:
    plexus.put("p")
    plexus.fail("refuse")
    worker = open_cache()
    worker.storage("p").state_set("p", "k", 1)
    worker.sync(5)
    with ProcedureCache(client_of(plexus), tmp_path / "store", fast(), read_only=True) as cache:
        seen, truth = cache.status(), worker.status()
        assert (seen.connection, seen.dirty, seen.store_problem) == ("offline", 1, None)
        assert seen.next_attempt is not None
        assert (seen.procedures, seen.endpoint) == (truth.procedures, truth.endpoint)
        assert not seen.leader


@pytest.mark.parametrize("command", COMMANDS)
def test_where_no_store_is(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    for place in ("empty", "none"):
        assert main([*command, "--directory", str(tmp_path / place)]) == 1
        with pytest.raises(StoreReadOnly, match="there is no store"):
            ProcedureCache(None, tmp_path / place, fast(), read_only=True)
    assert files(tmp_path) == before


@pytest.fixture
def holder(directory: Path) -> Iterator[sqlite3.Connection]:
    """A program that is not ours and writes for long, after it changed a setting."""
    connection = sqlite3.connect(directory / DATABASE, isolation_level=None, timeout=60)
    connection.execute("UPDATE Settings SET value = 10 WHERE key = 'cull_limit'")
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_settings_of_somebody_who_still_writes(directory: Path, holder: sqlite3.Connection) -> None:
    begin = time.monotonic()
    with pytest.raises(Exception, match="another program holds the database"):
        ProcedureCache(None, directory, fast(lock_timeout=0.5))
    assert time.monotonic() - begin < 30  # diskcache tries for 60 s
    holder.execute("COMMIT")
    assert state(directory) == {"k": 1}
    assert MARKER in {path.name for path in directory.iterdir()}
    assert holder.execute("SELECT value FROM Settings WHERE key = 'cull_limit'").fetchone() == (0,)


def test_many_look_while_one_writes(directory: Path) -> None:
    """Whole documents, whatever the log does meanwhile."""
    stop = threading.Event()
    seen: list[Any] = []

    def watch() -> None:
        with ProcedureCache(None, directory, fast(), read_only=True) as cache:
            while not stop.is_set():
                one = cache.storage("p").get_state("p")
                seen.append(one.get("a") == one.get("b"))
                cache.procedures()

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(12):
        with ProcedureCache(None, directory, fast()) as worker:
            for _ in range(2):
                worker.storage("p").set_state("p", {"a": number, "b": number, "c": "x" * 3_000_000})
    stop.set()
    for thread in threads:
        thread.join(60)
    assert len(seen) > 2
    assert all(seen)
