"""A store with three documents, and ways to damage a row of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from helpers import append, client_of, fast

from plexus_tactus_cache import ProcedureCache
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


class Made(NamedTuple):
    """The store, what its documents hold, and what Plexus has of them."""

    directory: Path
    pictures: dict[str, Picture]
    records: dict[str, Any]


def make(plexus: Simulator, directory: Path) -> Made:
    """A store with a document that is clean, and two that have changed since they were pushed."""
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
    return Made(directory, pictures, records)


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
