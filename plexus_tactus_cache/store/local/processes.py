"""What the processes on one directory tell each other.

| row              | holds                                                                       |
|------------------|-----------------------------------------------------------------------------|
| `link`           | state of the connection to Plexus, for status and for the next leader       |
| `request/<name>` | a foreground sync asked for by a process that does not lead                 |
| `lease`          | `Leader`, and whether it took the lease from a holder that lives: lease.py  |
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import orjson

from plexus_tactus_cache.errors import LeaseLost
from plexus_tactus_cache.store.contract import Leader, Lease, Link
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.lease import LeaseFile, LocalLease
from plexus_tactus_cache.store.local.parts import OnRows
from plexus_tactus_cache.store.local.rows import Rows

_LOOK = 1.0  # seconds between looks for what other processes wrote


class ProcessRows(OnRows):
    """Coordination on a local store; see Coordination in contract.py."""

    def __init__(self, rows: Rows, directory: Path, clock: Callable[[], float]) -> None:
        super().__init__(rows)
        self._lease_file = LeaseFile(directory, clock)
        self._waiting: weakref.WeakSet[LocalWakeups] = weakref.WeakSet()
        forks.register(self._lease_file)

    # --- the lease ----------------------------------------------------------------------------------------

    def lease(self, who: str) -> Lease | None:
        if self.rows.read_only:
            return None
        found = self._lease_row()
        generation = found[0].generation if found is not None else 0
        may = self._lease_file.may_take(generation, from_the_living=found is not None and found[1])
        if may is None:
            return None

        def take() -> LocalLease | None:
            now = self._lease_row()
            if now is not None and now[0].generation != generation:
                return None  # somebody was faster
            self._put_leader(Leader(who, time.time(), generation + 1), without_file=may == "from the living")
            return LocalLease(self._lease_file, generation + 1, self._settled, has_file=may == "free")

        taken = self.transaction((), take)
        if taken is None:
            self._lease_file.let_go()
        return taken

    def _settled(self, generation: int) -> bool:
        """The lease that was taken from a living holder has the file now as well: others need not wait for a beat.

        False when it was lost meanwhile.
        """

        def work() -> bool:
            found = self._lease_row()
            if found is None or found[0].generation != generation:
                return False
            self._put_leader(found[0], without_file=False)
            return True

        return self.transaction((), work)

    def leader(self) -> Leader | None:
        found = self._lease_row()
        if found is None or not (found[1] or self._lease_file.is_held()):
            return None
        return found[0]

    def _lease_row(self) -> tuple[Leader, bool] | None:
        payload = self.rows.read_row("lease")
        if payload is None:
            return None
        leader, without_file = orjson.loads(payload)
        return Leader(*leader), without_file

    def _put_leader(self, leader: Leader, *, without_file: bool) -> None:
        self.rows.write_row("lease", orjson.dumps([[*leader], without_file]))

    def _check_lease(self, lease: Lease | None) -> None:
        if lease is not None:
            found = self._lease_row()
            if found is None or found[0].generation != lease.generation:
                raise LeaseLost("another process syncs this store now: this one was stopped, or stuck, for too long")

    # --- news ---------------------------------------------------------------------------------------------

    def wakeups(self) -> LocalWakeups:
        found = LocalWakeups(self._commits_of_others)
        self._waiting.add(found)
        return found

    def _commits_of_others(self) -> int:
        """A number that changes when another connection commits."""
        found: int = self.rows.database.execute("PRAGMA data_version")[0][0]
        return found

    def _tell(self) -> None:
        for waiting in list(self._waiting):
            waiting.set()

    # --- link and requests --------------------------------------------------------------------------------

    def link(self) -> Link:
        return self._load(Link, "link") or Link()

    def put_link(self, link: Link) -> None:
        self._save("link", link)

    def requests(self) -> list[str]:
        return self.rows.keys("request/")

    def put_request(self, name: str) -> None:
        self.rows.write_row(f"request/{name}", b"")
        self._note_news()

    def drop_request(self, name: str) -> None:
        self.rows.delete_row(f"request/{name}")


class LocalWakeups:
    """See Wakeups in contract.py."""

    def __init__(self, commits_of_others: Callable[[], int]) -> None:
        self._commits_of_others = commits_of_others
        self._seen = -1
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if self._event.wait(max(0.0, min(left, _LOOK))):
                self._event.clear()
                return True
            seen, self._seen = self._seen, self._commits_of_others()
            if seen != self._seen:
                return True
            if left <= 0:
                return False
