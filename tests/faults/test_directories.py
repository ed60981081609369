"""What a directory is taken for: a store knows what it holds, and what is not ours stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import diskcache
import pytest
from conftest import OpenCache
from helpers import client_of, eventually, fast
from processes import Process, opened
from store.on_rows import fork

from faults.places import DATABASE, MARKER, files, fill, state
from plexus_tactus_cache import (
    CacheCorrupted,
    LocalStoreError,
    PlexusStorageAdapter,
    ProcedureCache,
    StoreFull,
    StoreReadOnly,
)
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator

SOMEBODY = 4321  # a user that is not root


def said(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / MARKER).read_text())
    return found


def change(directory: Path, statement: str) -> None:
    connection = sqlite3.connect(directory / DATABASE)
    with connection:
        assert connection.execute(statement).rowcount
    connection.close()


def refused(directory: Path, error: type[LocalStoreError], match: str) -> None:
    """Neither opened nor looked at; both change nothing."""
    before = files(directory)
    for read_only in (False, True):
        with pytest.raises(error, match=match) as raised:
            ProcedureCache(None, directory, fast(), read_only=read_only)
        assert str(directory) in str(raised.value)
        assert files(directory) == before


# --- a store knows what it holds --------------------------------------------------------------------------


def test_a_marker_says_that_it_is_a_store_and_which(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    one, other = said(tmp_path / "a"), said(tmp_path / "b")
    assert one.keys() == {"format", "store_id"}
    assert one["store_id"] != other["store_id"]
    assert stat.S_IMODE((tmp_path / "a" / MARKER).stat().st_mode) == 0o600
    fill(tmp_path / "a")
    assert said(tmp_path / "a") == one


@pytest.mark.parametrize("left", [None, b""], ids=["deleted", "truncated"])
def test_a_store_without_its_database_is_no_new_store(tmp_path: Path, left: bytes | None) -> None:
    directory = tmp_path / "store"
    fill(directory)
    (directory / DATABASE).unlink()
    if left is not None:
        (directory / DATABASE).write_bytes(left)
    refused(directory, CacheCorrupted, "gone or empty: put it back from a backup, or, to begin an empty store, move")
    assert main(["sync", "--directory", str(directory)]) == 1
    assert main(["status", "--directory", str(directory)]) == 1


def test_the_database_of_another_store(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    fill(one)
    fill(other)
    shutil.copy(other / DATABASE, one / DATABASE)
    refused(one, CacheCorrupted, "is that of store .*: put it back")


def test_a_database_that_another_program_made(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    fill(directory)
    (directory / DATABASE).unlink()
    with diskcache.Cache(str(directory)) as theirs:
        theirs["a"] = 1
    refused(directory, CacheCorrupted, "lost what it held.*: put it back")


def test_a_marker_that_is_damaged(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    fill(directory)
    for damage in (b"", b"[]", b'{"format": 2}', b"\xff"):
        (directory / MARKER).write_bytes(damage)
        refused(directory, CacheCorrupted, "delete that file")
    (directory / MARKER).unlink()  # as it says
    assert state(directory) == {"k": 1}
    assert said(directory)["store_id"]


EVICT = "import diskcache, sys; c = diskcache.Cache(sys.argv[1], eviction_policy='least-recently-stored', {}); c.{}()"


@pytest.mark.parametrize("how", [("size_limit=1, cull_limit=1000", "cull"), ("timeout=60", "clear")])
def test_another_program_empties_the_database(plexus: Simulator, tmp_path: Path, how: tuple[str, str]) -> None:
    directory = tmp_path / "store"
    with ProcedureCache(None, directory, fast()) as cache:
        storage = cache.storage("p")
        storage.state_set("p", "k", 1)
        subprocess.run([sys.executable, "-c", EVICT.format(*how), str(directory)], check=True)
        for call in (
            lambda: cache.storage("new").get_state("new"),
            lambda: storage.state_set("p", "k", 2),
            lambda: cache.storage("q").state_set("q", "k", 2),
            cache.procedures,
            cache.conflicts,
            cache.status,
            lambda: cache.flush(1),
        ):
            with pytest.raises(CacheCorrupted, match="another program has emptied it"):
                call()
    refused(directory, CacheCorrupted, "another program has emptied it")


@pytest.mark.parametrize("instead", [False, True], ids=["deleted", "replaced"])
def test_the_database_is_taken_away_from_a_running_process(tmp_path: Path, instead: bool) -> None:
    directory = tmp_path / "store"
    with ProcedureCache(None, directory, fast()) as cache:
        storage = cache.storage("p")
        storage.state_set("p", "k", 1)
        for file in directory.glob(f"{DATABASE}*"):
            file.unlink()
        if instead:
            fill(tmp_path / "other")
            shutil.copy(tmp_path / "other" / DATABASE, directory / DATABASE)
        with pytest.raises(CacheCorrupted, match="replaced" if instead else "gone"):
            storage.state_set("p", "k", 2)  # it would go into a file that nobody finds


# --- older stores -----------------------------------------------------------------------------------------


def make_older(directory: Path, format_: int) -> None:
    """As it was before there were markers."""
    from plexus_tactus_cache.store.local.rows import Rows

    rows = Rows(directory, durability="full", lock_timeout=10)

    def work() -> None:
        rows.write_row("store", json.dumps({"endpoint": None, "format": format_}).encode())
        if format_ == 1:
            rows.delete_range("due/")

    rows.transaction(work)
    rows.close()
    (directory / MARKER).unlink()


@pytest.mark.parametrize("format_", [1, 2])
def test_a_store_from_before_there_were_markers(plexus: Simulator, tmp_path: Path, format_: int) -> None:
    directory = tmp_path / "store"
    plexus.put("p")
    fill(directory)
    make_older(directory, format_)
    before = files(directory)
    assert state(directory, read_only=True) == {"k": 1}
    for command in ("status", "ls", "conflicts"):
        assert main([command, "--directory", str(directory)]) == 0
    assert files(directory) == before
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        assert cache.flush(20)
    assert said(directory)["format"] == 3
    fill(directory, 2)
    assert state(directory) == {"k": 2}


def test_a_directory_that_diskcache_would_take_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", "elsewhere")
    with pytest.raises(StoreReadOnly, match="expands variables: name another"):
        ProcedureCache(None, tmp_path / "$ELSEWHERE", fast())
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_later_version(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    fill(directory)
    make_older(directory, 99)
    refused(directory, LocalStoreError, r"format 99.*use the version that wrote it")
    before = (directory / DATABASE).read_bytes()
    assert main(["doctor", "--repair", "--directory", str(directory)]) == 0  # it is not damaged
    assert (directory / DATABASE).read_bytes() == before


# --- a store is made in one piece, or is gone on with -----------------------------------------------------

EVENTS = 53  # from one of those at which the making is cut short to the next, in one test


def die_at(number: int, work: Callable[[], object]) -> Callable[[], int]:
    """Do it in a child that dies in the middle, at that event inside the store's modules: exit status 0 if it was."""

    def child() -> None:
        seen = 0

        def look(frame: FrameType, event: str, argument: object) -> None:
            nonlocal seen
            if "/store/local/" in frame.f_code.co_filename:
                seen += 1
                if seen == number:
                    os._exit(9)

        sys.setprofile(look)
        work()
        sys.setprofile(None)

    return fork(child)


