"""Damage stays where it is: each row of a store flipped, cut short and deleted, and what its documents do then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import client_of, eventually, fast, remote_results, remote_state
from store.on_rows import fork

from faults.damaged import DOCUMENTS, Made, Picture, damage, fill, make, picture, rows, whose
from plexus_tactus_cache import OFFLINE, CacheCorrupted, LocalStoreError, ProcedureCache
from plexus_tactus_cache.store.local import salvage
from plexus_tactus_cache.store.local.directory import LOG
from plexus_tactus_cache.testing.simulator import Simulator

_HEADER, _FRAME = 32, 24 + 4096  # bytes of the log, and of a page in it


@pytest.fixture(scope="module")
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def made(plexus: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(plexus, tmp_path_factory.mktemp("damage") / "store")


@pytest.mark.parametrize("how", ["flipped", "cut short", "deleted"])
def test_no_row_is_damaged_in_silence(plexus: Simulator, made: Made, tmp_path: Path, how: str) -> None:
    original, pictures, records = made
    silent: list[str] = []
    for number, key in enumerate(rows(original)):
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        damage(directory, key, how)
        for name, record in records.items():
            plexus.put(name, metadata=record["metadata"], status=record["status"])
        silent += [f"{key}: {what}" for what in differences(plexus, directory, pictures, whose(key))]
        shutil.rmtree(directory)
    assert not silent, "\n".join(silent)


def differences(plexus: Simulator, directory: Path, pictures: dict[str, Picture], hit: str | None) -> list[str]:
    """What is not as it was, although nobody said so; what others suffer from it."""
    found = []
    try:
        with ProcedureCache(None, directory, fast()) as cache:  # offline: nothing is mended from Plexus
            for name in DOCUMENTS:
                try:
                    if picture(cache, name) != pictures[name]:
                        found.append(f"{name} differs in silence")
                except LocalStoreError as error:
                    if name != hit:
                        found.append(f"{name} suffers: {error}")
                    elif name not in str(error):
                        found.append(f"the error does not name {name}: {error}")
            cache.status()
            if len(cache.procedures()) < len(DOCUMENTS):
                known = {one.procedure_id for one in cache.procedures()}
                found += [f"{name} is not listed" for name in DOCUMENTS if name not in known and name != hit]
    except LocalStoreError as error:
        return [] if hit is None else [f"the whole store suffers from {hit}: {error}"]
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        others = [name for name in DOCUMENTS[1:] if name != hit]
        try:
            eventually(lambda: all(remote_state(plexus, name).get("k0") == "changed" for name in others), 20)
            eventually(lambda: all(remote_results(plexus, name)[-1] == "after" for name in others), 20)
        except AssertionError:
            found.append(f"others do not sync: {others}")
        if hit is not None:
            try:
                now = picture(cache, hit)
                if now != pictures[hit]:
                    found.append(f"{hit} differs in silence, with Plexus: {now}")
            except LocalStoreError as error:
                if hit == "clean":
                    found.append(f"{hit} is not read again from Plexus: {error}")
    return found


def crashed(directory: Path, writes: int = 6) -> dict[str, Picture]:
    """Leave a log behind, as a process does that is killed: what is in the documents."""
    with ProcedureCache(OFFLINE, directory, fast()) as cache:
        for name in DOCUMENTS:
            fill(cache, name)
    held: list[ProcedureCache] = []  # one that nobody holds closes its connections

    def write() -> None:
        held.append(ProcedureCache(OFFLINE, directory, fast()))
        for number in range(writes):
            for name in DOCUMENTS:
                held[0].storage(name).state_set(name, "k0", [number, "x" * 500])

    assert fork(write)() == 0
    shutil.copytree(directory, directory.with_name("copy"))
    with ProcedureCache(OFFLINE, directory.with_name("copy"), fast()) as cache:
        return {name: picture(cache, name) for name in DOCUMENTS}


def test_a_damaged_log_is_not_cut_off_in_silence(tmp_path: Path) -> None:
    original = tmp_path / "original"
    pictures = crashed(original)
    log = (original / LOG).read_bytes()
    wrong = []
    for number, at in enumerate(range(5, len(log) - 3 * _FRAME, _FRAME // 2)):  # headers, frames' headers, their pages
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        (directory / LOG).write_bytes(log[:at] + bytes([log[at] ^ 4]) + log[at + 1 :])
        for read_only in (True, False):
            with pytest.raises(CacheCorrupted, match="doctor --repair"):
                ProcedureCache(OFFLINE, directory, fast(), read_only=read_only)
        report = salvage(directory, 1.8e9)
        with ProcedureCache(OFFLINE, directory, fast()) as cache:
            wrong += [f"{name} at {at}" for name in report.whole if picture(cache, name) != pictures[name]]
        if report.aside is None or len(report.partly) > 1 or set(report.whole) | set(report.partly) != set(DOCUMENTS):
            wrong.append(f"{at}: {report}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("left", ["cut off", "zeros", "holes"])
def test_a_torn_end_of_the_log_is_no_damage(tmp_path: Path, left: str) -> None:
    """It is what a power cut leaves of a transaction that was not acknowledged."""
    original = tmp_path / "original"
    crashed(original, writes=2)
    log = (original / LOG).read_bytes()
    last = max(at for at in range(_HEADER, len(log) - _FRAME, _FRAME) if any(log[at + 4 : at + 8])) + _FRAME
    for number, at in enumerate((last, last + 10, last + 100, len(log) - 10)):
        torn = log[:at] if left == "cut off" else log[:at] + bytes(len(log) - at)
        if left == "holes":
            torn = log[:at] + bytes(min(512, len(log) - at)) + log[at + 512 :]
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        (directory / LOG).write_bytes(torn)
        with ProcedureCache(OFFLINE, directory, fast()) as cache:
            assert [picture(cache, name)[1]["k0"][0] for name in DOCUMENTS[:2]] == [1, 1]
