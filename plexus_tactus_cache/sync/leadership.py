"""Leadership: the lease of the store, as the threads of one process share it."""

from __future__ import annotations

import os
import socket
import threading

from plexus_tactus_cache.store.contract import Lease, Store


class Leadership:
    """The right of this process to sync a store. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._who = f"process {os.getpid()} on {socket.gethostname()}"

    @property
    def held(self) -> bool:
        return self._lease is not None

    def acquire(self) -> Lease | None:
        """The lease, if this process has it or can have it now. Raises LocalStoreError."""
        with self._lock:
            if self._lease is None:
                self._lease = self._store.lease(self._who)
            elif not self._lease.beat():
                self._give_up()
            return self._lease

    def release(self) -> None:
        """Give it back, or up."""
        with self._lock:
            self._give_up()

    def _give_up(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
