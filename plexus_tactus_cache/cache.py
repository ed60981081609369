"""ProcedureCache: one directory, its documents, and the thread that brings them to Plexus.

The way of a checkpoint: `save` finds what changed (live.py), writes it in one local transaction (store.py), which
queues the document, and wakes the sync thread (worker.py), which pushes it (sync.py) and acknowledges the version.
"""

from __future__ import annotations

import atexit
import dataclasses
import gc
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plexus_tactus_cache.adapter import PlexusStorageAdapter
from plexus_tactus_cache.client import URL_VARIABLE, GraphQLClient, PlexusClient
from plexus_tactus_cache.codec import Encoded
from plexus_tactus_cache.document import CacheStatus, ProcedureStatus, SyncReport
from plexus_tactus_cache.errors import CacheClosed, LocalStoreError, ProcedureNotFound, RemoteUnavailable
from plexus_tactus_cache.failures import Failure, FailureClass, RequestFailed
from plexus_tactus_cache.live import LiveDocument
from plexus_tactus_cache.reconcile import Remote, difference
from plexus_tactus_cache.records import Changes, Document, key_text
from plexus_tactus_cache.remote import Procedures
from plexus_tactus_cache.settings import CacheSettings, default_directory
from plexus_tactus_cache.store import Header, LocalStore
from plexus_tactus_cache.sync import SyncEngine
from plexus_tactus_cache.worker import Leadership, SyncThread

log = logging.getLogger("plexus_tactus_cache")

_POLL = 0.05  # seconds between looks at the store while waiting for another process
_open_caches: weakref.WeakSet[ProcedureCache] = weakref.WeakSet()


