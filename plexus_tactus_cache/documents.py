"""Documents: the live objects of this process, and every local read and write of them.

A call takes the lock of its document, finds what it changes, and writes that in one transaction; then the live
object is told, and the sync thread woken. Nothing here knows of Plexus.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from plexus_tactus_cache.codec import Encoded
from plexus_tactus_cache.errors import LocalStoreError
from plexus_tactus_cache.live import LiveDocument
from plexus_tactus_cache.reconcile import difference
from plexus_tactus_cache.records import Changes, Document, key_text
from plexus_tactus_cache.store import Header, LocalStore


class Documents:
    """The documents of one store, as live objects. Any thread.

    Args:
        wake: called after every write.
    """

    def __init__(self, store: LocalStore, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._live: dict[str, LiveDocument] = {}
        self.problem: str | None = store.rows.read_only  # why the last write failed
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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A local transaction whose failure shows in `status`."""
        try:
            with self._store.rows.transaction():
                yield
        except LocalStoreError as error:
            self.problem = str(error)
            raise
        self.problem = self._store.rows.read_only

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

    def find(self, procedure_id: str, name: str) -> Any | None:
        """The entry of that name in the live log, or None."""
        with self._locked(procedure_id):
            live = self._in_step(procedure_id)
            position = live.position_of(name)
            return None if position is None else live.metadata.execution_log[position]

    def _in_step(self, procedure_id: str) -> LiveDocument:
        live = self._live.get(procedure_id)
        header = self._store.header(procedure_id)
        if live is not None and (header is None or header.version == live.version):
            return live
        with _collector_paused():
            header, document = self._store.read(procedure_id) or (Header(), Document())
            if live is not None:
                live.catch_up(header, document, live.delta())
                return live
            live = LiveDocument.load(procedure_id, header, document)
            used = {reference for entry in document.log for reference in (entry.captured or {}).values()}
            if len(used) < len(document.variables) and not self._store.rows.read_only:
                with self.writing():  # entries were replaced, and left their variables behind
                    self._store.sweep(procedure_id)
                live.variables = used
            self._live[procedure_id] = live
            return live

    def save(self, procedure_id: str, metadata: Any) -> None:
        """Store what differs between the object and the store.

        Raises ValueNotSerializable, RunSuperseded or LocalStoreError; then nothing was stored.
        """
        with self._locked(procedure_id):
            live = self._live.get(procedure_id)
            if live is None or live.metadata is not metadata:
                self._replace(procedure_id, metadata)
            else:
                self._save(procedure_id, live)
        self._wake()

    def _save(self, procedure_id: str, live: LiveDocument) -> None:
        with self.writing():
            delta = live.delta()
            before = self._store.header(procedure_id) or Header()
            if before.version != live.version:
                header, document = self._store.read(procedure_id) or (Header(), Document())
                live.check_not_superseded(header, document, delta)
                live.catch_up(header, document, delta)
                delta = live.delta()
            if not delta.changes and before.version:
                return
            header = self._store.write(procedure_id, delta.changes, time.time())
        live.acknowledge(delta, header)

    def _replace(self, procedure_id: str, metadata: Any) -> None:
        """An object that its caller built replaces the document, and is the live object from now on."""
        live = LiveDocument(metadata)
        with self.writing():
            delta = live.delta()
            _, current = self._store.read(procedure_id) or (Header(), Document())
            changes = difference(current, delta.as_document(metadata.replay_index))
            header = self._store.write(procedure_id, changes, time.time())
        live.acknowledge(delta, header)
        self._live[procedure_id] = live

    def edit(self, procedure_id: str, change: Callable[[LiveDocument], None]) -> None:
        """Let `change` alter the live object, brought up to the newest version, and store what it altered."""
        with self._locked(procedure_id):
            with self.writing():
                live = self._in_step(procedure_id)
                change(live)
                delta = live.delta()
                header = self._store.write(procedure_id, delta.changes, time.time())
            live.acknowledge(delta, header)
        self._wake()

    # --- parts --------------------------------------------------------------------------------------------

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        """Store the status, whatever else changed meanwhile."""
        with self._locked(procedure_id):
            live = self._write_part(procedure_id, Changes(status=(status, waiting_on_message_id)))
            if live is not None:
                live.note_status(status, waiting_on_message_id)
        self._wake()

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        """Store one key of the state, or delete it (`encoded` None), whatever else changed meanwhile."""
        with self._locked(procedure_id):
            live = self._write_part(procedure_id, Changes(state={key_text(key): encoded}))
            if live is not None:
                live.note_state(key, value, encoded)
        self._wake()

    def _write_part(self, procedure_id: str, changes: Changes) -> LiveDocument | None:
        """Store `changes` without looking at the rest: the live object, which is to show them, if there is one."""
        with self.writing():
            before = self._store.header(procedure_id) or Header()
            header = self._store.write(procedure_id, changes, time.time())
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
