"""Salvage: a new database made of what can be read of a damaged one, which is moved aside and never deleted.

| a document             | becomes                                                                              |
|------------------------|--------------------------------------------------------------------------------------|
| whole                  | itself, row by row                                                                     |
| damaged, all in Plexus | nothing: it is read again from Plexus                                                  |
| damaged, dirty         | what can be read, with a log up to its first hole, and what is beyond that in the      |
|                        | conflict journal; without a base, so that a merge with Plexus's takes nothing from it  |
"""

from __future__ import annotations

import datetime as dt
import mmap
import os
import shutil
import time
import uuid
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

import orjson

from plexus_tactus_cache.document.encoded import Document, EntryRecord, Part, unpack
from plexus_tactus_cache.document.reports import RepairReport
from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError, StoreBusy, StoreReadOnly
from plexus_tactus_cache.reconcile.journal import ConflictRecord, log_record
from plexus_tactus_cache.store.contract import Header, Pending
from plexus_tactus_cache.store.local import directory as directories
from plexus_tactus_cache.store.local import marker
from plexus_tactus_cache.store.local.checksums import checksum
from plexus_tactus_cache.store.local.directory import DATABASE, INDEX, JOURNAL, LOG, REPAIRED
from plexus_tactus_cache.store.local.examine import examine
from plexus_tactus_cache.store.local.lease import LeaseFile
from plexus_tactus_cache.store.local.lock import Ticket, WriterLock
from plexus_tactus_cache.store.local.marker import FORMATS, Marker
from plexus_tactus_cache.store.local.pages import Pages, Row
from plexus_tactus_cache.store.local.parts import OF_DOCUMENTS, Tally, header_and_tally_of
from plexus_tactus_cache.store.local.rows import STORE
from plexus_tactus_cache.store.local.store import LocalStore

_ASIDE = "damaged-"  # a directory, after a store was repaired
_FILES = (DATABASE, LOG, INDEX, JOURNAL)
_PATIENCE = 5.0  # seconds for others to stop writing
_NOT_COPIED = frozenset({STORE, "documents", "lease", "request", "conflicts", "conflict-of", "same"})  # made anew
_WITHOUT_BASE = frozenset({"base", "history", "old", "inline", "outbox"})
Found = dict[str, bytes]  # rows of one document by key, those that are as they were written


def salvage(directory: Path, now: float) -> RepairReport:
    """Make the store in `directory` good again, as far as that goes; one that is not damaged is left as it is.

    Nobody else may use it meanwhile. Raises StoreBusy when somebody does, StoreFull, StoreReadOnly; the store is as it
    was then.
    """
    why = marker.take(directory)
    if why is not None:
        raise LocalStoreError(f"{why}: it cannot be repaired there")
    if not (directory / marker.MARKER).exists():
        _refuse_foreign(directory)
    lock, ticket = WriterLock(directory), Ticket()
    try:
        lock.acquire(ticket, time.monotonic() + _PATIENCE)
        if LeaseFile(directory, time.monotonic).is_held():
            raise StoreBusy(f"another process syncs the store in {directory}: end it, then repair the store")
        return _salvage(directory, now)
    except OSError as error:
        raise directories.unusable(directory, error) from error
    finally:
        lock.release(ticket)
        lock.close()


def _salvage(directory: Path, now: float) -> RepairReport:
    _undo_what_was_cut_short(directory)
    if all(finding.level != "damage" for finding in examine(directory, now)):
        return RepairReport(aside=None)
    stamp = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    new, aside = directory / f"{REPAIRED}{stamp}", directory / f"{_ASIDE}{stamp}"
    if aside.exists():
        raise LocalStoreError(f"{aside} is there already: repair it a second later")
    copied = directories.copy(directory)
    try:
        with _Damaged(copied) as damaged:
            found = _into(new, damaged, _marker(directory), aside, now)
        _swap(directory, new, aside)
    except BaseException:
        _undo_what_was_cut_short(directory)
        raise
    finally:
        shutil.rmtree(copied)
    return found


def _refuse_foreign(directory: Path) -> None:
    """Raises StoreReadOnly where no row is of ours: before anything is made there."""
    copied = directories.copy(directory)
    try:
        with _Damaged(copied) as found:
            if not found.has_rows:
                raise StoreReadOnly(f"no store of ours is in {directory}: nothing is repaired there")
    finally:
        shutil.rmtree(copied)


def _marker(directory: Path) -> Marker | None:
    try:
        return marker.read(directory)
    except CacheCorrupted:
        return None


def _swap(directory: Path, new: Path, aside: Path) -> None:
    """The database goes first and comes last: a store that lacks it is not opened, and can be put together again."""
    aside.mkdir(mode=0o700)
    directories.keep(directory)
    for name in _FILES:
        _move(name, directory, aside)
    made = marker.read(new)
    if made is not None:
        marker.write(directory, made)
        marker.write(aside, made)
    _move(DATABASE, new, directory)
    shutil.rmtree(new)


