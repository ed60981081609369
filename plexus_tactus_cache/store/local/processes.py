"""What the processes on one directory tell each other.

| row              | holds                                                                       |
|------------------|-----------------------------------------------------------------------------|
| `link`           | state of the connection to Plexus, for status and for the next leader       |
| `request/<name>` | a foreground sync asked for by a process that does not lead                 |
| `lease`          | `Leader`, and how the lease is held: see `Held` in lease.py                 |
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import orjson

from plexus_tactus_cache.errors import CacheCorrupted, LeaseLost
from plexus_tactus_cache.store.contract import Leader, Lease, Link
from plexus_tactus_cache.store.local import forks
from plexus_tactus_cache.store.local.lease import Held, LeaseFile, LocalLease
from plexus_tactus_cache.store.local.parts import OnRows, quoted
from plexus_tactus_cache.store.local.rows import Rows

_NO_LEADER = Leader("", 0.0, 0)
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
        leader, held = self._lease_row() or (_NO_LEADER, Held.LOCKED)
        generation = leader.generation + 1
        may = self._lease_file.may_take(leader.generation, held)
        if may is None:
            return None

        def take() -> LocalLease | None:
            if self.newest_generation() != leader.generation:
                return None  # somebody was faster
            held = Held.LOCKED if may == "free" else Held.UNLOCKED
            self._put_leader(Leader(who, time.time(), generation), held)
            return LocalLease(generation, self._lease_file, self, held)

        taken = None
        try:
            taken = self.transaction((), take)
        finally:
            if may == "free":
                if taken is None:
                    self._lease_file.let_go()
                else:
                    self._lease_file.hold(generation)
        return taken

    def newest_generation(self) -> int:
        """See LeaseRow in lease.py."""
        found = self._lease_row()
        return 0 if found is None else found[0].generation

    def note_held(self, generation: int, held: Held) -> bool:
        """See LeaseRow in lease.py."""

        def work() -> bool:
            found = self._lease_row()
            if found is None or found[0].generation != generation:
                return False
            self._put_leader(found[0], held)
            return True

        return self.transaction((), work)

    def leader(self) -> Leader | None:
        found = self._lease_row()
        if found is None:
            return None
        leader, held = found
        if held is Held.UNLOCKED or (held is Held.LOCKED and self._lease_file.is_held()):
            return leader._replace(beat=max(leader.since, self._lease_file.touched()))
        return None

    def _lease_row(self) -> tuple[Leader, Held] | None:
        try:
            payload = self.rows.read_row("lease")
        except CacheCorrupted:  # above all generations that there can have been; whoever has one has lost it
            return Leader("", 0.0, int(time.time()) // 10), Held.LOCKED
        if payload is None:
            return None
        leader, held = orjson.loads(payload)
        return Leader(*leader), Held(held)

    def _put_leader(self, leader: Leader, held: Held) -> None:
        self.rows.write_row("lease", orjson.dumps([leader[:3], held.value]))

    def _check_lease(self, lease: Lease | None) -> None:
        if lease is not None and not (isinstance(lease, LocalLease) and lease.is_newest):
            raise LeaseLost("another process syncs this store now: this one was stopped, or stuck, for too long")

    # --- news ---------------------------------------------------------------------------------------------

    def wakeups(self) -> LocalWakeups:
        self.rows.refuse_when_closed()
        found = LocalWakeups(self.rows.database.commits_of_others)
        self._waiting.add(found)
        return found

    def _tell(self) -> None:
        for waiting in list(self._waiting):
            waiting.set()

    # --- link and requests --------------------------------------------------------------------------------

    def link(self) -> Link:
        return Link(*(self._json_or_none("link") or ()))

    def put_link(self, link: Link) -> None:
        self._put_json("link", [*link])

    def requests(self) -> list[str]:
        return [unquote(name) for name in self.rows.keys("request/")]

    def put_request(self, name: str) -> None:
        self.rows.write_row(f"request/{quoted(name)}", b"")
        self._note_news()

    def drop_request(self, name: str) -> None:
        self.rows.delete_row(f"request/{quoted(name)}")


class LocalWakeups:
    """See Wakeups in contract.py."""

    def __init__(self, commits_of_others: Callable[[], object]) -> None:
        self._commits_of_others = commits_of_others
        self._seen: object = None
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