def looked_at(directory: Path) -> dict[str, Any] | None:
    """None where no store is yet."""
    try:
        return state(directory, read_only=True)
    except StoreReadOnly:
        return None


@pytest.mark.parametrize("first", range(1, EVENTS, 9))
@pytest.mark.parametrize("older", [False, True], ids=["new", "older"])
def test_the_making_of_a_store_is_cut_short(tmp_path: Path, first: int, older: bool) -> None:
    number, done = first, False
    while not done:
        directory = tmp_path / f"{number}"
        if older:
            fill(directory)
            make_older(directory, 1)
        before = {"k": 1} if older else {}
        done = die_at(number, partial(ProcedureCache, None, directory, fast()))() == 0
        if directory.exists():
            assert looked_at(directory) in ((before,) if older else (before, None))
        assert state(directory) == before
        fill(directory, 2)
        assert state(directory) == {"k": 2}
        assert not said(directory).get("creating")
        number += EVENTS


def test_many_make_one_store_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with Process() as one, Process() as two, Process() as three:
        all_ = (one, two, three)
        for process in all_:
            process.tell(opened(directory, lock_timeout=60))
        for process in all_:
            process.answer()
        for number, process in enumerate(all_):
            process.do(f"cache.storage('p').state_set('p', 'k{number}', 1)")
    assert state(directory) == {"k0": 1, "k1": 1, "k2": 1}