def _move(name: str, source: Path, target: Path) -> None:
    try:
        os.replace(source / name, target / name)
    except FileNotFoundError:
        return
    directories.keep(target)
    directories.keep(source)


def _undo_what_was_cut_short(directory: Path) -> None:
    for new in directory.glob(f"{REPAIRED}*"):
        aside = directory / f"{_ASIDE}{new.name.removeprefix(REPAIRED)}"
        if aside.exists() and (new / DATABASE).exists():  # else the repair was done, but for deleting this
            for name in reversed(_FILES):
                _move(name, aside, directory)
            shutil.rmtree(aside)
        shutil.rmtree(new)


def _into(new: Path, damaged: _Damaged, known: Marker | None, aside: Path, now: float) -> RepairReport:
    """Fill a store of its own with what can be read."""
    found = RepairReport(aside=str(aside))
    named, others = damaged.keys()
    row = damaged.row(STORE)
    described = {} if row is None else orjson.loads(row)
    store_id = described.get("store_id") or (known.store_id if known else None)
    if not named and row is None:
        raise LocalStoreError(f"nothing can be read of the database of {new.parent}: {marker.WAY_OUT}")
    written = described.get("format", known.format if known else FORMATS[-1])
    if written not in FORMATS:
        raise LocalStoreError(f"{new.parent} has format {written}: use the version that wrote it")
    if known is not None and store_id != known.store_id:
        raise LocalStoreError(
            f"{new.parent} is store {known.store_id}, but its database is that of store {store_id}, which no repair "
            f"can change: {marker.WAY_OUT}"
        )
    new.mkdir(mode=0o700)
    marker.write(new, Marker(store_id or uuid.uuid4().hex, FORMATS[-1], creating=True))
    store = LocalStore(new)
    try:
        if described.get("endpoint") is not None:
            store.bind(described["endpoint"])
        elif row is None:
            found.others.append("the endpoint that the store belongs to")
        store.transaction((), lambda: _copy_others(store, damaged, others, found))
        for name in sorted(named):
            _Document(store, damaged, name, named[name], now).copy(found)
        noted = damaged.row("documents")
        gone = (orjson.loads(noted)[0] if noted else 0) - len(named)
        if gone > 0:
            found.others.append(f"{gone} procedures of which nothing is left")
    finally:
        store.close()
    return found


def _copy_others(store: LocalStore, damaged: _Damaged, keys: list[str], found: RepairReport) -> None:
    for key in sorted(keys):
        kind = key.partition("/")[0]
        if kind in _NOT_COPIED:
            continue
        payload = damaged.row(key)
        if payload is None:
            found.others.append(unquote(key))
        elif kind in ("conflict", "resolved"):
            store.put_conflict(ConflictRecord.from_bytes(payload), int(key.partition("/")[2]))
        else:
            store.rows.write_row(key, payload)


