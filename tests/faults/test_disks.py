"""Disks that are full or cannot be written, through the public API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, eventually, fast, remote_results, remote_state
from processes import script

from plexus_tactus_cache import LocalStoreError, ProcedureCache, ProcedureMetadata, StoreFull, StoreReadOnly
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator

LARGE = "x" * 50_000


def mount(place: Path, options: str) -> None:
    """A file system of its own on `place`; it takes root."""
    program = shutil.which("mount")
    done = program and subprocess.run(
        [program, "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("cannot mount a file system here (needs root)")


# --- full -------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of 2 MB that can be filled to the last byte."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self, pages: int | None = None) -> None:
        """All of it, or only so many pages."""
        if pages is None:
            self._filler.unlink()
        else:
            os.truncate(self._filler, self._filler.stat().st_size - pages * 4096)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "size=2m")
    yield SmallDisk(place)
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def fill_up(storage: Any) -> LocalStoreError:
    """Save until it fails: the error. The log of the store may have a little room left."""
    with pytest.raises(LocalStoreError) as raised:
        for number in range(100):
            storage.state_set("p", f"large {number}", LARGE)
    return raised.value


@pytest.mark.parametrize("online", [True, False])
def test_a_full_disk(plexus: Simulator, disk: SmallDisk, tmp_path: Path, online: bool) -> None:
    plexus.put("p")
    cache = ProcedureCache(client_of(plexus) if online else None, disk.place / "store", fast())
    try:
        storage = cache.storage("p")
        for number in range(5):
            append(storage, number)
        storage.state_set("p", "k", "before")
        assert cache.status().store_problem is None
        disk.fill()
        assert isinstance(fill_up(storage), StoreFull)
        assert "full" in (cache.status().store_problem or "")
        written = set(storage.get_state("p"))
        live = storage.load_procedure_metadata("p")
        live.state["k"] = LARGE
        with pytest.raises(StoreFull):
            storage.save_procedure_metadata(live)
        assert "full" in (cache.status().store_problem or "")

        disk.free()
        with ProcedureCache(None, disk.place / "store", fast()) as other:  # what was acknowledged is there
            found = other.storage("p").load_procedure_metadata("p")
            assert [entry.result for entry in found.execution_log] == list(range(5))
            assert found.state["k"] == "before"
            assert set(found.state) == written

        storage.save_procedure_metadata(live)
        append(storage, 5)
        assert cache.status().store_problem is None
        if online:
            assert cache.flush(20)
            assert remote_results(plexus, "p") == list(range(6))
            assert remote_state(plexus, "p")["k"] == LARGE
    finally:
        with suppress(LocalStoreError):
            cache.close(timeout=1)
    with ProcedureCache(None, disk.place / "store", fast()) as again:
        found = again.storage("p").load_procedure_metadata("p")
        assert [entry.result for entry in found.execution_log] == list(range(6))
        assert found.state["k"] == LARGE


def test_syncing_goes_on_when_a_full_disk_has_room_again(plexus: Simulator, disk: SmallDisk) -> None:
    plexus.put("p")
    plexus.fail("refuse")
    with ProcedureCache(client_of(plexus), disk.place / "store", fast()) as cache:
        storage = cache.storage("p")
        storage.state_set("p", "k", 1)
        eventually(lambda: cache.status().connection == "offline")
        disk.fill()
        fill_up(storage)
        written = set(storage.get_state("p"))
        plexus.heal()
        disk.free()
        eventually(lambda: set(remote_state(plexus, "p")) == written, 20)
        eventually(lambda: cache.status().dirty == 0)
        storage.state_set("p", "k", 2)
        eventually(lambda: remote_state(plexus, "p")["k"] == 2)


WRITES: dict[str, Callable[[ProcedureCache, int], object]] = {
    "state_set": lambda cache, number: cache.storage("p").state_set("p", "k", [number, LARGE]),
    "set_state": lambda cache, number: cache.storage("p").set_state("p", {"k": [number, LARGE]}),
    "checkpoint_save": lambda cache, number: cache.storage("p").checkpoint_save("p", "a", [number, LARGE]),
    "checkpoint_clear_all": lambda cache, _: cache.storage("p").checkpoint_clear_all("p"),
    "update_procedure_status": lambda cache, number: cache.storage("p").update_procedure_status("p", f"S{number}"),
    "create_procedure": lambda cache, _: cache.create_procedure(account_id="a", name="n", code=LARGE),
    "save_breakpoints": lambda cache, number: cache.storage("p").save_breakpoints("n", [number, LARGE]),
}


def seen(cache: ProcedureCache) -> Any:
    """All that a full disk may not change."""
    storage = cache.storage("p")
    return storage.load_procedure_metadata("p").model_dump(), cache.procedures(), storage.load_breakpoints("n")


@pytest.mark.parametrize("write", WRITES)
def test_a_disk_that_is_full_at_any_moment_of_a_write(disk: SmallDisk, write: str) -> None:
    """There is room for no page, then for one, and so on: the write fails at each of its own in turn."""
    failed = []
    for pages in range(24):
        place = disk.place / f"store-{pages}"
        with ProcedureCache(None, place, fast(durability="normal")) as cache:
            storage = cache.storage("p")
            for number in range(3):
                append(storage, number)
            storage.state_set("p", "k", "before")
            before = seen(cache)
            disk.fill()
            disk.free(pages)
            try:
                WRITES[write](cache, pages)
            except StoreFull:
                failed.append(pages)
                assert seen(cache) == before
                assert "full" in (cache.status().store_problem or "")
                disk.free()
                with ProcedureCache(None, place, fast()) as other:
                    assert seen(other) == before
                WRITES[write](cache, pages)
            else:
                disk.free()
            append(storage, "next")
            after = seen(cache)
            assert cache.status().store_problem is None
        with ProcedureCache(None, place, fast()) as other:
            assert seen(other) == after
        shutil.rmtree(place)
    assert failed
    assert failed == list(range(len(failed))), "with more room it never fails where it did not with less"


def test_a_disk_that_is_full_at_any_moment_of_opening(disk: SmallDisk) -> None:
    for pages in range(24):
        place = disk.place / f"store-{pages}"
        disk.fill()
        disk.free(pages)
        with suppress(StoreFull), ProcedureCache(None, place, fast()):
            pass
        disk.free()
        with ProcedureCache(None, place, fast()) as cache:
            cache.storage("p").state_set("p", "k", pages)
        with ProcedureCache(None, place, fast()) as cache:
            assert cache.storage("p").get_state("p") == {"k": pages}
        shutil.rmtree(place)


LIMITED = """
import json, resource, sys
from plexus_tactus_cache import *
cache = ProcedureCache(None, sys.argv[1])
storage = cache.storage("p")
storage.state_set("p", "k", "before")
storage.checkpoint_save("p", "a", 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
written = []
try:
    for number in range(100):
        storage.state_set("p", f"large {number}", "x" * 50_000)
        written.append(f"large {number}")
    error = None
except LocalStoreError as raised:
    error = type(raised).__name__
problem = cache.status().store_problem
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
storage.checkpoint_save("p", "b", 2)
print(json.dumps([error, problem, written, cache.status().store_problem]))
"""


def limited(directory: Path) -> list[Any]:
    """What happens in a process whose files may not grow beyond 400 KB: error, problem, what was written, problem."""
    done = script(LIMITED, str(directory))
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    error, problem, written, afterwards = limited(tmp_path)
    assert error in ("StoreFull", "LocalStoreError")
    assert problem
    assert afterwards is None
    with ProcedureCache(None, tmp_path, fast()) as cache:
        storage = cache.storage("p")
        assert set(storage.get_state("p")) == {"k", *written}
        assert (storage.checkpoint_get("p", "a"), storage.checkpoint_get("p", "b")) == (1, 2)


# --- read-only --------------------------------------------------------------------------------------------


Freeze = Callable[[Callable[[Path], None]], Path]


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Freeze]:
    """Makes a directory, lets its argument fill it, and takes away the right to write."""
    made: list[Path] = []

    def make(fill: Callable[[Path], None]) -> Path:
        place = tmp_path / "frozen"
        place.mkdir()
        if os.geteuid():  # chmod is enough, and is all that we can do
            fill(place)
            for path in [*place.rglob("*"), place]:
                path.chmod(0o500 if path.is_dir() else 0o400)
            return place
        mount(place, "size=4m")
        made.append(place)
        fill(place)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
    for path in [tmp_path / "frozen", *(tmp_path / "frozen").rglob("*")]:
        path.chmod(0o700)


def filled(place: Path) -> None:
    with ProcedureCache(None, place / "store", fast()) as cache:
        append(cache.storage("p"), "one")
        cache.storage("p").checkpoint_save("p", "a", 1)
        cache.storage("p").state_set("p", "k", {"n": 1.0})


@pytest.mark.parametrize("online", [True, False])
def test_a_store_that_can_only_be_read_serves_what_it_holds(plexus: Simulator, frozen: Freeze, online: bool) -> None:
    plexus.put("p", metadata={"state": {"theirs": 1}})
    directory = frozen(filled) / "store"
    with ProcedureCache(client_of(plexus) if online else None, directory, fast()) as cache:
        storage = cache.storage("p")
        live = storage.load_procedure_metadata("p")
        assert [entry.result for entry in live.execution_log] == ["one", 1]
        assert storage.state_get("p", "k") == {"n": 1.0}
        assert storage.checkpoint_get("p", "a") == 1
        writes: tuple[Callable[[], object], ...] = (
            lambda: storage.state_set("p", "k", 2),
            lambda: storage.set_state("p", {}),
            lambda: storage.state_delete("p", "k"),
            lambda: storage.checkpoint_save("p", "b", 2),
            lambda: storage.checkpoint_clear_all("p"),
            lambda: storage.update_procedure_status("p", "RUNNING"),
            lambda: storage.save_procedure_metadata(ProcedureMetadata(procedure_id="p")),
        )
        for write in writes:
            with pytest.raises(StoreReadOnly, match=str(directory)):
                write()
        status = cache.status()
        assert str(directory) in (status.store_problem or "")
        assert (status.procedures, status.dirty, status.leader) == (1, 1, False)
        assert not cache.flush(0.2)
        report = cache.sync(0.2)
        assert report.pending == ("p",)
        assert report.errors
    assert plexus.operations["updateProcedure"] == 0


def test_there_is_no_store_and_none_can_be_made(plexus: Simulator, frozen: Freeze) -> None:
    place = frozen(lambda place: None)
    with pytest.raises(StoreReadOnly, match=str(place)):
        ProcedureCache(client_of(plexus), place / "store", fast())


def test_looking_at_a_store_that_can_only_be_read(frozen: Freeze, capsys: pytest.CaptureFixture[str]) -> None:
    directory = frozen(filled) / "store"
    assert main(["status", "--directory", str(directory)]) == 0
    assert "cannot be written" in capsys.readouterr().out
    assert main(["ls", "--directory", str(directory)]) == 0
    assert "waiting" in capsys.readouterr().out
    assert main(["sync", "--directory", str(directory)]) == 1


def test_a_directory_that_is_a_file(plexus: Simulator, tmp_path: Path, open_cache: OpenCache) -> None:
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(StoreReadOnly, match="not a directory"):
        open_cache()
    assert (tmp_path / "store").read_text() == "not a directory"


def test_a_store_on_a_full_disk_can_be_looked_at(disk: SmallDisk, capsys: pytest.CaptureFixture[str]) -> None:
    with ProcedureCache(None, disk.place / "store", fast()) as cache:
        cache.storage("p").state_set("p", "k", 1)
        disk.fill()
        fill_up(cache.storage("p"))
    assert main(["status", "--directory", str(disk.place / "store")]) == 0
    with ProcedureCache(None, disk.place / "store", fast()) as cache:
        assert cache.storage("p").state_get("p", "k") == 1


def test_why_nothing_is_pushed_from_a_store_that_can_only_be_read(plexus: Simulator, frozen: Freeze) -> None:
    directory = frozen(filled) / "store"
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        assert "cannot be written" in cache.sync(0.2).errors[0]
