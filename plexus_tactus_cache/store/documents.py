"""Documents: the live objects of this process, and every local read and write of them.

A call takes the lock of its document, finds what it changes, and writes that in one transaction; then the live
object is told. Nothing here knows of Plexus.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

from plexus_tactus_cache.document.encoded import Changes, Document, key_text
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import LocalStoreError, RunSuperseded, ValueNotSerializable
from plexus_tactus_cache.reconcile.journal import ConflictRecord, log_record
from plexus_tactus_cache.reconcile.merge import difference
from plexus_tactus_cache.reconcile.snapshot import log_digests
from plexus_tactus_cache.store.contract import Header, Store
from plexus_tactus_cache.store.live_object import Delta, LiveDocument

Result = TypeVar("Result")
SUPERSEDED = "the log of this run; it was changed elsewhere (a reset, another worker) while the run held it"
OVERRIDDEN = "saved here after another process had changed it"


class Documents:
    """The documents of one store, as live objects. Any thread.

    Args:
        delay: seconds until a document that was written may travel, so that writes in that time travel together.
    """

    def __init__(self, store: Store, delay: float) -> None:
        self._store = store
        self._delay = delay
        self._live: dict[str, LiveDocument] = {}
        self._retired: dict[int, LiveDocument] = {}  # whose objects are still held by somebody, by identity of those
        self.problem: str | None = store.read_only  # why the last write failed
        self.forked()

    def forked(self) -> None:
        """Start with free locks, as a child process must."""
        self._lock = threading.Lock()
        self._document_locks: dict[str, threading.RLock] = {}

    def hold_still(self) -> None:
        """Wait until no live object is between two states, and keep it so: the process is about to fork."""
        self._lock.acquire()
        for lock in self._document_locks.values():
            lock.acquire()

    def go_on(self) -> None:
        """After `hold_still`, in the thread that called it."""
        for lock in self._document_locks.values():
            lock.release()
        self._lock.release()

    def transaction(self, procedure_ids: str | Collection[str], work: Callable[[], Result]) -> Result:
        """A transaction of the store, whose failure shows in `status`."""
        try:
            result = self._store.transaction(procedure_ids, work)
        except LocalStoreError as error:
            self.problem = str(error)
            raise
        self.problem = self._store.read_only
        return result

    @contextmanager
    def _locked(self, procedure_id: str) -> Iterator[None]:
        """One thread at a time for each live object."""
        with self._lock:
            lock = self._document_locks.setdefault(procedure_id, threading.RLock())
        with lock:
            yield

    # --- whole documents ----------------------------------------------------------------------------------

    def load(self, procedure_id: str) -> Any:
        """The live object, in step with the store; changes made to it and not saved yet stay."""
        with self._locked(procedure_id):
            return self._in_step(procedure_id).metadata

    def state(self, procedure_id: str) -> dict[str, Any]:
        """The live state, in step with the store. A run that was superseded keeps its object until it saves."""
        with self._locked(procedure_id):
            live = self._live.get(procedure_id)
            if live is None:
                live = self._in_step(procedure_id)
            elif (header := self._header(procedure_id)).version != live.version:
                header, document = self._read(procedure_id, log=header.log_version > live.log_seen)
                if header.log_version <= live.log_seen or not live.rebase(document):
                    live.catch_up_but_log(header, document, live.delta())
                else:
                    live.catch_up(header, document, live.delta())
            state: dict[str, Any] = live.metadata.state
            return state

    def find(self, procedure_id: str, name: str) -> Any | None:
        """The entry of that name in the live log, or None."""
        with self._locked(procedure_id):
            live = self._in_step(procedure_id)
            position = live.position_of(name)
            return None if position is None else live.metadata.execution_log[position]

    def _header(self, procedure_id: str) -> Header:
        return self._store.header(procedure_id) or Header()

    def _read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document]:
        return self._store.read(procedure_id, log=log) or (Header(), Document())

    def _in_step(self, procedure_id: str) -> LiveDocument:
        live = self._live.get(procedure_id)
        if live is not None:
            header = self._header(procedure_id)
            if header.version == live.version and header.log_version <= live.log_seen:
                return live
        with _collector_paused():
            header, document = self._read(procedure_id)
            if live is not None:
                if header.log_version <= live.log_seen or live.rebase(document):
                    live.catch_up(header, document, live.delta())
                    return live
                self.transaction(procedure_id, partial(self._supersede, procedure_id, live, document))
            live = LiveDocument.load(procedure_id, header, document)
            used = {reference for entry in document.log for reference in (entry.captured or {}).values()}
            if len(used) < len(document.variables) and not self._store.read_only:
                # entries were replaced, and left their variables behind
                self.transaction(procedure_id, lambda: self._store.sweep(procedure_id))
                live.variables = used
            self._live[procedure_id] = live
            return live

    def save(self, procedure_id: str, metadata: Any) -> None:
        """Store what differs between the object and the store.

        Raises ValueNotSerializable, RunSuperseded or LocalStoreError; then nothing was stored.
        """
        with self._locked(procedure_id):
            live = self._retired.get(id(metadata))
            if live is None:
                live = self._live.get(procedure_id)
                live = live if live is not None and live.metadata is metadata else None
            if live is None:
                self._replace(procedure_id, metadata)
                saved = True
            else:
                saved = self._save_or_retire(procedure_id, live)
            if not saved:
                raise RunSuperseded(
                    f"the log of procedure {procedure_id!r} was changed elsewhere (a reset, another worker) while this "
                    "run held it; this save was not stored, its log is in the conflict journal. Load the procedure "
                    "again before going on"
                )

    def _save_or_retire(self, procedure_id: str, live: LiveDocument) -> bool:
        """As `_save`. An object with an entry that cannot be stored is not handed out any more: nobody else could
        save it, and a replay would find what was never stored."""
        try:
            return self._save(procedure_id, live)
        except ValueNotSerializable:
            if live.has_unsaved_entries and self._live.get(procedure_id) is live:
                del self._live[procedure_id]
                self._retire(live)
            raise

    def _save(self, procedure_id: str, live: LiveDocument) -> bool:
        """False when the object's run was superseded: then its log is in the journal."""

        def work() -> tuple[Delta, Header] | bool:
            before = self._header(procedure_id)
            if live.superseded is not None:
                self._supersede(procedure_id, live, self._read(procedure_id)[1])
                return False
            delta = live.delta()
            if before.version != live.version or before.log_version > live.log_seen:
                header, document = self._read(procedure_id)
                if header.log_version > live.log_seen and not live.rebase(document):
                    self._supersede(procedure_id, live, document)
                    return False
                self._note_overridden(procedure_id, live, document, delta)
                live.catch_up(header, document, live.delta())
                delta = live.delta()
            if not delta.changes and before.version:
                return True
            return delta, self._write(procedure_id, delta.changes)

        done = self.transaction(procedure_id, work)
        if isinstance(done, bool):
            return done
        live.acknowledge(*done)
        return True

    def _write(self, procedure_id: str, changes: Changes) -> Header:
        return self._store.write(procedure_id, changes, time.time(), self._delay)

    def _supersede(self, procedure_id: str, live: LiveDocument, document: Document) -> None:
        """The run that holds `live` must not go on: its log goes to the journal, where the stored one parts from it."""
        own = live.own_log() if live.has_unsaved_entries else Document()
        pairs = zip(log_digests(own.log), log_digests(document.log), strict=False)
        position = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        record = ConflictRecord(procedure_id, "execution_log", position, "remote", SUPERSEDED, time.time(), None, None)
        if position < len(own.log):
            number = live.superseded if live.superseded in self._store.conflicts() else None
            live.superseded = self._store.put_conflict(log_record(record, own, document), number)
        else:
            live.superseded = live.superseded or 0
        if self._live.get(procedure_id) is live:
            del self._live[procedure_id]
            self._retire(live)

    def _retire(self, live: LiveDocument) -> None:
        """The object is not the live one any more, but whoever holds it may save it: know then what it last saw."""
        metadata, key = live.metadata, id(live.metadata)
        live.metadata = weakref.proxy(metadata)
        self._retired[key] = live
        weakref.finalize(metadata, self._retired.pop, key, None)

    def _note_overridden(self, procedure_id: str, live: LiveDocument, document: Document, delta: Delta) -> None:
        """A save wins over what another process wrote meanwhile; that goes to the journal."""
        for part, text, mine, theirs in live.overridden(document, delta):
            record = ConflictRecord(procedure_id, part, text, "local", OVERRIDDEN, time.time(), mine, theirs)
            self._store.put_conflict(record)

    def _replace(self, procedure_id: str, metadata: Any) -> None:
        """An object that its caller built replaces the document, and is the live object from now on."""
        live = LiveDocument(metadata)
        delta = live.delta()

        def work() -> Header:
            _, current = self._read(procedure_id)
            return self._write(procedure_id, difference(current, delta.as_document(metadata.replay_index)))

        live.acknowledge(delta, self.transaction(procedure_id, work))
        before = self._live.get(procedure_id)
        self._live[procedure_id] = live
        if before is not None:
            self._retire(before)

    def edit(self, procedure_id: str, change: Callable[[LiveDocument], None]) -> None:
        """Let `change` alter the live object, brought up to the newest version, and store what it altered."""

        def work() -> tuple[LiveDocument, Delta, Header]:
            live = self._in_step(procedure_id)
            change(live)
            delta = live.delta()
            if self._header(procedure_id).version != live.version:  # unsaved changes kept it from catching up
                self._note_overridden(procedure_id, live, self._read(procedure_id, log=False)[1], delta)
            return live, delta, self._write(procedure_id, delta.changes)

        with self._locked(procedure_id):
            live, delta, header = self.transaction(procedure_id, work)
            live.acknowledge(delta, header)

    # --- parts --------------------------------------------------------------------------------------------

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        """Store the status, whatever else changed meanwhile."""
        with self._locked(procedure_id):
            live = self._write_part(procedure_id, Changes(status=(status, waiting_on_message_id)))
            if live is not None:
                header = self._header(procedure_id)  # a cancelled run's status is held back
                live.note_status(header.status or status, header.waiting_on_message_id)

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        """Store one key of the state, or delete it (`encoded` None), whatever else changed meanwhile."""
        with self._locked(procedure_id):
            live = self._write_part(procedure_id, Changes(state={key_text(key): encoded}))
            if live is not None:
                live.note_state(key, value, encoded)

    def _write_part(self, procedure_id: str, changes: Changes) -> LiveDocument | None:
        """Store `changes` without looking at the rest: the live object, which is to show them, if there is one."""

        def work() -> tuple[Header, Header]:
            before = self._header(procedure_id)
            return before, self._write(procedure_id, changes)

        before, header = self.transaction(procedure_id, work)
        live = self._live.get(procedure_id)
        if live is not None and live.version == before.version:  # else it has to catch up with more than this
            live.version = header.version
        return live


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A long log is a hundred thousand new containers: the collector would walk them again and again for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
