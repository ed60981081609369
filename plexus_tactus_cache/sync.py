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

import dataclasses
import datetime as dt
import logging
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import backoff

from plexus_tactus_cache.attachments import new_key
from plexus_tactus_cache.codec import dumps
from plexus_tactus_cache.dashboard import looks_like_optimizer, project
from plexus_tactus_cache.document import SyncReport
from plexus_tactus_cache.envelope import build
from plexus_tactus_cache.errors import CacheCorrupted, LocalStoreError
from plexus_tactus_cache.failures import Failure, FailureClass, RequestFailed
from plexus_tactus_cache.journal import open_fork, record_of
from plexus_tactus_cache.layout import Attachment, Layout, TooLarge, lay_out
from plexus_tactus_cache.merge import difference, merged
from plexus_tactus_cache.reconcile import (
    FORK,
    TWO_WAYS,
    Action,
    Base,
    Digests,
    Plan,
    Remote,
    Side,
    attachments_from_json,
    attachments_to_json,
    digests_from_json,
    digests_to_json,
    reconcile,
)
from plexus_tactus_cache.records import Document
from plexus_tactus_cache.remote import Known, Procedures, Update
from plexus_tactus_cache.schedule import Schedule
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store import Header, LocalStore, Pending

log = logging.getLogger("plexus_tactus_cache")

READ_BATCH = 10  # records in one request: 10 of 400 KB stay under AppSync's limit of 5 MB for an answer
PUSH_BATCH = 25
CONFLICT_ROUNDS = 3  # of reading again and pushing again in one pass
DOUBT_SECONDS = 5.0  # a read of DynamoDB is consistent by then: only after that is a missing record believed
ITEM_BYTES = 409_600  # DynamoDB's limit for the whole record
LEAST_INLINE = 5_000  # bytes of metadata below which moving parts to S3 gains nothing
GARBAGE_RETRY = 3600.0  # seconds
UNKNOWN_ATTEMPTS = 8  # before an error that nobody knows parks a document


Projection = Callable[[dict[str, Any]], dict[str, Any] | None]


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


