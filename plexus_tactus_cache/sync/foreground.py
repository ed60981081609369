"""Foreground: passes that a caller waits for, whichever process makes them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Collection

from plexus_tactus_cache.document.reports import SyncReport
from plexus_tactus_cache.errors import LeaseLost, OutOfResources
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Lease, Store
from plexus_tactus_cache.sync.engine import SyncEngine
from plexus_tactus_cache.sync.leadership import Leadership
from plexus_tactus_cache.sync.status import pending, pushed_version, waits
from plexus_tactus_cache.sync.thread import SyncThread
from plexus_tactus_cache.sync.within import within

log = logging.getLogger("plexus_tactus_cache")

_POLL = 0.05  # seconds between looks at the store while waiting for another process


class Foreground:
    """Syncing while somebody waits. Any thread.

    Args:
        thread: this process's sync thread; None where nothing happens by itself.
    """

    def __init__(
        self,
        store: Store,
        engine: SyncEngine,
        leadership: Leadership,
        thread: SyncThread | None,
        settings: CacheSettings,
    ) -> None:
        self._store = store
        self._engine = engine
        self._leadership = leadership
        self._thread = thread
        self._settings = settings
        self._passing = threading.Lock()  # one pass at a time: they do not pile up while Plexus hangs

    def sync(self, timeout: float) -> SyncReport:
        """One pass now: done here if this process may lead, else by the process that does."""
        deadline = time.monotonic() + timeout
        late = SyncReport(errors=(f"not done within {timeout} s; it goes on in the background",))
        request: str | None = None
        try:
            while True:
                lease = self._leadership.acquire()
                if lease is not None:
                    done = self._pass_within(deadline, lease)
                    return done or late.model_copy(update={"pending": pending(self._store)})
                if request is None:
                    request = uuid.uuid4().hex
                    self._post(request)
                elif request not in self._store.requests():
                    return SyncReport(pending=pending(self._store))
                if time.monotonic() >= deadline:
                    error = f"the process that syncs did not answer within {timeout} s"
                    return SyncReport(pending=pending(self._store), errors=(error,))
                time.sleep(_POLL)
        finally:
            if request is not None:
                self._withdraw(request)

    def _post(self, request: str) -> None:
        self._store.transaction((), lambda: self._store.put_request(request))

    def _withdraw(self, request: str) -> None:
        self._store.transaction((), lambda: self._store.drop_request(request))

    def _pass_within(self, deadline: float, lease: Lease) -> SyncReport | None:
        """One pass of this process, or None if Plexus takes longer than that."""
        if not self._passing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return None

        began = False

        def run() -> SyncReport:
            nonlocal began
            began = True
            try:
                return self._engine.run_once(time.time(), force=True, lease=lease)
            except LeaseLost as error:
                self._leadership.release()
                return SyncReport(pending=pending(self._store), errors=(str(error),))
            finally:
                if self._thread is None:  # nothing more happens here by itself: others may lead
                    self._leadership.release()
                self._store.release_thread()
                self._passing.release()

        try:
            return within(max(0.0, deadline - time.monotonic()), run, "plexus-tactus-cache-sync")
        except TimeoutError:
            return None
        except OutOfResources as error:
            if not began:  # there was no thread for it
                if self._thread is None:
                    self._leadership.release()
                self._passing.release()
            return SyncReport(pending=pending(self._store), errors=(str(error),))

    def flush(self, wanted: dict[str, int], timeout: float) -> bool:
        """Wait until Plexus has these versions; see ProcedureCache.flush."""
        deadline = time.monotonic() + timeout
        while True:
            wanted = {pid: version for pid, version in wanted.items() if pushed_version(self._store, pid) < version}
            if not wanted:
                return True
            if all(self._is_parked(procedure_id) for procedure_id in wanted):
                return False
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.sync(timeout=left)
            if any(pushed_version(self._store, pid) < version for pid, version in wanted.items()):
                time.sleep(max(0.0, min(self._settings.push_interval, deadline - time.monotonic())))

    def _is_parked(self, procedure_id: str) -> bool:
        found = self._store.pending(procedure_id)
        return found is not None and found.parked is not None

    def push_before_close(self, deadline: float) -> None:
        """A last push, unless it is known to be pointless. In the sync thread, so that no request outlasts us."""
        reachable = self._thread is not None and self._thread.runs and self._store.link().state in ("online", "unknown")
        while reachable and time.monotonic() < deadline and any(map(waits, self._store.outbox().values())):
            self._post("close")
            while "close" in self._store.requests() and time.monotonic() < deadline:
                time.sleep(_POLL / 5)
            reachable = self._store.link().state == "online"


def say_what_is_pending(waiting: Collection[str], location: str) -> None:
    """At the end of a process that would have pushed it."""
    if waiting:
        log.warning(
            "%d procedure(s) are not in Plexus yet; they are kept in %s, and the next process there pushes them",
            len(waiting),
            location,
        )
