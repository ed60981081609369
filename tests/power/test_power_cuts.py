"""Power cuts at any moment: what was acknowledged is there, nothing is there by half, and everything goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from power.disk import Disk
from power.record import STORE, Event, Kind, compiled, recorded
from power.referee import Finding, Wrong, findings

Record = Callable[[str], list[Event]]

STEPS = 800  # several times what SQLite's log holds until it is brought into the database
IMAGES, MANY = 60, 2_000
LOG = f"{STORE}/cache.db-wal"


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """`record(durability)`: what a writer did; it runs once."""
    made: dict[str, list[Event]] = {}
    directory = tmp_path_factory.mktemp("power")

    def of(durability: str) -> list[Event]:
        if durability not in made:
            made[durability] = recorded(directory / durability, compiled(directory), durability, STEPS)
        return made[durability]

    return of


def judge(events: Sequence[Event], count: int, seed: str, directory: Path, durability: str = "full") -> list[Finding]:
    return list(findings(events, count, seed, directory, durability))


def test_the_record_is_whole(record: Record, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What it says is what there is; and it has what can go wrong."""
    events = record("full")
    disk = Disk()
    for event in events:
        if event.kind is not Kind.MARK:
            disk.take(event)
    there = next(tmp_path_factory.getbasetemp().glob("power*/full/disk"))
    files = {path.relative_to(there).as_posix(): path.read_bytes() for path in there.rglob("*") if path.is_file()}
    files.pop(f"{LOG.removesuffix('-wal')}-shm")
    assert disk.whole() == files

    begins = [event for event in events if (event.kind, event.path, event.offset) == (Kind.WRITE, LOG, 0)]
    ends = [event for event in events if (event.kind, event.path) == (Kind.UNLINK, LOG)]
    assert len(ends) > 2  # caches were closed
    assert len(begins) > 2 + len(ends)  # it was brought into the database while it was in use, more than once


def test_what_was_acknowledged_survives(record: Record, tmp_path: Path) -> None:
    assert judge(record("full"), IMAGES, "a", tmp_path) == []


def test_what_is_not_promised_is_found_missing(record: Record, tmp_path: Path) -> None:
    """The control: `normal` survives a crash only. What is there was acknowledged, but not all that was is there."""
    assert {finding.wrong for finding in judge(record("normal"), IMAGES, "a", tmp_path, "normal")} == {Wrong.LOST}


def judge_new(events: Sequence[Event], count: int, directory: Path, durability: str) -> list[Finding]:
    """What is broken in stores that are new: from their first file to their first writes."""
    said = [at for at, event in enumerate(events) if event.kind is Kind.MARK]
    found = judge(events[: said[10]], count, "new", directory, durability)
    return [finding for finding in found if finding.wrong is Wrong.BROKEN]


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_new_store_is_one_whatever_it_lost(record: Record, tmp_path: Path, durability: str) -> None:
    assert judge_new(record(durability), IMAGES // 2, tmp_path, durability) == []


@pytest.mark.parametrize("path", [STORE, LOG, f"{STORE}/cache.db"])
def test_each_sync_that_is_left_out_is_found_missing(record: Record, tmp_path: Path, path: str) -> None:
    """The controls of the directory, the log and the database."""
    events = [event for event in record("full") if (event.kind, event.path) != (Kind.SYNC, path)]
    assert next(findings(events, IMAGES, "a", tmp_path), None) is not None


# --- with many images -------------------------------------------------------------------------------------


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_survives_many_power_cuts(record: Record, tmp_path: Path) -> None:
    assert judge(record("full"), MANY, "many", tmp_path) == []


@pytest.mark.drill
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_new_stores_that_lose_their_power(record: Record, tmp_path: Path, durability: str) -> None:
    assert judge_new(record(durability), MANY // 2, tmp_path, durability) == []