class SyncEngine:
    """Pushes and reconciles the documents of one store. One pass at a time; any thread.

    Args:
        projection: makes the dashboard's view of a state; default: what Plexus does (dashboard.py).
        jitter: makes a random delay, in seconds, out of the longest one.
        new_id: makes a push id.
    """

    def __init__(
        self,
        store: LocalStore,
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
        self._projection = projection
        self._new_id = new_id
        self._lock = threading.Lock()

    def next_due(self, now: float) -> float | None:
        """When `run_once` will next have something to do; None while nothing waits."""
        return self._schedule.next_due(now)

    # --- a pass -------------------------------------------------------------------------------------------

    def run_once(self, now: float, *, force: bool = False) -> SyncReport:
        """One pass over what is due at `now` (seconds since the epoch).

        `force`: what is not due yet goes too; only a Retry-After is still waited for.
        """
        with self._lock:
            done = _Pass()
            if not self._schedule.blocked(now, force=force):
                due = [
                    procedure_id
                    for procedure_id, pending in sorted(self._store.outbox().items(), key=lambda item: item[1].since)
                    if pending.parked is None and (force or self._schedule.due(pending, now) <= now)
                ]
                try:
                    self._push_all(due, now, done)
                    self._collect_garbage(now)
                except _LinkDownError:
                    pass  # recorded; everything keeps its place
            return done.report(id_ for id_, pending in self._store.outbox().items() if pending.parked is None)

    def pull(self, procedure_id: str, now: float) -> Remote | None:
        """Read one record now and reconcile with it.

        Raises RequestFailed.
        """
        with self._lock:
            answer = self.procedures.get([procedure_id], self.known([procedure_id]))[procedure_id]
            if isinstance(answer, Failure):
                raise RequestFailed(answer)
            self.settle(procedure_id, answer, now)
            return answer

    def known(self, ids: Iterable[str]) -> dict[str, Known]:
        """What a read of the records of `ids`, for `settle`, need not fetch again."""
        known = {}
        for procedure_id in ids:
            base = self._base(procedure_id)
            if base is not None:
                sent = self._store.sent(procedure_id)
                pushes = {one: attachments_from_json(value["attachments"]) for one, value in sent.items()}
                known[procedure_id] = Known(base.updated_at, base.attachments, pushes)
        return known

    def _push_all(self, ids: list[str], now: float, done: _Pass) -> None:
        for _ in range(CONFLICT_ROUNDS):
            ready = [pid for pid in ids if self._guarded(pid, now, done, lambda pid: not self._needs_read(pid))]
            unread = [pid for pid in ids if pid not in set(ready) and pid not in done.parked]
            for some in _chunks(unread, READ_BATCH):
                ready += self._read(some, now, done)
            conflicts: list[str] = []
            for updates in self._batches(ready, now, done):
                conflicts += self._send(updates, now, done)
            if not conflicts:
                return
            ids = conflicts

    def _guarded(self, procedure_id: str, now: float, done: _Pass, step: Callable[[str], bool]) -> bool:
        """`step`, where a document that cannot be worked on does not stop the others."""
        try:
            return step(procedure_id)
        except (CacheCorrupted, TooLarge) as error:
            self._park(procedure_id, str(error), now, done)
        except LocalStoreError:
            raise  # the directory's trouble, not this document's
        except Exception as error:  # noqa: BLE001 - a fault of ours in one document must not keep the others from Plexus
            log.error("procedure %s cannot be synced: %s at %s", procedure_id, type(error).__name__, place_of(error))
            self._failed(procedure_id, Failure(FailureClass.UNKNOWN, f"internal: {type(error).__name__}"), now, done)
        return False

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
            elif self._guarded(procedure_id, now, done, lambda pid, found=answer: self.settle(pid, found, now, done)):  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                ready.append(procedure_id)
        return ready

    def settle(self, procedure_id: str, remote: Remote | None, now: float, done: _Pass | None = None) -> bool:
        """Reconcile one document with the record just read, in one local transaction: whether it is to be pushed."""
        done = done or _Pass()
        with self._store.rows.transaction():
            found = self._store.read(procedure_id)
            header, local = found or (Header(), Document())
            base = self._base(procedure_id)
            pending = self._store.pending(procedure_id)
            creating = self._store.creation(procedure_id) is not None
            created = not creating or (pending is not None and pending.reread)  # a create met a record of that id
            doubtful = found is not None and created and _stale(base, remote)
            if doubtful and self._still_doubtful(procedure_id, pending, now):
                return False
            token = None if base is None else base.updated_at
            header, base = self._landed(procedure_id, header, base, remote)
            if remote is not None and remote.unchanged and remote.relative_to not in (token, remote.envelope.push_id):
                self._update_pending(procedure_id, now, reread=True)  # a push of ours came between the read and now
                return False
            fork = pending.fork if pending is not None else None
            plan = reconcile(
                base,
                Digests.of(local),
                header.dirty,
                remote,
                created_here=creating,
                on_fork=fork or self._settings.on_fork,
            )
            if remote is not None:
                self._set_aside(procedure_id, plan, local, remote, base, fork, now)
            if plan.action is Action.PARK:
                if found is None and remote is not None:  # it exists, and cannot be used: say so in status
                    self._store.put_header(procedure_id, header)
                if found is not None or remote is not None:
                    self._park(procedure_id, plan.reason, now, done)
                return False
            if remote is not None:
                if base is None or remote.updated_at != base.updated_at:
                    # A push without an answer was made for an older record: either it landed, or it never can.
                    self._store.put_sent(procedure_id, {})
                self._store.put_base(procedure_id, Base.of(remote, base).to_json())
                self._store.drop_creation(procedure_id)
                if not self._carry_out(procedure_id, plan, header, local, remote.document, now, done):
                    return False
            pending = self._store.pending(procedure_id) or Pending(since=now)
            parked = None if pending.parked == FORK else pending.parked  # it is none any more: see `_set_aside`
            self._store.put_pending(procedure_id, pending._replace(parked=parked, reread=False, doubtful_since=None))
            return True

    def _set_aside(
        self,
        procedure_id: str,
        plan: Plan,
        local: Document,
        remote: Remote,
        base: Base | None,
        fork: Side | None,
        now: float,
    ) -> None:
        """Write what the plan sets aside into the conflict journal; a fork that is none any more is closed there."""
        old = self._store.old(procedure_id) if plan.set_aside else {}
        undecided = open_fork(self._store.conflicts().items(), procedure_id)
        for aside in plan.set_aside:
            record = record_of(aside, procedure_id, local, remote, base, old, now)
            if aside.kept is None:
                self._store.put_conflict(record, undecided)
            elif aside.reason == TWO_WAYS and fork is not None:
                self._store.put_conflict(record._replace(resolved=fork))  # as a person wanted it
            else:
                self._store.put_conflict(record)
                log.warning(
                    "procedure %s: %s: the %s one is kept (%s)", procedure_id, aside.part, aside.kept, aside.reason
                )
        if undecided is not None and plan.action is not Action.PARK:
            record = self._store.conflicts()[undecided]
            side: Side = "remote" if plan.take_log else "local"
            self._store.put_conflict(record._replace(kept=side, resolved=side), undecided)

    def _carry_out(
        self, procedure_id: str, plan: Plan, header: Header, local: Document, remote: Document, now: float, done: _Pass
    ) -> bool:
        """Write what the plan makes of the document: whether that is to be pushed."""
        if plan.action is Action.ADOPT:
            self._store.adopt(procedure_id, difference(local, merged(local, remote, plan)), local.runs)
            done.pulled.append(procedure_id)
            return False
        if plan.action is Action.NOTHING:
            self._store.put_header(procedure_id, header._replace(queued=False))
            self._store.drop_pending(procedure_id)
            return False
        self._store.forget_old(procedure_id)
        if plan.action is Action.MERGE:
            self._store.merge(procedure_id, difference(local, merged(local, remote, plan)), local.runs, now)
            done.merged.append(procedure_id)
        return True

    def _base(self, procedure_id: str) -> Base | None:
        stored = self._store.base(procedure_id)
        return None if stored is None else Base.from_json(stored)

    def _landed(
        self, procedure_id: str, header: Header, base: Base | None, remote: Remote | None
    ) -> tuple[Header, Base | None]:
        """If a push without an answer is in the record: what it sent is the base, and its version was pushed."""
        sent = self._store.sent(procedure_id)
        push_id = remote.envelope.push_id if remote is not None else None
        if remote is None or push_id not in sent:
            return header, base
        landed = sent[push_id]
        header = header._replace(pushed=max(header.pushed, landed["version"]))
        self._store.put_header(procedure_id, header)
        attachments = attachments_from_json(landed["attachments"])
        digests = digests_from_json(landed["digests"])
        return header, Base(remote.updated_at, digests, remote.envelope.foreign, attachments)

    def _still_doubtful(self, procedure_id: str, pending: Pending | None, now: float) -> bool:
        """Nothing is believed on the word of one read: note the doubt and read again, for `DOUBT_SECONDS`."""
        if pending is None:
            pending = Pending(since=now)
            header = self._store.header(procedure_id) or Header()
            self._store.put_header(procedure_id, header._replace(queued=True))
        since = pending.doubtful_since if pending.doubtful_since is not None else now
        if now - since >= DOUBT_SECONDS:
            return False
        again = pending._replace(reread=True, doubtful_since=min(since, now), due=now + 1.0)
        self._store.put_pending(procedure_id, again)
        return True

    # --- pushing ------------------------------------------------------------------------------------------

    def _batches(self, ids: Iterable[str], now: float, done: _Pass) -> Iterator[list[_Push]]:
        """The pushes of `ids`, as many in one request as limits allow."""
        batch: list[_Push] = []
        slow: list[_Push] = []
        size = 0
        for procedure_id in ids:
            push: list[_Push] = []
            if not self._guarded(procedure_id, now, done, lambda pid, made=push: self._prepare(pid, made)):  # type: ignore[misc]  # as above
                continue
            if push[0].update.size > self._settings.max_request_bytes:
                reason = (
                    f"its metadata makes a request of {push[0].update.size:,} bytes, more than max_request_bytes "
                    f"({self._settings.max_request_bytes:,}): raise that, or make the state smaller"
                )
                self._park(procedure_id, reason, now, done)
                continue
            if push[0].layout.uploads:
                slow += push
                continue
            if batch and (size + push[0].update.size > self._settings.max_request_bytes or len(batch) >= PUSH_BATCH):
                yield batch
                batch, size = [], 0
            batch += push
            size += push[0].update.size
        if batch:
            yield batch
        for one in slow:  # S3 may be slow, or away: that is no reason for others to wait
            yield [one]

    def _prepare(self, procedure_id: str, into: list[_Push]) -> bool:
        """Take a snapshot of a document and make its push; False when there is nothing to push."""
        found = self._store.read(procedure_id)
        base = self._base(procedure_id)
        creation = self._store.creation(procedure_id) if base is None else None
        if found is None or (base is None and creation is None):
            return False
        header, document = found
        sent = self._store.sent(procedure_id)
        # the same content again is the same push: an outage does not pile up records of attempts
        push_id = next((known for known, value in sent.items() if value["version"] == header.version), None)
        push_id = push_id or self._new_id()
        status = (document.status, document.waiting_on_message_id)
        before = base or Base(updated_at="", digests=Digests())
        confirmed = (before.digests.status, before.digests.waiting_on_message_id)
        layout = self._lay_out(procedure_id, build(document, before.foreign, push_id))
        update = Update(
            procedure_id=procedure_id,
            metadata=dumps(layout.metadata),
            base=before,
            creation=creation,
            status=(document.status, document.waiting_on_message_id)
            if document.status is not None and status != confirmed
            else None,
        )
        digests = Digests.of(document)
        if document.status is None:  # not sent, so what is there stays
            digests = dataclasses.replace(digests, status=confirmed[0], waiting_on_message_id=confirmed[1])
        into.append(_Push(update, push_id, header.version, digests, layout))
        return True

    def _lay_out(self, procedure_id: str, metadata: dict[str, Any]) -> Layout:
        """Raises TooLarge, with the way out."""
        there = self.procedures.attachments is not None
        policy = self._settings.attachments if there else "never"
        limit = self._settings.max_inline_bytes
        if policy == "never":
            limit = ITEM_BYTES  # the last word is Plexus's
        limit = min(limit, self._store.inline_limit(procedure_id) or limit)
        dashboard = self._dashboard(metadata)
        if dashboard is not None:
            metadata = {**metadata, "dashboard_state": dashboard}
        uploads = self._store.uploads(procedure_id)
        stored = {mark: Attachment(key, mark) for key, mark in uploads.items() if mark}
        try:
            return lay_out(metadata, policy, limit, stored, lambda part: new_key(procedure_id, part, self._new_id()))
        except TooLarge as error:
            advice = (
                "set attachments=auto, so that it can go to S3"
                if there
                else "give it access to S3 (pip install 'plexus-tactus-cache[s3]', credentials, the bucket)"
            )
            raise TooLarge(f"{error}: {advice}, or make the state smaller; then `plexus-tactus-cache retry`") from error

    def _dashboard(self, metadata: dict[str, Any]) -> dict[str, Any] | None:
        """The dashboard's view of the state; None: leave what the record has."""
        if self._projection is not None:
            return self._projection(metadata["state"])
        if "dashboard_state" in metadata or looks_like_optimizer(metadata["state"]):
            return project(metadata["state"])
        return None

    def _send(self, pushes: list[_Push], now: float, done: _Pass) -> list[str]:
        """Send one batch: the procedures whose record had moved."""
        with self._store.rows.transaction():
            for push in pushes:
                sent = self._store.sent(push.procedure_id)
                push.repeated = push.push_id in sent
                sent[push.push_id] = {
                    "version": push.version,
                    "digests": digests_to_json(push.digests),
                    "attachments": attachments_to_json(push.layout.attachments),
                }
                self._store.put_sent(push.procedure_id, sent)
        pushes = [push for push in pushes if self._upload(push, now, done)]
        if not pushes:
            return []
        try:
            answers = self.procedures.update([push.update for push in pushes])
        except RequestFailed as error:
            if error.failure.kind is FailureClass.REFUSED and len(pushes) > 1:
                # one bad document spoils the whole request (§3): find it
                middle = len(pushes) // 2
                return self._send(pushes[:middle], now, done) + self._send(pushes[middle:], now, done)
            if error.failure.not_sent or error.failure.kind is FailureClass.REFUSED:
                self._forget(pushes)
            self._request_failed(error.failure, [push.procedure_id for push in pushes], now, done)
            return []
        self._schedule.succeeded(now)
        again = []
        for push in pushes:
            answer = answers[push.procedure_id]
            if isinstance(answer, str):
                self._acknowledge(push, answer, now)
                done.pushed.append(push.procedure_id)
            elif answer.kind is FailureClass.CONFLICT:
                self._update_pending(push.procedure_id, now, reread=True)
                again.append(push.procedure_id)
            else:
                if answer.kind is FailureClass.REFUSED:
                    self._forget([push])
                if _too_large_for_item(answer) and self._make_room(push):
                    again.append(push.procedure_id)
                else:
                    self._failed(push.procedure_id, answer, now, done)
        return again

    def _upload(self, push: _Push, now: float, done: _Pass) -> bool:
        """Put what the record will point to into S3, before the record does; False when that failed.

        Every key is noted durably before it is used, so that nothing is left behind there unknown.
        """
        attachments = self.procedures.attachments
        if not push.layout.uploads or attachments is None:
            return True
        marks = {one.key: one.digest for one in push.layout.attachments.values()}
        procedure_id = push.procedure_id
        self._note_uploads(procedure_id, dict.fromkeys(push.layout.uploads, ""))
        for key, body in push.layout.uploads.items():
            try:
                attachments.put(key, body)
            except RequestFailed as error:
                self._forget([push])
                size = sum(map(len, push.layout.uploads.values()))
                failure = error.failure
                message = f"{size:,} bytes of it have to go to S3: {failure.message}"
                self._failed(procedure_id, dataclasses.replace(failure, message=message), now, done)
                return False
            self._note_uploads(procedure_id, {key: marks[key]})
        push.layout.uploads.clear()  # should the batch be sent again in parts
        return True

    def _note_uploads(self, procedure_id: str, uploads: dict[str, str]) -> None:
        with self._store.rows.transaction():
            self._store.put_uploads(procedure_id, {**self._store.uploads(procedure_id), **uploads})

    def _make_room(self, push: _Push) -> bool:
        """The record has less room than we thought: let more of it leave. False when nothing is left that could."""
        inline = len(push.update.metadata)
        if self.procedures.attachments is None or self._settings.attachments == "never" or inline < LEAST_INLINE:
            return False
        with self._store.rows.transaction():
            self._store.put_inline_limit(push.procedure_id, inline // 2)
        return True

    def _collect_garbage(self, now: float) -> None:
        """Delete objects in S3 that nothing has referred to for long, after reading again that nothing does."""
        attachments = self.procedures.attachments
        if attachments is None:
            return
        for procedure_id, keys in self._store.garbage(now).items():
            try:
                text = self.procedures.metadata(procedure_id)
                attachments.delete(key for key in keys if key not in text)
            except RequestFailed as error:
                log.warning("superseded objects of procedure %s stay in S3 for now: %s", procedure_id, error)
                with self._store.rows.transaction():
                    self._store.drop_garbage(procedure_id, keys)
                    self._store.put_garbage(procedure_id, keys, now + GARBAGE_RETRY)
                return
            with self._store.rows.transaction():
                self._store.drop_garbage(procedure_id, keys)

    def _acknowledge(self, push: _Push, updated_at: str, now: float) -> None:
        """Plexus has version `push.version`; what was written since stays dirty."""
        procedure_id = push.procedure_id
        with self._store.rows.transaction():
            header = self._store.header(procedure_id)
            if header is None:
                return
            clean = header.version == push.version
            header = header._replace(pushed=max(header.pushed, push.version), queued=not clean)
            self._store.put_header(procedure_id, header)
            base = Base(updated_at, push.digests, push.update.base.foreign, push.layout.attachments)
            self._store.put_base(procedure_id, base.to_json())
            uploads = self._store.uploads(procedure_id)
            kept = {one.key for one in push.layout.attachments.values()}
            self._store.put_garbage(procedure_id, uploads.keys() - kept, now + self._settings.attachments_retention)
            self._store.put_uploads(procedure_id, {key: mark for key, mark in uploads.items() if key in kept})
            self._store.put_sent(procedure_id, {})
            self._store.drop_creation(procedure_id)
            self._store.forget_old(procedure_id)
            if clean:
                self._store.drop_pending(procedure_id)
            else:
                self._store.put_pending(procedure_id, Pending(since=now))

    def _forget(self, pushes: Iterable[_Push]) -> None:
        """This attempt certainly was not applied; an earlier one of the same push may have been."""
        with self._store.rows.transaction():
            for push in pushes:
                if push.repeated:
                    continue
                sent = self._store.sent(push.procedure_id)
                sent.pop(push.push_id, None)
                self._store.put_sent(push.procedure_id, sent)

    # --- failures -----------------------------------------------------------------------------------------

    def _request_failed(self, failure: Failure, ids: Iterable[str], now: float, done: _Pass) -> None:
        for procedure_id in ids:
            self._failed(procedure_id, failure, now, done)

    def _failed(self, procedure_id: str, failure: Failure, now: float, done: _Pass) -> None:
        """What a failure means for one procedure. Raises _LinkDownError when it means the same for all."""
        if failure.kind in (FailureClass.OFFLINE, FailureClass.THROTTLED, FailureClass.UNAUTHORIZED):
            done.errors.append(f"{failure.kind.value}: {failure.message}")
            self._schedule.failed(failure, now)
            raise _LinkDownError
        done.errors.append(f"{procedure_id}: {failure.message}")
        if failure.kind is FailureClass.REFUSED:
            self._park(procedure_id, f"refused by Plexus: {failure.message}", now, done)
            return
        pending = self._store.pending(procedure_id) or Pending(since=now)
        attempts = pending.attempts + 1
        if failure.kind is not FailureClass.UNAVAILABLE and attempts >= UNKNOWN_ATTEMPTS:
            self._park(procedure_id, f"failed {attempts} times: {failure.message}", now, done)
            return
        due = now + self._schedule.delay(attempts)
        self._update_pending(procedure_id, now, attempts=attempts, due=due, error=failure.message)

    def _park(self, procedure_id: str, reason: str, now: float, done: _Pass) -> None:
        log.error("procedure %s is parked, nothing of it is lost: %s", procedure_id, reason)
        with self._store.rows.transaction():
            header = self._store.header(procedure_id)
            if header is not None and not header.queued:
                self._store.put_header(procedure_id, header._replace(queued=True))
            self._update_pending(procedure_id, now, parked=reason, reread=True)
        done.parked.append(procedure_id)

    def _update_pending(self, procedure_id: str, now: float, **changes: Any) -> None:
        with self._store.rows.transaction():
            pending = self._store.pending(procedure_id) or Pending(since=now)
            self._store.put_pending(procedure_id, pending._replace(**changes))


@dataclass
class _Push:
    """One procedure's part of a request, and what its answer will confirm."""

    update: Update
    push_id: str
    version: int
    digests: Digests
    layout: Layout
    repeated: bool = False  # an earlier attempt went out under the same push id

    @property
    def procedure_id(self) -> str:
        return self.update.procedure_id


def place_of(error: BaseException) -> str:
    """Where an exception came from; its message may hold a payload, so it stays out of the log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _too_large_for_item(failure: Failure) -> bool:
    """DynamoDB's refusal of an item above 400 KB; there is only its text to go by (§3)."""
    return failure.kind is FailureClass.REFUSED and "item size" in failure.message.lower()


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _stale(base: Base | None, remote: Remote | None) -> bool:
    """Whether a read may be older than what is there: no record (yet), or one older than Plexus confirmed."""
    return remote is None or (base is not None and _moment(remote.updated_at) < _moment(base.updated_at))


def _moment(timestamp: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(timestamp)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