class ProcedureCache:
    """The documents of one directory, kept in step with Plexus in the background.

    Any number of threads may use it, and any number of processes may open the same directory.

    Args:
        client: a `PlexusClient`, or any object with `execute(query, variables)` such as Plexus's own; None: from
            `PLEXUS_API_URL` and `PLEXUS_API_KEY`; without those everything is kept and nothing pushed.
        directory: where; default: `PLEXUS_CACHE_DIR`, else a directory per API endpoint below the user's data
            directory.
        settings: default: from `PLEXUS_CACHE_*`.
        background: False: no sync thread, so nothing is pushed but by `sync` and `flush`.

    Raises:
        StoreReadOnly: there is no store in the directory and none can be made.
        EndpointMismatch: the directory belongs to another API endpoint.
        CacheCorrupted: the database is damaged.
    """

    def __init__(
        self,
        client: GraphQLClient | None = None,
        directory: str | os.PathLike[str] | None = None,
        settings: CacheSettings | None = None,
        *,
        background: bool = True,
    ) -> None:
        self._background = background
        self.settings = settings or CacheSettings()
        self._client = client or PlexusClient.from_environment(timeout=self.settings.request_timeout)
        self.endpoint = endpoint_of(self._client)
        self.directory = Path(directory).expanduser() if directory else default_directory(self.endpoint)
        self._store = LocalStore(
            self.directory, durability=self.settings.durability, lock_timeout=self.settings.lock_timeout
        )
        if self.endpoint is not None:
            self._store.bind(self.endpoint)
        self._closed = False
        self._live: dict[str, LiveDocument] = {}
        self._store_problem: str | None = self._store.rows.read_only
        self._start()
        _open_caches.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    def _start(self) -> None:
        """What a process needs anew: locks, leadership, the thread."""
        self._lock = threading.RLock()
        self._document_locks: dict[str, threading.RLock] = {}
        self._leadership = Leadership(self.directory)
        self._engine: SyncEngine | None = None
        self._procedures: Procedures | None = None
        self._thread: SyncThread | None = None
        if self._client is not None and not self._store.rows.read_only:
            self._procedures = Procedures(self._client)
            self._engine = SyncEngine(self._store, self._procedures, self.settings)
            if self._background:
                self._thread = SyncThread(self._store, self._engine, self._leadership, self.settings)
                self._thread.start()

    def _after_fork_in_child(self) -> None:
        """Everything that must not be shared with the parent is opened anew."""
        self._store.rows.forked()
        if not self._closed:
            self._start()

    # --- public: syncing ----------------------------------------------------------------------------------

    def storage(self, procedure_id: str) -> PlexusStorageAdapter:
        """A Tactus StorageBackend for one procedure, on this cache."""
        return PlexusStorageAdapter._on(self, procedure_id)

    def sync(self, timeout: float = 30.0) -> SyncReport:
        """One pass now, whatever is due: done here if this process may lead, else by the process that does.

        The report of a pass that another process made says only what is still pending. Never raises for Plexus's
        sake: see `errors` in the report.
        """
        self._check_open()
        if self._engine is None:
            return SyncReport(pending=self._pending(), errors=("no client: nothing can be pushed",))
        deadline = time.monotonic() + timeout
        request: str | None = None
        try:
            while True:
                if self._leadership.acquire():
                    return self._engine.run_once(time.time(), force=True)
                if request is None:
                    request = uuid.uuid4().hex
                    with self._writing():
                        self._store.put_request(request)
                elif request not in self._store.requests():
                    return SyncReport(pending=self._pending())
                if time.monotonic() >= deadline:
                    return SyncReport(
                        pending=self._pending(), errors=("the process that syncs did not answer in time",)
                    )
                time.sleep(_POLL)
        finally:
            if request is not None:
                with self._writing():
                    self._store.drop_request(request)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything written so far is in Plexus.

        False as soon as only parked documents remain, or after `timeout` seconds.
        """
        self._check_open()
        deadline = time.monotonic() + timeout
        wanted = self._dirty_versions()
        while True:
            wanted = {pid: version for pid, version in wanted.items() if self._pushed(pid) < version}
            if not wanted:
                return True
            outbox = self._store.outbox()
            if all(pid in outbox and outbox[pid].parked is not None for pid in wanted):
                return False
            left = deadline - time.monotonic()
            if left <= 0 or self._engine is None:
                return False
            self.sync(timeout=left)
            if any(self._pushed(pid) < version for pid, version in wanted.items()):
                time.sleep(max(0.0, min(self.settings.push_interval, deadline - time.monotonic())))

    def pull(self, procedure_id: str) -> None:
        """Read one procedure from Plexus now and reconcile with it.

        Raises RemoteUnavailable when Plexus does not answer, ProcedureNotFound when neither side knows it.
        """
        self._check_open()
        if self._engine is None:
            raise RemoteUnavailable("no client: set PLEXUS_API_URL and PLEXUS_API_KEY")
        try:
            remote = self._engine.pull(procedure_id, time.time())
        except RequestFailed as error:
            raise RemoteUnavailable(f"{error.failure.kind.value}: {error.failure.message}") from error
        if remote is None and self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory} and Plexus has no such procedure")
        self._wake()

    def retry(self, procedure_id: str) -> None:
        """Push a parked procedure again, now. Raises ProcedureNotFound for one that is not stored here."""
        self._check_open()
        if self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory}")
        with self._writing():
            pending = self._store.pending(procedure_id)
            if pending is not None:
                again = pending._replace(parked=None, attempts=0, due=0.0, error=None, reread=True)
                self._store.put_pending(procedure_id, again)
        self._wake()

    def status(self) -> CacheStatus:
        """What is not in Plexus yet, why, and what happens next. Reads the local store only."""
        self._check_open()
        now = time.time()
        outbox = self._store.outbox()
        dirty = {pid: pending for pid, pending in outbox.items() if self._is_dirty(pid)}
        link = self._store.link()
        return CacheStatus(
            directory=str(self.directory),
            endpoint=self._store.endpoint if self.endpoint is None else self.endpoint,
            connection="no client" if self._client is None else link.state,
            problem=link.problem,
            procedures=len(self._store.procedure_ids()),
            dirty=len(dirty),
            oldest_dirty_age=max((max(0.0, now - pending.since) for pending in dirty.values()), default=None),
            parked=sum(pending.parked is not None for pending in outbox.values()),
            last_success=link.last_success,
            next_attempt=self._engine.next_due(now) if self._engine else None,
            leader=self._leadership.held,
            store_problem=self._store_problem,
        )

    def procedures(self) -> list[ProcedureStatus]:
        """Where each stored procedure stands, by id."""
        self._check_open()
        outbox = self._store.outbox()
        found = []
        for procedure_id in self._store.procedure_ids():
            header = self._store.header(procedure_id) or Header()
            pending = outbox.get(procedure_id)
            found.append(
                ProcedureStatus(
                    procedure_id=procedure_id,
                    version=header.version,
                    pushed_version=header.pushed,
                    dirty=header.dirty,
                    entries=header.log_length,
                    status=header.status,
                    parked_reason=pending.parked if pending else None,
                    last_error=pending.error if pending else None,
                    attempts=pending.attempts if pending else 0,
                    next_attempt=pending.due or None if pending and pending.parked is None else None,
                    dirty_since=pending.since if pending and header.dirty else None,
                )
            )
        return found

    def close(self, timeout: float | None = None) -> None:
        """Push what is pending for at most `timeout` seconds (default: `close_timeout`), then stop.

        What is still pending stays in the local store, is logged, and goes out with the next process that opens
        the directory. Closing twice is fine.
        """
        if self._closed:
            return
        deadline = time.monotonic() + (self.settings.close_timeout if timeout is None else timeout)
        try:
            self._push_before_close(deadline)
        except LocalStoreError as error:
            log.warning("closing without a last push: %s", error)
        self._closed = True
        if self._thread is not None:
            self._thread.stop(max(0.1, deadline - time.monotonic()))
        if self._leadership.held:
            self._leadership.release()
        self._store.close()
        _open_caches.discard(self)

    def _push_before_close(self, deadline: float) -> None:
        """A last push, unless it is known to be pointless. In the sync thread, so that no request outlasts us."""
        link = self._store.link()
        reachable = self._thread is not None and link.state in ("online", "unknown")
        while (
            reachable and time.monotonic() < deadline and any(p.parked is None for p in self._store.outbox().values())
        ):
            with self._store.rows.transaction():
                self._store.put_request("close")
            self._wake()
            while "close" in self._store.requests() and time.monotonic() < deadline:
                time.sleep(_POLL / 5)
            reachable = self._store.link().state == "online"
        pending = self._pending()
        if pending and self._thread is not None:
            log.warning(
                "%d procedure(s) are not in Plexus yet; they are kept in %s, and the next process there pushes them",
                len(pending),
                self.directory,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dirty_versions(self) -> dict[str, int]:
        headers = {pid: self._store.header(pid) for pid in self._store.outbox()}
        return {pid: header.version for pid, header in headers.items() if header is not None and header.dirty}

    def _pushed(self, procedure_id: str) -> int:
        header = self._store.header(procedure_id)
        return header.pushed if header is not None else 0

    def _is_dirty(self, procedure_id: str) -> bool:
        header = self._store.header(procedure_id)
        return header is not None and header.dirty

    def _pending(self) -> tuple[str, ...]:
        return tuple(pid for pid in self._store.outbox() if self._is_dirty(pid))

    def _wake(self) -> None:
        if self._thread is not None:
            self._thread.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise CacheClosed(f"the cache on {self.directory} is closed")

    # --- for adapters: documents --------------------------------------------------------------------------

    def introduce(self, procedure_id: str) -> None:
        """An adapter's first touch of a document: revalidate it with Plexus, if it answers within `load_timeout`.

        Raises RemoteUnavailable for an unknown document, as `on_unreachable` says.
        """
        self._check_open()
        while True:
            problem = self._ask(procedure_id)
            if problem is None or (self._store.header(procedure_id) is not None and not self._unusable(procedure_id)):
                return
            if self.settings.on_unreachable == "raise":
                raise RemoteUnavailable(f"procedure {procedure_id!r} is not stored here, and {problem}")
            if self.settings.on_unreachable == "empty":
                log.log(
                    logging.INFO if self._client is None else logging.WARNING,
                    "procedure %s is not stored here, and %s: it starts EMPTY; Plexus's is kept and reconciled later",
                    procedure_id,
                    problem,
                )
                return
            time.sleep(min(self.settings.push_interval, 1.0))
            self._check_open()

    def _unusable(self, procedure_id: str) -> bool:
        """Whether all that is stored is the news that the record cannot be used."""
        header = self._store.header(procedure_id)
        return header is not None and header.version == 0

    def _ask(self, procedure_id: str) -> str | None:
        """Read the record and reconcile: None, or why Plexus's document is not known.

        The request runs in a helper thread, as a client may retry for longer than we want to wait (§7).
        """
        if self._procedures is None or self._engine is None:
            return "there is no client to ask Plexus with"
        procedures, answers = self._procedures, list[Remote | Failure | None]()
        answered = threading.Event()

        def ask() -> None:
            try:
                answers.append(procedures.get([procedure_id])[procedure_id])
            except RequestFailed as error:
                answers.append(error.failure)
            finally:
                answered.set()

        threading.Thread(target=ask, name="plexus-tactus-cache-load", daemon=True).start()
        answered.wait(self.settings.load_timeout)
        if not answers:
            return f"Plexus did not answer within {self.settings.load_timeout} s"
        answer = answers[0]
        if isinstance(answer, Failure):
            where = "Plexus refused it" if answer.kind is FailureClass.REFUSED else "Plexus cannot be asked"
            return f"{where} ({answer.kind.value}: {answer.message})"
        self._engine.settle(procedure_id, answer, time.time())
        return answer.envelope.problem if answer is not None else None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A local transaction whose failure shows in `status`."""
        try:
            with self._store.rows.transaction():
                yield
        except LocalStoreError as error:
            self._store_problem = str(error)
            raise
        self._store_problem = self._store.rows.read_only

    @contextmanager
    def _document(self, procedure_id: str) -> Iterator[None]:
        """One thread at a time for each live object; one transaction; the sync thread woken afterwards."""
        self._check_open()
        with self._lock:
            lock = self._document_locks.setdefault(procedure_id, threading.RLock())
        with lock, self._writing():
            yield
        self._wake()

    def load(self, procedure_id: str) -> Any:
        """The live object, in step with the store; changes made to it and not saved yet stay."""
        self._check_open()
        with self._lock:
            lock = self._document_locks.setdefault(procedure_id, threading.RLock())
        with lock:
            return self._in_step(procedure_id).metadata

    def _in_step(self, procedure_id: str) -> LiveDocument:
        live = self._live.get(procedure_id)
        header = self._store.header(procedure_id)
        if live is not None and (header is None or header.version == live.version):
            return live
        with _collector_paused():
            return self._read_live(procedure_id, live)

    def _read_live(self, procedure_id: str, live: LiveDocument | None) -> LiveDocument:
        header, document = self._store.read(procedure_id) or (Header(), Document())
        if live is None:
            live = self._live[procedure_id] = LiveDocument.load(procedure_id, header, document)
            used = {reference for entry in document.log for reference in (entry.captured or {}).values()}
            if len(used) < len(document.variables) and not self._store.rows.read_only:
                with self._writing():
                    self._store.sweep(procedure_id)
                live.variables = used
        else:
            live.catch_up(header, document, live.delta())
        return live

    def save(self, procedure_id: str, metadata: Any) -> None:
        """Store what differs between the object and the store.

        Raises ValueNotSerializable, RunSuperseded or LocalStoreError; then nothing was stored.
        """
        live = self._live.get(procedure_id)
        if live is None or live.metadata is not metadata:
            self._replace(procedure_id, metadata)
            return
        with self._document(procedure_id):
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
        with self._document(procedure_id):
            delta = live.delta()
            _, current = self._store.read(procedure_id) or (Header(), Document())
            changes = difference(current, _document_of(delta.changes, metadata.replay_index))
            if delta.changes.status is None:
                changes = dataclasses.replace(changes, status=None)
            header = self._store.write(procedure_id, changes, time.time())
        live.acknowledge(delta, header)
        live.variables = set()  # which of them were there already does not matter
        self._live[procedure_id] = live

    def edit(self, procedure_id: str, change: Callable[[LiveDocument], None]) -> None:
        """Let `change` alter the live object, brought up to the newest version, and store what it altered."""
        with self._document(procedure_id):
            live = self._in_step(procedure_id)
            change(live)
            delta = live.delta()
            header = self._store.write(procedure_id, delta.changes, time.time())
        live.acknowledge(delta, header)

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        """Store the status, whatever else changed meanwhile."""
        live = self._write_part(procedure_id, Changes(status=(status, waiting_on_message_id)))
        if live is not None:
            live.note_status(status, waiting_on_message_id)

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        """Store one key of the state, or delete it (`encoded` None), whatever else changed meanwhile."""
        live = self._write_part(procedure_id, Changes(state={key_text(key): encoded}))
        if live is not None:
            live.note_state(key, value, encoded)

    def _write_part(self, procedure_id: str, changes: Changes) -> LiveDocument | None:
        """Store `changes` without looking at the rest: the live object, which is to show them, if there is one."""
        with self._document(procedure_id):
            before = self._store.header(procedure_id) or Header()
            header = self._store.write(procedure_id, changes, time.time())
        live = self._live.get(procedure_id)
        if live is not None and live.version == before.version:  # else it has to catch up with more than this
            live.version = header.version
        return live

    def find(self, procedure_id: str, name: str) -> Any | None:
        """The entry of that name in the live log, or None."""
        log = self.load(procedure_id).execution_log
        position = self._live[procedure_id].position_of(name)
        return None if position is None else log[position]


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