# --- what is not ours -------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "theirs"
    found.mkdir(mode=0o755)
    return found


def test_a_directory_with_files_of_others(directory: Path) -> None:
    (directory / "thesis.txt").write_text("years of work")
    before = files(directory)
    with pytest.raises(StoreReadOnly, match=r"not empty, and not ours \(it holds 'thesis.txt'\).*PLEXUS_CACHE_DIR"):
        ProcedureCache(None, directory, fast())
    with pytest.raises(StoreReadOnly, match="there is no store"):
        ProcedureCache(None, directory, fast(), read_only=True)
    assert files(directory) == before


def test_a_directory_from_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PLEXUS_CACHE_DIR=/tmp, by root."""
    (directory / "x").mkdir()
    directory.chmod(0o1777)
    before = files(directory)
    monkeypatch.setenv("PLEXUS_CACHE_DIR", str(directory))
    with pytest.raises(StoreReadOnly, match="not ours"):
        PlexusStorageAdapter(None, "p")
    (directory / "x").rmdir()
    with pytest.raises(StoreReadOnly, match="everybody"):
        PlexusStorageAdapter(None, "p")
    assert directory.stat().st_mode == before[str(directory)][0]
    assert not list(directory.iterdir())


def test_the_cache_of_another_program(directory: Path) -> None:
    with diskcache.Cache(str(directory)) as theirs:
        theirs["a"] = 1
    refused(directory, StoreReadOnly, "no store of ours")
    assert main(["status", "--directory", str(directory)]) == 1
    with diskcache.Cache(str(directory)) as theirs:
        assert theirs["a"] == 1
        assert theirs.eviction_policy == "least-recently-stored"


def test_another_database_of_that_name(directory: Path) -> None:
    connection = sqlite3.connect(directory / DATABASE)
    with connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    refused(directory, StoreReadOnly, "no store of ours")


@pytest.mark.parametrize("name", ["writer.lock", "lost+found"])
def test_a_directory_that_is_as_good_as_empty(directory: Path, name: str) -> None:
    (directory / name).mkdir() if name == "lost+found" else (directory / name).touch()
    fill(directory)
    assert state(directory) == {"k": 1}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["writer.lock", "writer.turnstile", "leader.lock"])
@pytest.mark.parametrize("content", ["mine", "1234567890\n\n", None], ids=["a text", "longer", "a directory"])
def test_a_file_of_others_that_is_called_as_a_lock(directory: Path, name: str, content: str | None) -> None:
    (directory / name).mkdir() if content is None else (directory / name).write_text(content)
    before = files(directory)
    with pytest.raises(StoreReadOnly, match=rf"not ours \(it holds '{name}'\)"):
        ProcedureCache(None, directory, fast())
    assert files(directory) == before


def test_a_lock_that_a_process_left(directory: Path) -> None:
    (directory / "writer.lock").write_text(f"{os.getpid():<10}\n")
    fill(directory)
    assert state(directory) == {"k": 1}


def test_a_link_to_a_directory(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    with pytest.raises(StoreReadOnly, match=f"is a link: name the directory itself, {directory}"):
        ProcedureCache(None, link, fast())
    assert not list(directory.iterdir())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", [DATABASE, MARKER, "writer.lock", "writer.turnstile", "leader.lock"])
def test_a_link_in_place_of_a_file(directory: Path, tmp_path: Path, name: str) -> None:
    fill(directory)
    (directory / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_text("theirs")
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreReadOnly, match=f"{name} is a link"):
        ProcedureCache(None, directory, fast())
    assert (tmp_path / "elsewhere").read_text() == "theirs"


# --- other users ------------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")


def as_somebody(work: Callable[[], None]) -> int:
    """Its exit status, run by another user."""

    def child() -> None:
        os.setgid(SOMEBODY)
        os.setuid(SOMEBODY)
        work()

    return fork(child)()


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of somebody's that everybody can get at."""
    place = Path(os.path.realpath("/tmp")) / f"plexus-tactus-cache-test-{os.getpid()}"
    place.mkdir()
    os.chown(place, SOMEBODY, SOMEBODY)
    yield place
    shutil.rmtree(place)