class _Document:
    """One document on its way over."""

    def __init__(self, store: LocalStore, damaged: _Damaged, name: str, keys: list[str], now: float) -> None:
        self._store = store
        self._now = now
        self._name = name
        self._id = unquote(name)
        rows = {key: damaged.row(key) for key in keys}
        self._found: Found = {key: payload for key, payload in rows.items() if payload is not None}
        self._lost = [
            unquote(key) for key, payload in sorted(rows.items()) if payload is None and key != f"outbox/{name}"
        ]
        header = self._found.pop(f"doc/{name}", None)
        self._header: Header | None = None
        self._tally: Tally | None = None
        if header is not None:
            self._header, self._tally = header_and_tally_of(header)

    def copy(self, found: RepairReport) -> None:
        pending = self._pending()
        if self._header is not None and self._is_whole():
            if pending is None and (self._header.queued or self._header.dirty):
                pending = Pending(since=self._now, reread=True)
            self._write(self._header, pending)
            found.whole.append(self._id)
        elif self._header is not None and not self._header.dirty and self._is_done(pending):
            found.again.append(self._id)
        else:
            found.partly[self._id] = self._copy_partly(pending)

    def _is_done(self, pending: Pending | None) -> bool:
        """Whether Plexus has all that it is waiting for."""
        return pending.look if pending is not None else self._header is not None and not self._header.queued

    def _is_whole(self) -> bool:
        """But for its place in the outbox, which it can have anew."""
        if self._tally is None:
            return not self._lost
        counted = self._counted()
        if self._tally == counted:
            return True
        has_place = f"outbox/{self._name}" in self._found
        lacks_place = self._header is not None and self._header.queued and not has_place
        return self._tally.log == counted.log and lacks_place and self._tally.rest[0] == counted.rest[0] + 1

    def _pending(self) -> Pending | None:
        payload = self._found.get(f"outbox/{self._name}")
        return None if payload is None else Pending(*orjson.loads(payload))

    def _counted(self) -> Tally:
        tally = Tally()
        for key, payload in self._found.items():
            counts = tally.of(key.partition("/")[0])
            counts[0] += 1
            counts[1] += checksum(key, payload)
        return tally

    def _copy_partly(self, pending: Pending | None) -> list[str]:
        """What is lost, in words."""
        lost = list(self._lost) or ["rows that are gone without a trace: compare it with Plexus's"]
        log, beyond = self._log()
        length = len(log)
        header = self._header or Header()
        if self._header is None:
            lost.append("its status and its replay index")
        if length < header.log_length or beyond:
            lost.append(f"its log from position {length} on")
        for key in [key for key in self._found if key.partition("/")[0] in _WITHOUT_BASE]:
            del self._found[key]
        for entry in beyond:
            del self._found[f"log/{self._name}/{entry.position:09}"]
        header = header._replace(
            version=max(header.version, int(self._now)),  # above all that there can have been
            pushed=0,
            log_version=max(header.version, int(self._now)),
            log_length=length,
            replay_index=min(header.replay_index, length) if self._header else length,
            queued=True,
        )
        since = pending.since if pending else self._now
        self._write(header, Pending(since=since, reread=True), beyond)
        return lost

    def _log(self) -> tuple[list[EntryRecord], list[EntryRecord]]:
        """The entries up to the first hole, and those beyond."""
        rows = sorted((key, payload) for key, payload in self._found.items() if key.startswith("log/"))
        entries = [EntryRecord.from_bytes(payload) for _, payload in rows]
        length = next((at for at, entry in enumerate(entries) if entry.position != at), len(entries))
        return entries[:length], entries[length:]

    def _write(self, header: Header, pending: Pending | None, beyond: list[EntryRecord] | None = None) -> None:
        def work() -> None:
            for key, payload in self._found.items():
                kind, _, rest = key.partition("/")
                if kind not in ("outbox", "due"):
                    self._store.put_row(self._id, kind, payload, rest.partition("/")[2])
            self._store.put_header(self._id, header)
            if pending is not None:
                self._store.put_pending(self._id, pending)
            if beyond:
                self._store.put_conflict(self._journal(header, beyond))

        self._store.transaction(self._id, work)

    def _journal(self, header: Header, beyond: list[EntryRecord]) -> ConflictRecord:
        variables: Part = {
            unquote(key.rpartition("/")[2]): unpack(payload)
            for key, payload in self._found.items()
            if key.startswith("var/")
        }
        position = header.log_length
        reason = "beyond a hole that damage of the store left in the log"
        record = ConflictRecord(self._id, "execution_log", position, "remote", reason, self._now, None, None)
        before = self._log()[0]
        found = log_record(record, Document(log=[*before, *beyond], variables=variables), Document(log=before))
        return found._replace(prefix="")  # to be read, and not restored: what was in the hole is missing before it


class _Damaged:
    """A database of which some pages cannot be read, some rows are not as they were written, some are gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> _Damaged:
        self._file = self._mapped()
        self._newest: dict[str, Row] = {}
        for row in Pages(self._file, self._log()).rows():
            known = self._newest.get(row.key)
            if known is None or (row.payload is not None, row.stored) > (known.payload is not None, known.stored):
                self._newest[row.key] = row
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._file, mmap.mmap):
            self._file.close()

    def _mapped(self) -> mmap.mmap | bytes:
        """The copy is ours alone: nothing happens to it while it is mapped."""
        if not directories.has_database(self._directory):
            return b""
        with (self._directory / DATABASE).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _log(self) -> bytes:
        try:
            return (self._directory / LOG).read_bytes()
        except FileNotFoundError:
            return b""

    @property
    def has_rows(self) -> bool:
        """Whether any is as it was written."""
        return any(row.payload is not None for row in self._newest.values())

    def keys(self) -> tuple[dict[str, list[str]], list[str]]:
        """The keys of all rows that can be found: of each document, by its quoted name, and the others."""
        named: dict[str, list[str]] = defaultdict(list)
        others = []
        for key in self._newest:
            kind, _, rest = key.partition("/")
            if kind == "due":
                named.setdefault(rest.partition("/")[2], [])
            elif kind in OF_DOCUMENTS:
                named[rest.partition("/")[0]].append(key)
            else:
                others.append(key)
        return named, others

    def row(self, key: str) -> bytes | None:
        """What was written under `key`; None for what is damaged, or not there."""
        found = self._newest.get(key)
        return None if found is None else found.payload