def _document_of(changes: Changes, replay_index: int) -> Document:
    """The document that `changes` make out of nothing."""
    status, waiting = changes.status or (None, None)
    return Document(
        log=[changes.entries[position] for position in sorted(changes.entries)],
        replay_index=replay_index,
        state={key: value for key, value in changes.state.items() if value is not None},
        lua_state={key: value for key, value in changes.lua_state.items() if value is not None},
        status=status,
        waiting_on_message_id=waiting,
        extras=changes.extras[0] if changes.extras else None,
        variables=changes.variables,
    )


def endpoint_of(client: GraphQLClient | None) -> str | None:
    """The API URL of a client, ours or Plexus's; without one, that of the environment."""
    if client is None:
        return None
    found = getattr(client, "api_url", None)
    return found if isinstance(found, str) else os.environ.get(URL_VARIABLE)


# --- one cache per directory and process ------------------------------------------------------------------

_shared: dict[Path, ProcedureCache] = {}
_shared_lock = threading.Lock()


def shared_cache(
    client: GraphQLClient | None, directory: str | os.PathLike[str] | None, settings: CacheSettings | None
) -> ProcedureCache:
    """This process's cache for `directory`, opened on first use and closed at exit."""
    found_client = client or PlexusClient.from_environment()
    path = Path(directory).expanduser() if directory else default_directory(endpoint_of(found_client))
    path = path.absolute()
    with _shared_lock:
        cache = _shared.get(path)
        if cache is None or cache._closed:
            cache = _shared[path] = ProcedureCache(client, path, settings)
        return cache


def _close_at_exit(reference: weakref.ref[ProcedureCache]) -> None:
    cache = reference()
    if cache is not None:
        cache.close()


def _reopen_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for cache in list(_open_caches):
        cache._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_in_child)
