"""SyncThread: the thin shell that runs the engine while this process leads its directory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import filelock

from plexus_tactus_cache.errors import LocalStoreError
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.row_store import LocalStore
from plexus_tactus_cache.sync.engine import SyncEngine, place_of

log = logging.getLogger("plexus_tactus_cache")

_Result = TypeVar("_Result")
LOCK_NAME = "leader.lock"
LOOK_AROUND = 1.0  # seconds between looks for what other processes wrote or asked for


class Leadership:
    """The right to sync a directory: an OS file lock, so the kernel gives it back when its holder dies."""

    def __init__(self, directory: Path) -> None:
        # Not thread-local: the thread may win it and close() give it back.
        self._lock = filelock.FileLock(directory / LOCK_NAME, mode=0o600, thread_local=False)

    @property
    def held(self) -> bool:
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Take it if it is free; True when this process has it."""
        if self.held:
            return True
        try:
            self._lock.acquire(timeout=0)
        except (filelock.Timeout, OSError):
            return False
        return True

    def release(self) -> None:
        self._lock.release(force=True)


def within(seconds: float, call: Callable[[], _Result], name: str) -> _Result:
    """What `call()` returns or raises. It runs in a daemon thread of its own, as a client may retry for longer than
    we want to wait (plexus-facts.md §7), and goes on there after `seconds`, when this raises TimeoutError."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future.result(seconds)


class SyncThread:
    """Wakes on a signal, when something is due, and every so often in case a signal was missed or came elsewhere."""

    def __init__(self, store: LocalStore, engine: SyncEngine, leadership: Leadership, settings: CacheSettings) -> None:
        self._store = store
        self._engine = engine
        self._leadership = leadership
        self._interval = settings.push_interval
        self._patience = min(self._interval, LOOK_AROUND)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="plexus-tactus-cache", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was written, or is wanted now."""
        self._wake.set()

    def stop(self, timeout: float) -> bool:
        """Ask it to end; False when it was still busy after `timeout` seconds (it is a daemon and dies with us)."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                wait = self._step()
            except LocalStoreError as error:
                log.warning("the local store cannot be used for syncing at the moment: %s", error)
                wait = self._interval * 5
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave procedures waiting for ever
                log.error("syncing met an internal error and goes on: %s at %s", type(error).__name__, place_of(error))
                wait = self._interval * 5
            self._wake.wait(wait)
            self._wake.clear()
        self._store.rows.close()  # this thread's connection

    def _step(self) -> float:
        """Do what is due: seconds until it is worth looking again."""
        if not self._leadership.acquire():
            return self._patience
        requests = self._store.requests()
        now = time.time()
        if requests:
            self._engine.run_once(now, force=True)
            with self._store.rows.transaction():
                for name in requests:
                    self._store.drop_request(name)
        else:
            due = self._engine.next_due(now)
            if due is not None and due <= now:
                self._engine.run_once(now)
        if self._store.link().state == "unauthorized":
            self._leadership.release()  # somebody with another key may do better
        due = self._engine.next_due(time.time())
        return self._patience if due is None else min(max(due - time.time(), 0.01), self._patience)