@needs_root
def test_the_directory_of_another_user(shared: Path) -> None:
    (shared / "empty").mkdir(mode=0o777)
    os.chown(shared / "empty", SOMEBODY, SOMEBODY)
    before = files(shared)
    with pytest.raises(StoreReadOnly, match=f"belongs to user {SOMEBODY}.*a new one below it"):
        ProcedureCache(None, shared / "empty", fast())
    assert files(shared) == before
    os.chown(shared / "empty", 0, 0)
    (shared / "empty").chmod(0o777)

    def try_it() -> None:
        with pytest.raises(StoreReadOnly, match="belongs to user root"):
            ProcedureCache(None, shared / "empty", fast())

    assert as_somebody(try_it) == 0
    assert not list((shared / "empty").iterdir())


@needs_root
@pytest.mark.parametrize("name", [DATABASE, MARKER])
def test_a_file_of_another_user_in_a_directory_of_ours(directory: Path, name: str) -> None:
    """Who could write into it what he likes."""
    fill(directory)
    os.chown(directory / name, SOMEBODY, SOMEBODY)
    before = files(directory)
    with pytest.raises(StoreReadOnly, match=f"{name} belongs to user {SOMEBODY}, and its directory to user root"):
        ProcedureCache(None, directory, fast())
    assert files(directory) == before


@needs_root
def test_root_opens_the_store_of_another_user(plexus: Simulator, shared: Path) -> None:
    directory = shared / "store"
    assert as_somebody(lambda: fill(directory)) == 0
    make_older_by_hand(directory)
    for name in ("writer.lock", "writer.turnstile", MARKER):
        (directory / name).unlink()
    plexus.put("p")
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        cache.storage("p").state_set("p", "k", 2)
        assert cache.flush(20)
        assert {path.name: path.stat().st_uid for path in directory.iterdir()} == dict.fromkeys(
            (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", MARKER, "writer.lock", "writer.turnstile", "leader.lock"),
            SOMEBODY,
        )
    assert as_somebody(lambda: fill(directory, 3)) == 0
    assert state(directory) == {"k": 3}


def make_older_by_hand(directory: Path) -> None:
    """By root, leaving no file of root's."""
    make_older(directory, 2)
    (directory / MARKER).touch()


@needs_root
def test_a_user_who_may_not_write_there(shared: Path) -> None:
    directory = shared / "store"
    fill(directory)
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)
    before = files(directory)

    def look() -> None:
        with pytest.raises(StoreReadOnly, match=r"belongs to user root.*status` may look"):
            ProcedureCache(None, directory, fast())
        assert state(directory, read_only=True) == {"k": 1}
        assert main(["status", "--directory", str(directory)]) == 0

    assert as_somebody(look) == 0
    assert files(directory) == before


# --- lock files -------------------------------------------------------------------------------------------


def test_a_lock_file_that_cannot_be_opened(
    plexus: Simulator, open_cache: OpenCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plexus.put("p")
    fill(tmp_path / "store")
    (tmp_path / "store" / "leader.lock").mkdir()
    cache = open_cache()
    eventually(lambda: "leader.lock" in (cache.status().store_problem or ""))
    eventually(lambda: plexus.operations["getProcedure"] == 0)
    loud = [record for record in caplog.records if "leader.lock" in record.getMessage()]
    assert [record.levelname for record in loud] == ["ERROR"]
    (tmp_path / "store" / "leader.lock").rmdir()
    eventually(lambda: cache.status().dirty == 0)
    assert cache.status().store_problem is None


def test_a_lock_file_on_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=30", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here (needs root)")
    try:
        with ProcedureCache(None, place / "store", fast()) as cache:
            storage = cache.storage("p")
            storage.state_set("p", "k", 1)
        (place / "store" / "writer.lock").unlink()
        cache = ProcedureCache(None, place / "store", fast())
        for number in range(30):
            try:
                (place / f"{number}").touch()
            except OSError:
                break
        with pytest.raises(StoreFull, match="is full"):
            cache.storage("p").state_set("p", "k", 2)
        assert "is full" in (cache.status().store_problem or "")
        with pytest.raises(StoreFull):
            ProcedureCache(None, place / "new", fast())
        with ProcedureCache(None, place / "store", fast()) as again:
            assert again.storage("p").get_state("p") == {"k": 1}
            with pytest.raises(LocalStoreError):
                again.storage("p").state_set("p", "k", 2)
        (place / "0").unlink()
        cache.storage("p").state_set("p", "k", 3)
        cache.close()
        assert state(place / "store") == {"k": 3}
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
