"""Examining a directory: what is wrong with the store in it, and with what it stands on. Changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from plexus_tactus_cache.document.reports import Finding
from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError
from plexus_tactus_cache.store.contract import LEASE_SECONDS
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import marker
from plexus_tactus_cache.store.local.parts import OF_DOCUMENTS
from plexus_tactus_cache.store.local.store import LocalStore

_SOUND_SINCE = (3, 51, 3)  # SQLite: below, a checkpoint that meets a commit can damage the database
_MOST = 10  # complaints of SQLite's
_AHEAD = 60.0  # seconds that a row may have been written after now
_FEW = 100 * 2**20  # bytes


def examine(directory: Path, now: float) -> Iterator[Finding]:
    """What is wrong in `directory`, and what is well, one thing after the other. `now`: seconds since the epoch."""
    yield _sqlite()
    yield _disk(directory)
    why = marker.in_the_way(directory) or directories.unwritable(directory)
    if why is not None:
        yield Finding(about="directory", level="problem", detail=why)
    try:
        found = marker.read(directory)
        store = LocalStore(directory, read_only=True)
    except LocalStoreError as error:
        yield _error("store", error)
        return
    try:
        yield Finding(about="store", level="ok", detail=_described(store, found))
        for look in (_database, _documents, _others, _processes):
            try:
                yield from look(store, now)
            except LocalStoreError as error:
                yield _error("store", error)
    finally:
        store.close()


def _error(about: str, error: LocalStoreError) -> Finding:
    return Finding(about=about, level="damage" if isinstance(error, CacheCorrupted) else "problem", detail=str(error))


def _sqlite() -> Finding:
    detail = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _SOUND_SINCE:
        detail += "; its defect before 3.51.3, a checkpoint that meets a commit, cannot occur under the writer's lock"
    return Finding(about="sqlite", level="ok", detail=detail)


def _disk(directory: Path) -> Finding:
    size = directories.size(directory)
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Finding(about="disk", level="problem", detail=str(directories.unusable(directory, error)))
    detail = f"the store takes {size / 2**20:.1f} MB, {free / 2**20:.0f} MB are free"
    if free < _FEW:
        return Finding(about="disk", level="problem", detail=f"{detail}: make room, soon no write will be accepted")
    return Finding(about="disk", level="ok", detail=detail)


def _described(store: LocalStore, found: marker.Marker | None) -> str:
    if found is None:
        return "a store from before there were markers; the next process that writes gives it one"
    return f"{found.store_id}, format {found.format}, endpoint {store.endpoint or 'none yet'}"


def _database(store: LocalStore, now: float) -> Iterator[Finding]:
    complaints = [text for (text,) in store.rows.database.execute(f"PRAGMA quick_check({_MOST})") if text != "ok"]
    for text in complaints:
        yield Finding(about="database", level="damage", detail=f"SQLite says: {text}")
    if not complaints:
        yield Finding(about="database", level="ok", detail="SQLite finds nothing wrong")
    ((latest,),) = store.rows.database.execute("SELECT max(store_time) FROM Cache")
    if latest is not None and latest > now + _AHEAD:
        detail = f"a row was written {latest - now:.0f} s after now: the clock was set back, or is wrong"
        yield Finding(about="clock", level="problem", detail=detail)
    else:
        yield Finding(about="clock", level="ok", detail="nothing in the store is from the future")


def _documents(store: LocalStore, now: float) -> Iterator[Finding]:
    damaged = 0
    names = store.procedure_ids()
    for procedure_id in names:
        try:
            store.read(procedure_id)
        except LocalStoreError as error:
            damaged += 1
            yield _error("document", error)
    for detail in store.missing():
        yield Finding(about="document", level="damage", detail=detail)
    misplaced, _ = store.misplaced()
    for procedure_id in misplaced:
        detail = f"{procedure_id!r} has lost its place in the outbox; who begins to sync puts it there again"
        yield Finding(about="outbox", level="note", detail=detail)
    detail = f"{len(names) - damaged} of {len(names)} were read and are whole"
    yield Finding(about="documents", level="ok", detail=detail)


def _others(store: LocalStore, now: float) -> Iterator[Finding]:
    """The rows that are not a part of what a document holds."""
    for (key,) in store.rows.database.execute("SELECT CAST(key AS TEXT) FROM Cache"):
        try:
            if key is None:
                yield Finding(about="row", level="damage", detail="a row has lost its key")
            elif key.startswith("outbox/") or key.partition("/")[0] not in OF_DOCUMENTS:
                store.rows.read_row(key)
        except LocalStoreError as error:
            yield _error("row", error)


def _processes(store: LocalStore, now: float) -> Iterator[Finding]:
    writer = store.writer()
    detail = "nobody writes at this moment" if writer is None else f"process {writer} is writing"
    yield Finding(about="lock", level="ok" if writer is None else "note", detail=detail)
    leader = store.leader()
    if leader is None:
        yield Finding(about="leader", level="ok", detail="nobody syncs at this moment")
        return
    silent = now - leader.beat
    detail = f"{leader.who} syncs; its last sign of life was {max(0.0, silent):.0f} s ago"
    if silent < LEASE_SECONDS:
        yield Finding(about="leader", level="ok", detail=detail)
    else:
        detail += ": it is stopped, or stuck; let it go on, or end it"
        yield Finding(about="leader", level="problem", detail=detail)
