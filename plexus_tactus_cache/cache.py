"""ProcedureCache: one store, its documents, and the thread that brings them to Plexus.

The way of a checkpoint is told in docs/how-it-works.md.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from functools import partial
from types import TracebackType
from typing import Any, Self

from plexus_tactus_cache import forking
from plexus_tactus_cache.adapter import PlexusStorageAdapter
from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.models import is_builtin
from plexus_tactus_cache.document.reports import CacheStatus, Conflict, GcReport, ProcedureStatus, SyncReport
from plexus_tactus_cache.errors import (
    CacheClosed,
    InvalidArgument,
    LocalStoreError,
    ProcedureNotFound,
    RemoteUnavailable,
    StoreReadOnly,
    WrongType,
)
from plexus_tactus_cache.reconcile.decide import Side
from plexus_tactus_cache.remote.attachments import s3_or_none
from plexus_tactus_cache.remote.client import (
    KEY_VARIABLE,
    OFFLINE,
    URL_VARIABLE,
    GraphQLClient,
    Offline,
    client_or_none,
    endpoint_of,
)
from plexus_tactus_cache.remote.failures import plexus_needed
from plexus_tactus_cache.remote.records import Procedures, creation_fields
from plexus_tactus_cache.settings import CacheSettings, default_directory
from plexus_tactus_cache.store.conflicts import conflicts, resolve
from plexus_tactus_cache.store.documents import Documents
from plexus_tactus_cache.store.local import LocalStore, chosen, unusable, unwritable
from plexus_tactus_cache.store.traces import Traces
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.sync.first_load import revalidate
from plexus_tactus_cache.sync.foreground import Foreground, say_what_is_pending
from plexus_tactus_cache.sync.leadership import Leadership
from plexus_tactus_cache.sync.push import Projection
from plexus_tactus_cache.sync.status import cache_status, dirty_versions, pending, procedure_statuses
from plexus_tactus_cache.sync.thread import SyncThread
from plexus_tactus_cache.sync.upkeep import Unmoved, collect, create, forget, retry

log = logging.getLogger("plexus_tactus_cache")

_TIDY = 1.0  # seconds of a close for making the store smaller


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
        read_only: only look: no file is changed, and nobody waited for, so that works beside running workers, on
            read-only media and for stores of other users. What would write raises StoreReadOnly.

    Every method raises InvalidArgument (WrongType for a type) for an argument that means nothing, before anything is
    changed.

    Raises:
        StoreReadOnly: there is no store in the directory and none can be made: it is not ours, or not writable.
        EndpointMismatch: the directory belongs to another API endpoint.
        CacheCorrupted: the database is damaged, gone, emptied, or that of another store.
        InvalidClient: requests cannot be sent to the API URL, or not with the key; nothing was opened.
    """

    def __init__(
        self,
        client: GraphQLClient | Offline | None = None,
        directory: str | os.PathLike[str] | None = None,
        settings: CacheSettings | None = None,
        *,
        background: bool = True,
        dashboard_state: Projection | None = None,
        read_only: bool = False,
    ) -> None:
        self._background = background
        self._read_only = read_only
        if dashboard_state is not None and not callable(dashboard_state):
            raise WrongType("dashboard_state", f"want a function, not {checks.kind_of(dashboard_state)}")
        self._projection = dashboard_state
        self.settings = CacheSettings() if settings is None else checks.instance(settings, CacheSettings, "settings")
        self._client = client_or_none(client, self.settings)
        self._way_out = "the client is OFFLINE" if client is OFFLINE else f"set {URL_VARIABLE} and {KEY_VARIABLE}"
        self.endpoint = endpoint_of(self._client)
        self.directory = chosen(directory) or default_directory(self.endpoint)
        self._store = LocalStore(
            self.directory,
            durability=self.settings.durability,
            lock_timeout=self.settings.lock_timeout,
            max_bytes=self.settings.max_store_bytes,
            read_only=read_only,
        )
        self._closed = self._held_still = False
        try:
            self._begin()
        except BaseException as error:
            self._store.close()  # else what is open would be so until somebody collects it
            if isinstance(error, OSError):  # of an import: no descriptor is left for that either
                raise unusable(self.directory, error) from error
            raise
        forking.register(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    def _begin(self) -> None:
        """Everything that needs the store. Raises EndpointMismatch, LocalStoreError."""
        if self.endpoint is not None:
            self._store.check(self.endpoint)
        self.documents = Documents(self._store, self.settings.push_interval, self.revalidate)
        if self._read_only:
            self.documents.problem = unwritable(self.directory)  # that it is only looked at is none
        self.traces = Traces(self._store, partial(self.documents.transaction, ()))
        if self._client is not None and self._background and not self._store.read_only:
            self._bind()
        self._start()

    def _start(self) -> None:
        """What a process needs anew: leadership and the thread."""
        self._leadership = Leadership(self._store)
        self._engine: SyncEngine | None = None
        self._thread: SyncThread | None = None
        self._foreground: Foreground | None = None
        if self._client is not None and not self._store.read_only:
            settings = self.settings
            s3 = s3_or_none(settings.attachments_bucket, settings.request_timeout, settings.allow_http)
            self._engine = SyncEngine(self._store, Procedures(self._client, s3), settings, projection=self._projection)
            if self._background:
                self._thread = SyncThread(self._store, self._engine, self._leadership, self.settings)
                self._thread.start()
            self._foreground = Foreground(self._store, self._engine, self._leadership, self._thread, self.settings)

    @property
    def _unmoved(self) -> Unmoved | None:
        return None if self._engine is None else self._engine.unmoved

    def _bind(self) -> None:
        """The directory belongs to the endpoint that it first talked to."""
        if self.endpoint is not None:
            self._store.bind(self.endpoint)

    # --- forks: see Forking -------------------------------------------------------------------------------

    def hold_still(self) -> None:
        self._held_still = not self._store.is_interrupted()
        if self._held_still:
            self.documents.hold_still()

    def go_on(self) -> None:
        if self._held_still:
            self.documents.go_on()

    def begin_anew(self) -> None:
        self.documents.forked()
        if not self._closed:
            try:
                self._start()
            except LocalStoreError as error:
                log.error("%s", error)

    # --- public: syncing ----------------------------------------------------------------------------------

    def storage(self, procedure_id: str) -> PlexusStorageAdapter:
        """A Tactus StorageBackend for one procedure, on this cache."""
        return PlexusStorageAdapter._on(self, procedure_id)

    def sync(self, timeout: float = 30.0) -> SyncReport:
        """One pass now, whatever is due: done here if this process may lead, else by the process that does.

        The report of a pass that another process made says only what is still pending. Never raises for Plexus's
        sake: see `errors` in the report.
        """
        timeout = checks.wait(timeout)
        self.check_open()
        if self._foreground is None:
            why = self._store.read_only or "no client"
            return SyncReport(pending=pending(self._store), errors=(f"{why}: nothing can be pushed",))
        self._bind()
        return self._foreground.sync(timeout)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything written so far is in Plexus.

        False as soon as only parked documents remain, or after `timeout` seconds.
        """
        timeout = checks.wait(timeout)
        self.check_open()
        wanted = dirty_versions(self._store)
        if self._foreground is None:
            return not wanted
        self._bind()
        return self._foreground.flush(wanted, timeout)

    def create_procedure(self, *, account_id: str, name: str, **fields: Any) -> str:
        """Create a procedure, here and now, and in Plexus at the next sync: its id. Works without a network.

        `fields`: others of the record, in Plexus's spelling or in Python's (`scorecard_id="..."`). Raises TypeError
        for one that the record does not have, and for a value that is not JSON; InvalidArgument.
        """
        self.check_open()
        record = creation_fields(account_id, name, fields)
        return create(self._store, record, time.time(), self.settings.push_interval, self.documents.transaction)

    def conflicts(self, *, resolved: bool = False) -> list[Conflict]:
        """The values that reconciling set aside, oldest first; with `resolved` those that were dealt with."""
        self.check_open()
        return conflicts(self._store, resolved=resolved)

    def resolve(self, conflict_id: str, keep: Side) -> None:
        """Let one side of a conflict be the value: applies it if the other was kept, as a local write.

        What that replaces is journaled too (among the resolved). A log that went two ways is unparked, and takes the
        way of `keep` at the next sync. One that was resolved already can be resolved again. Raises ConflictNotFound,
        and ConflictOutdated for the tail of a log whose beginning is gone.
        """
        conflict_id = checks.text(conflict_id, "conflict_id")
        if keep not in ("local", "remote"):
            raise InvalidArgument("keep", "want 'local' or 'remote'")
        self.check_open()
        resolve(self._store, conflict_id, keep, self.documents.transaction)

    def pull(self, procedure_id: str) -> None:
        """Read one procedure from Plexus now and reconcile with it.

        Raises RemoteUnavailable when Plexus does not answer, ProcedureNotFound when neither side knows it,
        StoreReadOnly.
        """
        procedure_id = checks.procedure_id(procedure_id)
        self.check_open()
        if is_builtin(procedure_id):
            raise ProcedureNotFound(procedure_id, "what comes with Plexus is not stored there")
        if self._store.read_only:
            raise StoreReadOnly(self._store.read_only)
        if self._engine is None:
            raise RemoteUnavailable(f"no client: {self._way_out}")
        self._bind()
        with plexus_needed():
            remote = self._engine.pull(procedure_id, time.time())
        if remote is None and self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory} and Plexus has no such procedure")

    def retry(self, procedure_id: str) -> None:
        """Push a parked procedure again, now. Raises ProcedureNotFound for one that is not stored here."""
        procedure_id = checks.procedure_id(procedure_id)
        self.check_open()
        if self._store.header(procedure_id) is None:
            raise ProcedureNotFound(procedure_id, f"it is not in {self.directory}")

        self.documents.transaction(procedure_id, lambda: retry(self._store, procedure_id))

    def forget(self, procedure_id: str, *, discard: bool = False) -> None:
        """Delete a procedure from this store; its record in Plexus stays, and is read again when it is needed.

        Raises ProcedureNotFound; StillNeeded for one that has something that Plexus does not have, or an open conflict,
        unless `discard` gives that up; RemoteUnavailable, when there is a client and Plexus does not answer.
        """
        procedure_id = checks.procedure_id(procedure_id)
        self.check_open()
        checks.instance(discard, bool, "discard")
        with plexus_needed():
            forget(self._store, procedure_id, discard=discard, unmoved=self._unmoved)

    def gc(self, older_than: float | None = None) -> GcReport:
        """Forget the procedures of which Plexus has everything and that were not written for `older_than` seconds
        (default: the setting `retention`; without it, none), and give the disk back what is free. Raises StoreReadOnly.
        """
        if older_than is not None:
            older_than = checks.seconds(older_than, "older_than")
        self.check_open()
        if self._store.read_only:
            raise StoreReadOnly(self._store.read_only)
        age = self.settings.retention if older_than is None else older_than
        if self._store.read_only:
            raise StoreReadOnly(self._store.read_only)
        with plexus_needed():
            gone = [] if age is None else collect(self._store, time.time() - age, unmoved=self._unmoved)
        while self._store.tidy(1.0) and self._store.writer() is None:
            pass
        return GcReport(forgotten=tuple(gone), store_bytes=self._store.size)

    def status(self) -> CacheStatus:
        """What is not in Plexus yet, why, and what happens next. Reads the local store only."""
        self.check_open()
        now = time.time()
        return cache_status(
            self._store,
            now,
            endpoint=self.endpoint,
            has_client=self._client is not None,
            next_attempt=self._next_attempt(now),
            leads=self._leadership.held,
            problem=self.documents.problem or (self._thread.problem if self._thread else None),
        )

    def _next_attempt(self, now: float) -> float | None:
        engine = self._engine
        if engine is None and self._read_only and self._client is not None:  # others push
            engine = SyncEngine(self._store, Procedures(self._client, None), self.settings)
        return engine.next_due(now) if engine else None

    def procedures(self) -> list[ProcedureStatus]:
        """Where each stored procedure stands, by id."""
        self.check_open()
        return procedure_statuses(self._store)

    def close(self, timeout: float | None = None) -> None:
        """Push what is pending for at most `timeout` seconds (default: `close_timeout`), then stop.

        What is still pending stays in the local store, is logged, and goes out with the next process that opens
        the directory. Closing twice is fine.
        """
        timeout = self.settings.close_timeout if timeout is None else checks.wait(timeout)
        if self._closed:
            return
        deadline = time.monotonic() + timeout
        try:
            if self._foreground is not None:
                self._foreground.push_before_close(deadline)
            if self._thread is not None:
                say_what_is_pending(pending(self._store), self._store.location)
        except LocalStoreError as error:
            log.warning("closing without a last push: %s", error)
        self._closed = True
        if self._thread is not None:
            self._thread.stop(max(0.1, deadline - time.monotonic()))
        self._leadership.release()
        try:
            self._store.tidy(min(_TIDY, deadline - time.monotonic()))
        except LocalStoreError as error:
            log.warning("the store was not made smaller: %s", error)
        self._store.close()
        forking.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def check_open(self) -> None:
        """Raises CacheClosed."""
        if self._closed:
            raise CacheClosed(f"the cache on {self.directory} is closed")
        if self._thread is not None:
            self._thread.start()  # should there have been no thread for it before

    # --- for adapters: the first touch --------------------------------------------------------------------

    def revalidate(self, procedure_id: str) -> None:
        """An adapter's first touch of a document: revalidate it with Plexus, if it answers within `load_timeout`.

        Raises RemoteUnavailable for an unknown document, as `on_unreachable` says.
        """
        procedure_id = checks.procedure_id(procedure_id)
        self.check_open()
        if self._engine is not None:
            self._bind()
        while not revalidate(procedure_id, self._store, self._engine, self.settings):
            time.sleep(min(self.settings.push_interval, 1.0))
            self.check_open()


# --- exits --------------------------------------------------------------------------------------------


def _close_at_exit(reference: weakref.ref[ProcedureCache]) -> None:
    cache = reference()
    if cache is not None:
        cache.close()
