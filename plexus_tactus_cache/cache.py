"""ProcedureCache: one directory, its documents, and the thread that brings them to Plexus.

The way of a checkpoint: `Documents.save` (documents.py) finds what changed (live.py), writes it in one transaction
(store.py), which queues the document, and wakes the sync thread (worker.py), which pushes it (sync.py) and acknowledges
the version.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from plexus_tactus_cache.adapter import PlexusStorageAdapter
from plexus_tactus_cache.document.encoded import Changes
from plexus_tactus_cache.document.models import is_builtin
from plexus_tactus_cache.document.reports import CacheStatus, Conflict, ProcedureStatus, SyncReport
from plexus_tactus_cache.errors import (
    CacheClosed,
    ConflictNotFound,
    LocalStoreError,
    ProcedureNotFound,
    RemoteUnavailable,
)
from plexus_tactus_cache.reconcile.decide import Side
from plexus_tactus_cache.reconcile.journal import ConflictRecord, conflict_of, restore
from plexus_tactus_cache.remote.attachments import s3_or_none
from plexus_tactus_cache.remote.client import (
    KEY_VARIABLE,
    OFFLINE,
    URL_VARIABLE,
    GraphQLClient,
    Offline,
    client_or_none,
)
from plexus_tactus_cache.remote.failures import RequestFailed
from plexus_tactus_cache.remote.records import Procedures, creation_fields
from plexus_tactus_cache.settings import CacheSettings, default_directory
from plexus_tactus_cache.store.documents import Documents
from plexus_tactus_cache.store.row_store import Header, LocalStore, Pending
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.sync.first_load import introduce
from plexus_tactus_cache.sync.push import Projection
from plexus_tactus_cache.sync.thread import Leadership, SyncThread, within

log = logging.getLogger("plexus_tactus_cache")

_POLL = 0.05  # seconds between looks at the store while waiting for another process
_open_caches: weakref.WeakSet[ProcedureCache] = weakref.WeakSet()


class ProcedureCache:
    """The documents of one directory, kept in step with Plexus in the background.

    Any number of threads may use it, and any number of processes may open the same directory.

    Args:
        client: a `PlexusClient`, or any object with `execute(query, variables)` such as Plexus's own; None: from
            `PLEXUS_API_URL` and `PLEXUS_API_KEY`; without those everything is kept and nothing pushed; `OFFLINE`: none,
            whatever the environment says.
        directory: where; default: `PLEXUS_CACHE_DIR`, else a directory per API endpoint below the user's data
            directory.
        settings: default: from `PLEXUS_CACHE_*`.
        dashboard_state: makes the view of a state that Plexus's dashboard shows, or None to leave it as it is; default:
            Plexus's projection, where the record has one or the state is an optimizer's.
        background: False: no sync thread, so nothing is pushed but by `sync` and `flush`.

    Raises:
        StoreReadOnly: there is no store in the directory and none can be made.
        EndpointMismatch: the directory belongs to another API endpoint.
        CacheCorrupted: the database is damaged.
    """

    def __init__(
        self,
        client: GraphQLClient | Offline | None = None,
        directory: str | os.PathLike[str] | None = None,
        settings: CacheSettings | None = None,
        *,
        background: bool = True,
        dashboard_state: Projection | None = None,
    ) -> None:
        self._background = background
        self._projection = dashboard_state
        self.settings = settings or CacheSettings()
        self._client = client_or_none(client, timeout=self.settings.request_timeout)
        self._way_out = "the client is OFFLINE" if client is OFFLINE else f"set {URL_VARIABLE} and {KEY_VARIABLE}"
        self.endpoint = endpoint_of(self._client)
        self.directory = Path(directory).expanduser() if directory else default_directory(self.endpoint)
        self._store = LocalStore(
            self.directory, durability=self.settings.durability, lock_timeout=self.settings.lock_timeout
        )
        if self.endpoint is not None:
            self._store.check(self.endpoint)
        self._closed = False
        self.documents = Documents(self._store, self._wake)
        self._start()
        _open_caches.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    def _start(self) -> None:
        """What a process needs anew: leadership and the thread."""
        self._leadership = Leadership(self.directory)
        self._engine: SyncEngine | None = None
        self._thread: SyncThread | None = None
        self._passing = threading.Lock()  # one foreground pass at a time: they do not pile up while Plexus hangs
        if self._client is not None and not self._store.rows.read_only:
            procedures = Procedures(
                self._client, s3_or_none(self.settings.attachments_bucket, self.settings.request_timeout)
            )
            self._engine = SyncEngine(self._store, procedures, self.settings, projection=self._projection)
            if self._background:
                self._bind()
                self._thread = SyncThread(self._store, self._engine, self._leadership, self.settings)
                self._thread.start()

    def _bind(self) -> None:
        """The directory belongs to the endpoint that it first talked to."""
        if self.endpoint is not None:
            self._store.bind(self.endpoint)

    def _after_fork_in_child(self) -> None:
        """Everything that must not be shared with the parent is opened anew."""
        self.documents.forked()
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
        self.check_open()
        if self._engine is None:
            why = self._store.rows.read_only or "no client"
            return SyncReport(pending=self._pending(), errors=(f"{why}: nothing can be pushed",))
        self._bind()
        deadline = time.monotonic() + timeout
        late = SyncReport(errors=(f"not done within {timeout} s; it goes on in the background",))
        request: str | None = None
        try:
            while True:
                if self._leadership.acquire():
                    return self._pass_within(deadline) or late.model_copy(update={"pending": self._pending()})
                if request is None:
                    request = uuid.uuid4().hex
                    with self.documents.writing():
                        self._store.put_request(request)
                elif request not in self._store.requests():
                    return SyncReport(pending=self._pending())
                if time.monotonic() >= deadline:
                    error = f"the process that syncs did not answer within {timeout} s"
                    return SyncReport(pending=self._pending(), errors=(error,))
                time.sleep(_POLL)
        finally:
            if request is not None:
                with self.documents.writing():
                    self._store.drop_request(request)

    def _pass_within(self, deadline: float) -> SyncReport | None:
        """One pass of this process, or None if Plexus takes longer than that."""
        engine = self._engine
        if engine is None or not self._passing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return None

        def run() -> SyncReport:
            try:
                return engine.run_once(time.time(), force=True)
            finally:
                if self._thread is None:  # nothing more happens here by itself: others may lead
                    self._leadership.release()
                self._store.rows.close()  # this thread's connection
                self._passing.release()

        try:
            return within(max(0.0, deadline - time.monotonic()), run, "plexus-tactus-cache-sync")
        except TimeoutError:
            return None

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything written so far is in Plexus.

        False as soon as only parked documents remain, or after `timeout` seconds.
        """
        self.check_open()
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

    def create_procedure(self, *, account_id: str, name: str, **fields: Any) -> str:
        """Create a procedure, here and now, and in Plexus at the next sync: its id. Works without a network.

        `fields`: others of the record, in Plexus's spelling or in Python's (`scorecard_id="..."`). Raises TypeError
        for one that the record does not have, and for a value that is not JSON.
        """
        self.check_open()
        record = creation_fields(account_id, name, fields)
        status = record.pop("status", None)
        waiting_on_message_id = record.pop("waitingOnMessageId", None)
        procedure_id = str(uuid.uuid4())
        with self.documents.writing():
            self._store.put_creation(procedure_id, record)
            unit = None if status is None else (status, waiting_on_message_id)
            self._store.write(procedure_id, Changes(status=unit), time.time())
        self._wake()
        return procedure_id

    def conflicts(self, *, resolved: bool = False) -> list[Conflict]:
        """The values that reconciling set aside, oldest first; with `resolved` those that were dealt with."""
        self.check_open()
        return [conflict_of(*item) for item in self._store.conflicts(resolved=resolved).items()]

    def resolve(self, conflict_id: str, keep: Side) -> None:
        """Let one side of a conflict be the value: applies it if the other was kept, as a local write.

        What that replaces is journaled too (among the resolved). A log that went two ways is unparked, and takes the
        way of `keep` at the next sync. One that was resolved already can be resolved again. Raises ConflictNotFound,
        and ConflictOutdated for the tail of a log whose beginning is gone.
        """
        self.check_open()
        if keep not in ("local", "remote"):
            raise ValueError(f"keep={keep!r}: want 'local' or 'remote'")
        with self.documents.writing():
            now = time.time()
            found = {**self._store.conflicts(), **self._store.conflicts(resolved=True)}
            number = int(conflict_id) if conflict_id.isdecimal() else 0
            if number not in found:
                raise ConflictNotFound(f"there is no conflict {conflict_id!r} in {self.directory}")
            record = found[number]
            if record.kept is None and record.resolved is None:
                pending = self._store.pending(record.procedure_id) or Pending(since=now)
                self._store.put_pending(record.procedure_id, pending.again()._replace(fork=keep))
            elif keep != (record.resolved or record.kept):
                self._restore(number, record, keep, now)
            self._store.put_conflict(record._replace(resolved=keep), number)
        self._wake()

    def _restore(self, number: int, record: ConflictRecord, keep: Side, now: float) -> None:
        found = self._store.read(record.procedure_id)
        if found is None:
            raise ProcedureNotFound(record.procedure_id, f"it is not in {self.directory}")
        changes, replaced = restore(number, record, keep, found[1], now)
        if replaced is not None:
            self._store.put_conflict(replaced)
        self._store.merge(record.procedure_id, changes, (), now)

    def pull(self, procedure_id: str) -> None:
        """Read one procedure from Plexus now and reconcile with it.

        Raises RemoteUnavailable when Plexus does not answer, ProcedureNotFound when neither side knows it.
        """
        self.check_open()
        if is_builtin(procedure_id):
            raise ProcedureNotFound(procedure_id, "what comes with Plexus is not stored there")
        if self._engine is None:
            raise RemoteUnavailable(self._store.rows.read_only or f"no client: {self._way_out}")
        self._bind()
        try:
            remote = self._engine.pull(procedure_id, time.time())
        except RequestFailed as error:
            raise RemoteUnavailable(f"{error.failure.kind.value}: {error.failure.message}") from error
        if remote is None and self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory} and Plexus has no such procedure")
        self._wake()

    def retry(self, procedure_id: str) -> None:
        """Push a parked procedure again, now. Raises ProcedureNotFound for one that is not stored here."""
        self.check_open()
        if self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory}")
        with self.documents.writing():
            pending = self._store.pending(procedure_id)
            if pending is not None:
                again = pending.again()
                if self._store.creation(procedure_id) is not None:
                    again = again._replace(reread=False)  # there is no record to read
                self._store.put_pending(procedure_id, again)
        self._wake()

    def status(self) -> CacheStatus:
        """What is not in Plexus yet, why, and what happens next. Reads the local store only."""
        self.check_open()
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
            conflicts=len(self._store.conflicts()),
            last_success=link.last_success,
            next_attempt=self._engine.next_due(now) if self._engine else None,
            leader=self._leadership.held,
            store_problem=self.documents.problem,
        )

    def procedures(self) -> list[ProcedureStatus]:
        """Where each stored procedure stands, by id."""
        self.check_open()
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

    def check_open(self) -> None:
        """Raises CacheClosed."""
        if self._closed:
            raise CacheClosed(f"the cache on {self.directory} is closed")

    # --- for adapters: the first touch --------------------------------------------------------------------

    def introduce(self, procedure_id: str) -> None:
        """An adapter's first touch of a document: revalidate it with Plexus, if it answers within `load_timeout`.

        Raises RemoteUnavailable for an unknown document, as `on_unreachable` says.
        """
        self.check_open()
        if self._engine is not None:
            self._bind()
        while not introduce(procedure_id, self._store, self._engine, self.settings):
            time.sleep(min(self.settings.push_interval, 1.0))
            self.check_open()


