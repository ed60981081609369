"""SyncThread: the thin shell that runs the engine while this process leads its store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from plexus_tactus_cache.errors import CacheClosed, LeaseLost, LocalStoreError, OutOfResources
from plexus_tactus_cache.remote.failures import RequestFailed
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Lease, Store
from plexus_tactus_cache.sync.engine import SyncEngine, place_of
from plexus_tactus_cache.sync.leadership import Leadership
from plexus_tactus_cache.sync.upkeep import collect
from plexus_tactus_cache.sync.within import started

log = logging.getLogger("plexus_tactus_cache")

COLLECT_EVERY = 600.0  # seconds between looks for what may be forgotten
_COLLECT = 20  # documents in one go
_TIDY = 0.05  # seconds of each pass for making the store smaller
LOOK_AROUND = 1.0  # seconds between looks for what other processes wrote or asked for


class SyncThread:
    """Wakes on news, when something is due, and every so often in case that news was missed."""

    def __init__(self, store: Store, engine: SyncEngine, leadership: Leadership, settings: CacheSettings) -> None:
        self._store = store
        self._engine = engine
        self._leadership = leadership
        self._interval = settings.push_interval
        self._retention = settings.retention
        self._collect_at = 0.0  # on the monotonic clock
        self._patience = min(self._interval, LOOK_AROUND)
        self.problem: str | None = None  # why the store cannot be used
        self._news = store.wakeups()
        self._lease: Lease | None = None  # under which the store was put in order
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None  # once it runs
        self._starting = threading.Lock()

    @property
    def runs(self) -> bool:
        """Whether it was started."""
        return self._thread is not None

    def start(self) -> None:
        """Start it, unless it was. Where the system has no thread left, that is said, and procedures go on, as writing
        needs none; `start` is to be called again."""
        if self._thread is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._thread = started(self._loop, "plexus-tactus-cache")
        except OutOfResources as error:
            if self.problem != str(error):  # said once
                self.problem = str(error)
                log.error("nothing is pushed, which is tried again at every call: %s", error)
        finally:
            self._starting.release()

    def wake(self) -> None:
        """Something is wanted now."""
        self._news.set()

    def stop(self, timeout: float) -> bool:
        """Ask it to end; False when it was still busy after `timeout` seconds (it is a daemon and dies with us)."""
        self._stop.set()
        self._news.set()
        thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                seconds = self._step()
                self.problem = None
                self._news.wait(seconds)
            except CacheClosed:
                return
            except LeaseLost as error:
                log.warning("%s", error)
                self._leadership.release()
            except LocalStoreError as error:
                if self.problem != str(error):  # said once
                    self.problem = str(error)
                    log.error("the store cannot be used for syncing, which is tried again all the time: %s", error)
                self._stop.wait(self._interval * 5)
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave procedures waiting for ever
                log.error("syncing met an internal error and goes on: %s at %s", type(error).__name__, place_of(error))
                self._stop.wait(self._interval * 5)
        self._store.release_thread()

    def _step(self) -> float:
        """Do what is due: seconds until it is worth looking again."""
        lease = self._leadership.acquire()
        if lease is None:
            return self._patience
        if lease is not self._lease:
            self._lease = lease
            for problem in self._store.recover(time.time()):
                log.error("%s", problem)
        requests = self._store.requests()
        now = time.time()
        if requests:
            self._engine.run_once(now, force=True, lease=lease)
            self._answer(requests, lease)
        else:
            due = self._engine.next_due(now)
            if due is not None and due <= now:
                self._engine.run_once(now, lease=lease)
        if self._store.link().state == "unauthorized":
            self._leadership.release()  # somebody with another key may do better
        if self._clean_up(lease):
            return 0.01
        due = self._engine.next_due(time.time())
        return self._patience if due is None else min(max(due - time.time(), 0.01), self._patience)

    def _clean_up(self, lease: Lease) -> bool:
        """Let go of what need not be kept, a little at a time: whether there is more."""
        more = False
        if self._retention is not None and time.monotonic() >= self._collect_at:
            before = time.time() - self._retention
            gone = collect(self._store, before, most=_COLLECT, unmoved=self._unmoved, lease=lease)
            more = len(gone) == _COLLECT
            if not more:
                self._collect_at = time.monotonic() + min(COLLECT_EVERY, self._retention)
        return self._store.tidy(_TIDY) or more

    def _unmoved(self, ids: Sequence[str]) -> list[str]:
        try:
            return self._engine.unmoved(ids)
        except RequestFailed:
            return []  # what cannot be asked about stays

    def _answer(self, requests: list[str], lease: Lease) -> None:
        def work() -> None:
            for name in requests:
                self._store.drop_request(name)

        self._store.transaction((), work, lease=lease)
