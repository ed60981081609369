"""SyncEngine: one pass that brings what is due to Plexus, and takes over what changed there.

The engine works on the store, never on live objects, and has no thread: `run_once(now)` is one step that a test
can call. Pushing one document:

1. The push id and the digests of what is sent are stored durably.
2. `updateProcedure` under the condition that the record still is the base's: one round trip.
3. A failed condition, or no base yet: the record is read. If it carries one of our push ids without an answer,
   that push landed and what it sent is the base. Then `reconcile` decides.
4. Acknowledged by the version that was sent: what was written meanwhile stays dirty.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import backoff

from plexus_tactus_cache.document.reports import SyncReport
from plexus_tactus_cache.envelope.placement import TooLarge
from plexus_tactus_cache.errors import CacheCorrupted, LeaseLost, LocalStoreError
from plexus_tactus_cache.reconcile.snapshot import Remote
from plexus_tactus_cache.remote.failures import Failure, FailureClass, RequestFailed
from plexus_tactus_cache.remote.records import Known, Procedures
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Lease, Pending, Store
from plexus_tactus_cache.sync.push import Projection, Push, Pushes, too_large_for_item
from plexus_tactus_cache.sync.reconciler import Reconciled, Reconciler, history_of
from plexus_tactus_cache.sync.schedule import Schedule
from plexus_tactus_cache.sync.status import waits

_Result = TypeVar("_Result")
log = logging.getLogger("plexus_tactus_cache")

READ_BATCH = 10  # records in one request: 10 of 400 KB stay under AppSync's limit of 5 MB for an answer
LOOK_BATCH = 50  # of which only the time of the last change is read
LOOK_AGAIN = 60.0  # seconds after a look that failed for one document
PUSH_BATCH = 25
CONFLICT_ROUNDS = 3  # of reading again and pushing again in one pass
UNKNOWN_ATTEMPTS = 8  # before an error that nobody knows parks a document


LINK = (FailureClass.OFFLINE, FailureClass.THROTTLED, FailureClass.UNAUTHORIZED)  # mean the same for all


class _LinkDownError(Exception):
    """The rest of this pass is pointless."""


@dataclass
class _Pass:
    """What one pass did."""

    pushed: list[str] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def report(self, pending: Iterable[str]) -> SyncReport:
        lists = {name: tuple(dict.fromkeys(getattr(self, name))) for name in self.__dataclass_fields__}
        return SyncReport(**lists, pending=tuple(pending))

    def note(self, procedure_id: str, reconciled: Reconciled) -> None:
        if reconciled.did is not None:
            getattr(self, reconciled.did).append(procedure_id)


class SyncEngine:
    """Pushes and reconciles the documents of one store. One pass at a time; any thread.

    Args:
        projection: makes the dashboard's view of a state; default: what Plexus does (dashboard.py).
        jitter: makes a random delay, in seconds, out of the longest one.
        new_id: makes a push id.
    """

    def __init__(
        self,
        store: Store,
        procedures: Procedures,
        settings: CacheSettings,
        *,
        projection: Projection | None = None,
        jitter: Callable[[float], float] = backoff.full_jitter,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._store = store
        self.procedures = procedures
        self._settings = settings
        self._schedule = Schedule(store, settings, procedures.credentials, jitter)
        self._reconciler = Reconciler(store, settings.on_fork)
        self._pushes = Pushes(store, procedures, settings, projection, new_id)
        self._lock = threading.Lock()
        self._lease: Lease | None = None  # of the pass under way

    def next_due(self, now: float) -> float | None:
        """When `run_once` will next have something to do; None while nothing waits."""
        return self._schedule.next_due(now)

    # --- a pass -------------------------------------------------------------------------------------------

    def run_once(self, now: float, *, force: bool = False, lease: Lease | None = None) -> SyncReport:
        """One pass over what is due at `now` (seconds since the epoch).

        Args:
            force: what is not due yet goes too; only a Retry-After is still waited for.
            lease: the right to sync, under which everything is noted.

        Raises LeaseLost, and then notes nothing.
        """
        with self._lock:
            self._lease = self._schedule.lease = self._pushes.lease = lease
            done = _Pass()
            if not self._schedule.blocked(now, force=force):
                due = self._store.due(math.inf) if force else self._schedule.due(now)
                looks = {one: pending for one in due if (pending := self._store.pending(one)) and pending.look}
                try:
                    moved = self._look([one for one, pending in looks.items() if pending.moment <= now], now, done)
                    self._push_all([one for one in due if one not in looks or one in moved], now, done)
                    self._pushes.collect_garbage(now)
                except _LinkDownError:
                    pass  # recorded; everything keeps its place
            return done.report(one for one, pending in self._store.outbox().items() if waits(pending))

    def pull(self, procedure_id: str, now: float) -> Remote | None:
        """Read one record now and reconcile with it.

        Raises RequestFailed.
        """
        with self._lock:
            answer = self.procedures.get([procedure_id], self.known([procedure_id]))[procedure_id]
            if isinstance(answer, Failure):
                raise RequestFailed(answer)
            self.reconcile(procedure_id, answer, now)
            return answer

    def known(self, ids: Iterable[str]) -> dict[str, Known]:
        """What a read of the records of `ids`, for `reconcile`, need not fetch again."""
        known = {}
        for procedure_id in ids:
            try:
                found = self._known(procedure_id)
            except CacheCorrupted:
                continue  # all of it is fetched: `reconcile` may need it, or says what is wrong
            if found is not None:
                known[procedure_id] = found
        return known

    def _known(self, procedure_id: str) -> Known | None:
        history = history_of(self._store, procedure_id)
        if history.base is None:
            return None
        if any(one.attachments for one in history.snapshots):
            self._store.read(procedure_id)  # is all of it here?
        return Known(history)

    def _push_all(self, ids: list[str], now: float, done: _Pass) -> None:
        for _ in range(CONFLICT_ROUNDS):
            ready = [pid for pid in ids if self._guarded(pid, now, done, self._needs_read) is False]
            unread = [pid for pid in ids if pid not in set(ready) and pid not in done.parked]
            for some in _chunks(unread, READ_BATCH):
                ready += self._read(some, now, done)
            conflicts: list[str] = []
            for updates in self._batches(ready, now, done):
                conflicts += self._send(updates, now, done)
            if not conflicts:
                return
            ids = conflicts

    def _look(self, ids: Sequence[str], now: float, done: _Pass) -> set[str]:
        """Look once more at the records of clean documents: those that somebody wrote since we pushed."""
        moved: set[str] = set()
        for some in _chunks(ids, LOOK_BATCH):
            try:
                tokens = self.procedures.tokens(some)
            except RequestFailed as error:
                tokens = dict.fromkeys(some, error.failure)
            else:
                self._schedule.succeeded(now)
            for procedure_id, token in tokens.items():
                if isinstance(token, Failure):
                    if token.kind in LINK:
                        self._failed(procedure_id, token, now, done)
                    self._update_pending(procedure_id, now, due=now + LOOK_AGAIN, error=token.message)
                elif not self._is_as_known(procedure_id, token):
                    moved.add(procedure_id)
        return moved

    def unmoved(self, ids: Sequence[str]) -> list[str]:
        """Of some documents, those whose record is as it was left. Raises RequestFailed."""
        tokens = self.procedures.tokens(ids) if ids else {}
        bases = {procedure_id: self._store.base(procedure_id) for procedure_id in ids}
        return [one for one, base in bases.items() if base is not None and tokens[one] == base["updated_at"]]

    def _is_as_known(self, procedure_id: str, token: str | None) -> bool:
        """Whether the record is as we left it; then that is all. Else it is to be read."""

        def work() -> bool:
            pending = self._store.pending(procedure_id)
            if pending is None or not pending.look:
                return True  # it was written here meanwhile: that goes its own way
            base = self._store.base(procedure_id)
            if token is None or base is None or base["updated_at"] != token:
                self._store.put_pending(procedure_id, pending._replace(reread=True))
                return False
            try:
                header = self._store.header(procedure_id)
            except CacheCorrupted:
                self._store.put_pending(procedure_id, pending._replace(reread=True))
                return False  # Plexus has all of it
            self._store.drop_pending(procedure_id)
            if header is not None:
                self._store.put_header(procedure_id, header._replace(queued=False))
            return True

        return self._store.transaction(procedure_id, work, lease=self._lease)

    def _guarded(self, procedure_id: str, now: float, done: _Pass, step: Callable[[str], _Result]) -> _Result | None:
        """What `step` returns. A document that cannot be worked on does not stop the others: None."""
        try:
            return step(procedure_id)
        except (CacheCorrupted, TooLarge) as error:
            self._park(procedure_id, str(error), now, done)
        except (LocalStoreError, LeaseLost):
            raise  # the store's trouble, not this document's
        except Exception as error:  # noqa: BLE001 - a fault of ours in one document must not keep the others from Plexus
            log.error("procedure %s cannot be synced: %s at %s", procedure_id, type(error).__name__, place_of(error))
            self._failed(procedure_id, Failure(FailureClass.UNKNOWN, f"internal: {type(error).__name__}"), now, done)
        return None

    def _needs_read(self, procedure_id: str) -> bool:
        pending = self._store.pending(procedure_id)
        if pending is not None and pending.reread:
            return True
        return self._store.base(procedure_id) is None and self._store.creation(procedure_id) is None

    # --- reading ------------------------------------------------------------------------------------------

    def _read(self, ids: Sequence[str], now: float, done: _Pass) -> list[str]:
        """Read the records of `ids` and reconcile: those that are to be pushed now."""
        try:
            answers = self.procedures.get(ids, self.known(ids))
        except RequestFailed as error:
            self._request_failed(error.failure, ids, now, done)
            return []
        self._schedule.succeeded(now)
        ready = []
        for procedure_id, answer in answers.items():
            if isinstance(answer, Failure):
                self._failed(procedure_id, answer, now, done)
                continue
            reconcile = partial(self._reconciler.reconcile, remote=answer, now=now, lease=self._lease)
            reconciled = self._guarded(procedure_id, now, done, reconcile)
            if reconciled is not None:
                done.note(procedure_id, reconciled)
                ready += [procedure_id] if reconciled.to_push else []
        return ready

    def reconcile(self, procedure_id: str, remote: Remote | None, now: float) -> None:
        """Reconcile one document with the record just read, in one transaction. Whoever has read one may."""
        self._reconciler.reconcile(procedure_id, remote, now)

    # --- pushing ------------------------------------------------------------------------------------------

    def _batches(self, ids: Iterable[str], now: float, done: _Pass) -> Iterator[list[Push]]:
        """The pushes of `ids`, as many in one request as limits allow."""
        batch: list[Push] = []
        slow: list[Push] = []
        size, limit = 0, self._settings.max_request_bytes
        for procedure_id in ids:
            push = self._guarded(procedure_id, now, done, lambda pid: self._pushes.prepare(pid, now))
            if push is None:
                continue
            if push.update.size > limit:
                reason = (
                    f"its metadata makes a request of {push.update.size:,} bytes, more than max_request_bytes "
                    f"({limit:,}): raise that, or make the state smaller"
                )
                self._park(procedure_id, reason, now, done)
                continue
            if push.placement.uploads:
                slow.append(push)
                continue
            if batch and (size + push.update.size > limit or len(batch) >= PUSH_BATCH):
                yield batch
                batch, size = [], 0
            batch.append(push)
            size += push.update.size
        if batch:
            yield batch
        for one in slow:  # S3 may be slow, or away: that is no reason for others to wait
            yield [one]

    def _send(self, pushes: list[Push], now: float, done: _Pass) -> list[str]:
        """Send one batch: the procedures that are to be looked at again in this pass, as their record had moved."""
        again: list[str] = []
        self._pushes.note_sending(pushes)
        pushes = [push for push in pushes if self._uploaded(push, again, now, done)]
        if not pushes:
            return again
        try:
            answers = self.procedures.update([push.update for push in pushes])
        except RequestFailed as error:
            if error.failure.kind is FailureClass.REFUSED and len(pushes) > 1:
                # one bad document spoils the whole request (§3): find it
                middle = len(pushes) // 2
                return again + self._send(pushes[:middle], now, done) + self._send(pushes[middle:], now, done)
            if error.failure.not_sent or error.failure.kind is FailureClass.REFUSED:
                self._pushes.forget(pushes)
            self._request_failed(error.failure, [push.procedure_id for push in pushes], now, done)
            return again
        self._schedule.succeeded(now)
        for push in pushes:
            answer = answers[push.procedure_id]
            if isinstance(answer, str):
                self._pushes.acknowledge(push, answer, now)
                done.pushed.append(push.procedure_id)
            elif answer.kind is FailureClass.CONFLICT:
                self._update_pending(push.procedure_id, now, reread=True)
                again.append(push.procedure_id)
            else:
                if answer.kind is FailureClass.REFUSED:
                    self._pushes.forget([push])
                if too_large_for_item(answer) and self._pushes.make_room(push):
                    again.append(push.procedure_id)
                else:
                    self._failed(push.procedure_id, answer, now, done)
        return again

    def _uploaded(self, push: Push, again: list[str], now: float, done: _Pass) -> bool:
        """Whether what the push points to is in S3; if not, it is failed, or to be laid out `again`."""
        failure = self._pushes.upload(push)
        if failure is None:
            return True
        self._pushes.forget([push])
        if self._pushes.can_do_without_s3(push, now):
            again.append(push.procedure_id)
        else:
            self._failed(push.procedure_id, failure, now, done)
        return False

    # --- failures -----------------------------------------------------------------------------------------

    def _request_failed(self, failure: Failure, ids: Iterable[str], now: float, done: _Pass) -> None:
        for procedure_id in ids:
            self._failed(procedure_id, failure, now, done)

    def _failed(self, procedure_id: str, failure: Failure, now: float, done: _Pass) -> None:
        """What a failure means for one procedure. Raises _LinkDownError when it means the same for all."""
        if failure.kind in LINK:
            done.errors.append(f"{failure.kind.value}: {failure.message}")
            self._schedule.failed(failure, now)
            raise _LinkDownError
        done.errors.append(f"{procedure_id}: {failure.message}")
        if failure.kind is FailureClass.REFUSED:
            by_plexus = "" if failure.by_s3 else "refused by Plexus: "
            self._park(procedure_id, f"{by_plexus}{failure.message}", now, done)
            return
        pending = self._store.pending(procedure_id) or Pending(since=now)
        attempts = pending.attempts + 1
        if failure.kind is not FailureClass.UNAVAILABLE and attempts >= UNKNOWN_ATTEMPTS:
            self._park(procedure_id, f"failed {attempts} times: {failure.message}", now, done)
            return
        due = now + self._schedule.delay(attempts)
        self._update_pending(procedure_id, now, attempts=attempts, due=due, error=failure.message)

    def _update_pending(self, procedure_id: str, now: float, **changes: Any) -> None:
        work = partial(self._store.update_pending, procedure_id, now, **changes)
        self._store.transaction(procedure_id, work, lease=self._lease)

    def _park(self, procedure_id: str, reason: str, now: float, done: _Pass) -> None:
        work = partial(self._store.park, procedure_id, reason, now)
        self._store.transaction(procedure_id, work, lease=self._lease)
        done.parked.append(procedure_id)


def place_of(error: BaseException) -> str:
    """Where an exception came from; its message may hold a payload, so it stays out of the log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