def endpoint_of(client: GraphQLClient | Offline | None) -> str | None:
    """The API URL of a client, ours or Plexus's; without one, that of the environment."""
    if client is None or client is OFFLINE:
        return None
    found = getattr(client, "api_url", None)
    return found if isinstance(found, str) else os.environ.get(URL_VARIABLE)


# --- one cache per directory and process ------------------------------------------------------------------

_shared: dict[tuple[Path, bool], ProcedureCache] = {}  # the bool: with a client; OFFLINE never gets one that has
_shared_lock = threading.Lock()


def shared_cache(
    client: GraphQLClient | Offline | None, directory: str | os.PathLike[str] | None, settings: CacheSettings | None
) -> ProcedureCache:
    """This process's cache for `directory`, opened on first use and closed at exit; one more if some have no client."""
    found_client = client_or_none(client)
    path = Path(directory).expanduser() if directory else default_directory(endpoint_of(found_client))
    key = path.absolute(), found_client is not None
    with _shared_lock:
        cache = _shared.get(key)
        if cache is None or cache._closed:
            cache = _shared[key] = ProcedureCache(client, key[0], settings)
        return cache


def _close_at_exit(reference: weakref.ref[ProcedureCache]) -> None:
    cache = reference()
    if cache is not None:
        cache.close()


_forking: list[Documents] = []


def _before_fork() -> None:
    _forking.extend(cache.documents for cache in _open_caches)
    for documents in _forking:
        documents.hold_still()


def _after_fork_in_parent() -> None:
    for documents in _forking:
        documents.go_on()
    _forking.clear()


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    _forking.clear()
    for cache in list(_open_caches):
        cache._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
