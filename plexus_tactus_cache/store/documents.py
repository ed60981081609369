"""Documents: the live objects of this process, and every local read and write of them.

A call takes the lock of its document, finds what it changes, and writes that in one transaction; then the live
object is told. So a call that raised, at whatever moment, has changed nothing, or is found done by the next one.
Nothing here knows of Plexus.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

from plexus_tactus_cache.document.encoded import Changes, Document, key_text
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import (
    InvalidArgument,
    LocalStoreError,
    RemoteUnavailable,
    RunSuperseded,
    ValueNotSerializable,
)
from plexus_tactus_cache.reconcile.journal import ConflictRecord, log_record
from plexus_tactus_cache.reconcile.merge import difference
from plexus_tactus_cache.reconcile.snapshot import log_digests
from plexus_tactus_cache.store.contract import Header, Store
from plexus_tactus_cache.store.live_object import Delta, Edit, LiveDocument

Result = TypeVar("Result")
SUPERSEDED = "the log of this run; it was changed elsewhere (a reset, another worker) while the run held it"
OVERRIDDEN = "saved here after another process had changed it"
_RECENT = 8  # live objects that are kept although nobody else may hold them


class _Forgotten(Exception):
    """The store had the document that is asked for, and somebody let go of it since."""


class Documents:
    """The documents of one store, as live objects. Any thread.

    A live object is kept for as long as somebody holds it, and a little longer.

    Args:
        delay: seconds until a document that was written may travel, so that writes in that time travel together.
        introduce: asks Plexus for a document that was stored, and was forgotten meanwhile.
    """

    def __init__(self, store: Store, delay: float, introduce: Callable[[str], None]) -> None:
        self._store = store
        self._delay = delay
        self._introduce = introduce
        self._live: dict[str, LiveDocument] = {}
        self._retired: dict[int, LiveDocument] = {}  # whose objects are still held by somebody, by identity of those
        self._recent: deque[Any] = deque(maxlen=_RECENT)
        self.problem: str | None = store.read_only  # why the last write failed
        self.forked()

    def forked(self) -> None:
        """Start with free locks, as a child process must."""
        self._lock = threading.RLock()  # knows whether the thread that forks has it
        self._document_locks: dict[str, threading.RLock] = {}
        self._held_still: list[threading.RLock] = []  # while the process forks

    def hold_still(self) -> None:
        """Wait until no live object is between two states, and keep it so: the process is about to fork."""
        self._lock.acquire()
        for lock in self._document_locks.values():
            lock.acquire()
            self._held_still.append(lock)

    def go_on(self) -> None:
        """After `hold_still`, in the thread that called it; also after one that an interrupt ended."""
        while self._held_still:
            self._held_still.pop().release()
        with contextlib.suppress(RuntimeError):  # an interrupt came first: this thread does not have it
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

    def _lock_of(self, procedure_id: str) -> threading.RLock:
        """For one thread at a time at each live object. Not a context manager of ours: at the end of one in Python, an
        interrupt would leave it locked."""
        with self._lock:
            return self._document_locks.setdefault(procedure_id, threading.RLock())

    # --- live objects -------------------------------------------------------------------------------------

    def _known(self, procedure_id: str) -> tuple[LiveDocument, Any] | None:
        """The live object, as it is, with what is known of it."""
        live = self._live.get(procedure_id)
        metadata = None if live is None else live.metadata
        return None if live is None or metadata is None else (live, metadata)

    def _keep(self, procedure_id: str, live: LiveDocument, metadata: Any) -> tuple[LiveDocument, Any]:
        """`metadata` is the live object from now on; the one before is retired."""
        before = self._known(procedure_id)
        live.object = weakref.ref(metadata, partial(self._let_go, procedure_id, id(metadata)))
        self._live[procedure_id] = live
        self._recent.append(metadata)
        if before is not None and before[1] is not metadata:
            self._retired[id(before[1])] = before[0]
        return live, metadata

    def _retire(self, procedure_id: str, live: LiveDocument) -> None:
        """The object is not the live one any more, but whoever holds it may save it: know then what it last saw."""
        if self._live.get(procedure_id) is live:
            self._retired[id(live.metadata)] = live
            del self._live[procedure_id]

    def _or_retire(self, procedure_id: str, call: Callable[[], Result]) -> Result:
        """What `call` returns. A live object with an entry that cannot be stored, or without the shape of one, is not
        handed out any more: nobody else could save it, and a replay would find what was never stored."""
        try:
            return call()
        except (ValueNotSerializable, InvalidArgument) as error:
            known = self._known(procedure_id)
            if known is not None and (isinstance(error, InvalidArgument) or known[0].has_unsaved_entries):
                self._retire(procedure_id, known[0])
            raise

    def _let_go(self, procedure_id: str, identity: int, reference: weakref.ref[Any]) -> None:
        """Nobody holds the object any more. Called by the collector, at any moment, in any thread."""
        self._retired.pop(identity, None)
        live = self._live.get(procedure_id)
        if live is not None and live.object is reference:
            self._live.pop(procedure_id, None)

    def held(self, procedure_id: str) -> Any | None:
        """The live object, if there is one in this process: for an adapter to hold. Looks at nothing else."""
        known = self._known(procedure_id)
        return None if known is None else known[1]

    def _header(self, procedure_id: str) -> Header:
        return self._store.header(procedure_id) or self._unknown(procedure_id)

    def _read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document]:
        return self._store.read(procedure_id, log=log) or (self._unknown(procedure_id), Document())

    def _unknown(self, procedure_id: str) -> Header:
        """The header of one that is not stored."""
        if self._store.forgotten(procedure_id) is not None:
            raise _Forgotten
        return self._store.unknown()

    def _on(self, procedure_id: str, call: Callable[[], Result], *, removes: bool = False) -> Result:
        """What `call` returns, on a document that the store has, or never had.

        One that was forgotten is read again from Plexus. Where that is out of reach, what a holder of it has is stored
        as a whole, but for a call that `removes` something: without what Plexus has, nobody would know that later.
        """
        with self._lock_of(procedure_id):
            try:
                return call()
            except _Forgotten:
                known = self._known(procedure_id)
                try:
                    self._introduce(procedure_id)
                except RemoteUnavailable:
                    if known is None or removes:
                        raise
                    self._replace(procedure_id, known[1], anew=True)
                return call()

    def _in_step(self, procedure_id: str) -> tuple[LiveDocument, Any]:
        """The live object, in step with the store."""
        known = self._known(procedure_id)
        if known is not None:
            header = self._header(procedure_id)
            if header.version == known[0].version and header.log_version <= known[0].log_seen:
                self._recent.append(known[1])
                return known
        enabled = gc.isenabled()
        try:  # a long log is a hundred thousand new containers, which the collector would walk again and again
            gc.disable()
            return self._catch_up(procedure_id, known)
        finally:
            if enabled:
                gc.enable()

    def _catch_up(self, procedure_id: str, known: tuple[LiveDocument, Any] | None) -> tuple[LiveDocument, Any]:
        header, document = self._read(procedure_id)
        if known is not None:
            live = known[0]
            if header.log_version <= live.log_seen or live.rebase(document):
                live.catch_up(header, document, live.delta())
                return known
            number = self.transaction(procedure_id, partial(self._set_aside, procedure_id, live, document))
            self._supersede(procedure_id, live, number)
        live, metadata = LiveDocument.load(procedure_id, header, document)
        used = {reference for entry in document.log for reference in (entry.captured or {}).values()}
        if len(used) < len(document.variables) and not self._store.read_only:
            # entries were replaced, and left their variables behind
            self.transaction(procedure_id, lambda: self._store.sweep(procedure_id))
            live.variables = used
        return self._keep(procedure_id, live, metadata)

    # --- whole documents ----------------------------------------------------------------------------------

    def load(self, procedure_id: str) -> Any:
        """The live object, in step with the store; changes made to it and not saved yet stay."""
        return self._on(procedure_id, lambda: self._in_step(procedure_id)[1])

    def state(self, procedure_id: str) -> dict[str, Any]:
        """The live state, in step with the store. A run that was superseded keeps its object until it saves."""
        return self._on(procedure_id, lambda: self._state(procedure_id))

    def _state(self, procedure_id: str) -> dict[str, Any]:
        known = self._known(procedure_id)
        if known is None:
            known = self._in_step(procedure_id)
        elif (header := self._header(procedure_id)).version != known[0].version:
            live = known[0]
            header, document = self._read(procedure_id, log=header.log_version > live.log_seen)
            if header.log_version <= live.log_seen or not live.rebase(document):
                live.catch_up_but_log(header, document, live.delta())
            else:
                live.catch_up(header, document, live.delta())
        state: dict[str, Any] = known[1].state
        return state

    def find(self, procedure_id: str, name: str) -> Any | None:
        """The entry of that name in the live log, or None."""

        def found() -> Any | None:
            live, metadata = self._in_step(procedure_id)
            position = live.position_of(name)
            return None if position is None else metadata.execution_log[position]

        return self._on(procedure_id, found)

    def save(self, procedure_id: str, metadata: Any) -> None:
        """Store what differs between the object and the store.

        Raises ValueNotSerializable, InvalidArgument, RunSuperseded or LocalStoreError; then nothing was stored.
        """

        def saved() -> LiveDocument | None:
            live = self._retired.get(id(metadata)) or self._live.get(procedure_id)
            if live is None or live.metadata is not metadata:
                self._replace(procedure_id, metadata)
                return None
            done = self._or_retire(procedure_id, lambda: self._save(procedure_id, live))
            return None if done else live

        superseded = self._on(procedure_id, saved)
        if superseded is not None:
            where = "its log is in the conflict journal" if superseded.superseded else "its log had been stored"
            raise RunSuperseded(
                f"the log of procedure {procedure_id!r} was changed elsewhere (a reset, another worker) while this "
                f"run held it; this save was not stored, {where}. Load the procedure again before going on"
            )

    def _save(self, procedure_id: str, live: LiveDocument) -> bool:
        """False when the object's run was superseded: then what it had not stored of its log is in the journal."""

        def work() -> tuple[Delta, Header] | int | None:
            before = self._header(procedure_id)
            if live.superseded is not None:
                return self._set_aside(procedure_id, live, self._read(procedure_id)[1])
            delta = live.delta()
            if before.version != live.version or before.log_version > live.log_seen:
                header, document = self._read(procedure_id)
                if header.log_version > live.log_seen and not live.rebase(document):
                    return self._set_aside(procedure_id, live, document)
                self._note_overridden(procedure_id, live, document, delta)
                live.catch_up(header, document, live.delta())
                delta = live.delta()
            if not delta.changes and self._store.header(procedure_id) is not None:
                return None
            return delta, self._write(procedure_id, delta.changes)

        done = self.transaction(procedure_id, work)
        if isinstance(done, int):
            self._supersede(procedure_id, live, done)
        elif done is not None:
            live.acknowledge(*done)
        return not isinstance(done, int)

    def _write(self, procedure_id: str, changes: Changes) -> Header:
        return self._store.write(procedure_id, changes, time.time(), self._delay)

    def _supersede(self, procedure_id: str, live: LiveDocument, number: int) -> None:
        """The run that holds `live` must not go on; its log is in the journal under that number, if it has one."""
        live.superseded = number
        self._retire(procedure_id, live)

    def _set_aside(self, procedure_id: str, live: LiveDocument, document: Document) -> int:
        """Put the log of `live` into the journal, where the stored one parts from it: its number; 0: it has no more."""
        own = live.own_log() if live.has_unsaved_entries else Document()
        pairs = zip(log_digests(own.log), log_digests(document.log), strict=False)
        position = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        record = ConflictRecord(procedure_id, "execution_log", position, "remote", SUPERSEDED, time.time(), None, None)
        if position == len(own.log):
            return live.superseded or 0
        known = self._store.conflict(live.superseded) if live.superseded else None
        number = live.superseded if known is not None and known.resolved is None else None
        return self._store.put_conflict(log_record(record, own, document), number)

    def _note_overridden(self, procedure_id: str, live: LiveDocument, document: Document, delta: Delta) -> None:
        """A save wins over what another process wrote meanwhile; that goes to the journal."""
        for part, text, mine, theirs in live.overridden(document, delta):
            record = ConflictRecord(procedure_id, part, text, "local", OVERRIDDEN, time.time(), mine, theirs)
            self._store.put_conflict(record)

    def _replace(self, procedure_id: str, metadata: Any, *, anew: bool = False) -> None:
        """An object that its caller built replaces the document, and is the live object from now on; `anew`: even of
        one that was forgotten."""
        live = LiveDocument(weakref.ref(metadata))
        delta = live.delta()

        def work() -> Header:
            current = Document() if anew else self._read(procedure_id)[1]
            return self._write(procedure_id, difference(current, delta.as_document(metadata.replay_index)))

        live.acknowledge(delta, self.transaction(procedure_id, work))
        self._keep(procedure_id, live, metadata)

    def edit(self, procedure_id: str, edit: Edit) -> None:
        """Make a change to the newest version, and store it with what the live object has unsaved; then show it."""

        def work() -> tuple[LiveDocument, Any, Delta, Header]:
            live, metadata = self._in_step(procedure_id)
            delta = edit.extend(live, live.delta())
            if self._header(procedure_id).version != live.version:  # unsaved changes kept it from catching up
                self._note_overridden(procedure_id, live, self._read(procedure_id, log=False)[1], delta)
            return live, metadata, delta, self._write(procedure_id, delta.changes)

        def done() -> None:
            live, _held, delta, header = self._or_retire(procedure_id, lambda: self.transaction(procedure_id, work))
            live.acknowledge(delta, header, *edit.show(live))

        self._on(procedure_id, done, removes=edit.removes)

    # --- parts --------------------------------------------------------------------------------------------

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        """Store the status, whatever else changed meanwhile."""

        def show(live: LiveDocument, header: Header) -> None:
            live.note_status(header.status or status, header.waiting_on_message_id)  # a cancelled run's is held back

        self._write_part(procedure_id, Changes(status=(status, waiting_on_message_id)), show)

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        """Store one key of the state, or delete it (`encoded` None), whatever else changed meanwhile."""

        def show(live: LiveDocument, header: Header) -> None:
            live.note_state(key, value, encoded)

        self._write_part(procedure_id, Changes(state={key_text(key): encoded}), show)

    def _write_part(self, procedure_id: str, changes: Changes, show: Callable[[LiveDocument, Header], None]) -> None:
        """Store `changes` without looking at the rest, and show them in the live object, if there is one."""

        def work() -> tuple[Header, Header]:
            before = self._header(procedure_id)
            return before, self._write(procedure_id, changes)

        def done() -> None:
            before, header = self.transaction(procedure_id, work)
            known = self._known(procedure_id)
            if known is not None:
                live, _held = known
                show(live, header)
                if live.version == before.version:  # else it has to catch up with more than this
                    live.version = header.version

        self._on(procedure_id, done, removes=None in (*changes.state.values(), *changes.lua_state.values()))
