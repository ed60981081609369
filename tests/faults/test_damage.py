"""Damage stays where it is: each row of a store flipped, cut short and deleted, and what its documents do then."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import append, client_of, eventually, fast, remote_results, remote_state

from plexus_tactus_cache import LocalStoreError, ProcedureCache
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

DOCUMENTS = ("clean", "dirty", "other")
Picture = tuple[list[Any], dict[str, Any], dict[str, Any], str, int]


def fill(cache: ProcedureCache, name: str) -> None:
    storage = cache.storage(name)
    live = storage.load_procedure_metadata(name)
    live.lua_state["l"] = name
    live.__dict__["async_procedures"] = {"h": {"status": "running"}}
    for number in range(3):
        storage.state_set(name, f"k{number}", [name, number])
        append(storage, {"n": number, "by": name})
    storage.update_procedure_status(name, "RUNNING")


def picture(cache: ProcedureCache, name: str) -> Picture:
    live = cache.storage(name).load_procedure_metadata(name)
    results = [entry.result for entry in live.execution_log]
    return results, dict(live.state), dict(live.lua_state), live.status, live.replay_index


@pytest.fixture(scope="module")
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def made(
    plexus: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Picture], dict[str, Any]]:
    """A store with a document that is clean, two that have changed since they were pushed, and a conflict."""
    directory = tmp_path_factory.mktemp("damage") / "store"
    for name in DOCUMENTS:
        plexus.put(name, metadata={"runtime": "lua"})
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        for name in DOCUMENTS:
            fill(cache, name)
        assert cache.flush(30)
    with ProcedureCache(None, directory, fast()) as cache:
        for name in DOCUMENTS[1:]:
            cache.storage(name).state_set(name, "k0", "changed")
            append(cache.storage(name), "after")
        pictures = {name: picture(cache, name) for name in DOCUMENTS}
    records = plexus.records()
    return directory, pictures, records


def rows(directory: Path) -> list[str]:
    connection = sqlite3.connect(directory / DATABASE)
    found = [key for (key,) in connection.execute("SELECT key FROM Cache ORDER BY key")]
    connection.close()
    return found


def damage(directory: Path, key: str, how: str) -> None:
    connection = sqlite3.connect(directory / DATABASE)
    (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
    at = len(value) // 2
    changed = {
        "flipped": value[:at] + bytes([value[at] ^ 0x40]) + value[at + 1 :],
        "cut short": value[: len(value) - 1],
    }
    with connection:
        if how == "deleted":
            connection.execute("DELETE FROM Cache WHERE key = ?", (key,))
        else:
            connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (changed[how], key))
    connection.close()


def whose(key: str) -> str | None:
    """The document that a row belongs to."""
    parts = key.split("/")
    name = parts[2] if parts[0] == "due" else parts[1] if len(parts) > 1 else ""
    return name if name in DOCUMENTS else None


@pytest.mark.parametrize("how", ["flipped", "cut short", "deleted"])
def test_no_row_is_damaged_in_silence(
    plexus: Simulator, made: tuple[Path, dict[str, Picture], dict[str, Any]], tmp_path: Path, how: str
) -> None:
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
