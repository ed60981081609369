"""A store of every kind, for the suite of the contract; rows in a directory of the test's own; small and frozen disks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plexus_tactus_cache.store.contract import Store
from plexus_tactus_cache.store.local.rows import Rows
from store.on_rows import open_rows
from store.stores import STORES, StoreHarness


@pytest.fixture(params=STORES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreHarness]:
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(harness: StoreHarness) -> Store:
    return harness.open()


@pytest.fixture
def other(harness: StoreHarness) -> Store:
    """A second opener of the same store."""
    return harness.open()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def rows(directory: Path) -> Iterator[Rows]:
    opened = open_rows(directory)
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    _mount(place, "size=1m")
    yield place
    _umount(place)


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


def _mount(place: Path, options: str) -> None:
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("cannot mount a file system here (needs root)")


def _umount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
