"""Pushes: documents as they are sent, and the objects in S3 that go before them."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from plexus_tactus_cache.document.encoded import Document
from plexus_tactus_cache.document.plain import dumps
from plexus_tactus_cache.envelope.build import build
from plexus_tactus_cache.envelope.dashboard import looks_like_optimizer, project
from plexus_tactus_cache.envelope.placement import ITEM_BYTES, Attachment, Placement, TooLarge, place, segmented
from plexus_tactus_cache.reconcile.lineage import Base, History, Lineage, Snapshot, history_to_json, joined
from plexus_tactus_cache.reconcile.snapshot import Digests, log_digests
from plexus_tactus_cache.remote.attachments import new_key
from plexus_tactus_cache.remote.failures import Failure, FailureClass, RequestFailed
from plexus_tactus_cache.remote.records import Procedures, Update
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Lease, Pending, Store
from plexus_tactus_cache.sync.reconciler import history_of, remembered

log = logging.getLogger("plexus_tactus_cache")

RUNNING = (None, "RUNNING", "PENDING")  # statuses of a procedure whose log may grow at any moment
LEAST_INLINE = 5_000  # bytes of metadata below which moving parts to S3 gains nothing
SEGMENTS_RETRY = 300.0  # seconds until a log goes to S3 again for no other reason than its length
LOOK_AFTER = 5.0  # seconds after a push: by then who had read the record before it has written his
GARBAGE_RETRY = 3600.0  # seconds

Projection = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass
class Push:
    """One procedure's part of a request, and what its answer will confirm."""

    update: Update
    snapshot: Snapshot
    placement: Placement
    repeated: bool = False  # an earlier attempt went out under the same push id

    @property
    def procedure_id(self) -> str:
        return self.update.procedure_id

    @property
    def version(self) -> int:
        """That of the document, which is in it."""
        return self.snapshot.version or 0


class Pushes:
    """Makes pushes of the documents of one store, and keeps the books of what they leave in S3."""

    def __init__(
        self,
        store: Store,
        procedures: Procedures,
        settings: CacheSettings,
        projection: Projection | None,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._procedures = procedures
        self._settings = settings
        self._projection = projection
        self._new_id = new_id
        self.lease: Lease | None = None  # of the pass under way
        self._segments_again = 0.0  # seconds since the epoch, when S3 did not take segments

    def _transaction(self, procedure_ids: str | Collection[str], work: Callable[[], None]) -> None:
        self._store.transaction(procedure_ids, work, lease=self.lease)

    def prepare(self, procedure_id: str, now: float) -> Push | None:
        """Take a snapshot of a document and make its push; None when there is nothing to push. Raises TooLarge."""
        found = self._store.read(procedure_id)
        history, base = remembered(self._store, procedure_id)
        creation = self._store.creation(procedure_id) if base is None else None
        if found is None or (base is None and creation is None):
            return None
        header, document = found
        # the same content again is the same push: an outage does not pile up records of attempts
        push_id = next((one.id for one in history.pushes if one.version == header.version), None) or self._new_id()
        lineage = joined(history.lineage, {self._store.store_id: header.version})
        status = (document.status, document.waiting_on_message_id)
        before = base or Base("", Snapshot("", {}, None, Digests()))
        confirmed = (before.digests.status, before.digests.waiting_on_message_id)
        placement = self._place(procedure_id, document, before, push_id, lineage, now)
        update = Update(
            procedure_id=procedure_id,
            metadata=dumps(placement.metadata),
            base=before,
            creation=creation,
            status=(document.status, document.waiting_on_message_id)
            if document.status is not None and status != confirmed
            else None,
        )
        digests = Digests.of(document)
        if document.status is None:  # not sent, so what is there stays
            digests = dataclasses.replace(digests, status=confirmed[0], waiting_on_message_id=confirmed[1])
        snapshot = Snapshot(push_id, lineage, header.version, digests, placement.attachments, placement.over)
        return Push(update, snapshot, placement, repeated=push_id in {one.id for one in history.snapshots})

    def _place(
        self, procedure_id: str, document: Document, base: Base, push_id: str, lineage: Lineage, now: float
    ) -> Placement:
        """The document as it goes into its record. Raises TooLarge, with the way out."""
        metadata = build(document, base.foreign, push_id, lineage)
        there = self._procedures.attachments is not None
        policy = self._settings.attachments if there else "never"
        limit = self._settings.max_inline_bytes
        if policy == "never":
            limit = ITEM_BYTES  # the last word is Plexus's
        limit = min(limit, self._store.inline_limit(procedure_id) or limit)
        dashboard = self._dashboard(metadata)
        if dashboard is not None:
            metadata = {**metadata, "dashboard_state": dashboard}
        uploads = self._store.uploads(procedure_id)
        kept = base.snapshot.attachments.values()
        stored = {one.digest: one for one in kept if one.key and one.digest and not one.etag}
        stored |= {mark: Attachment(key, mark) for key, mark in uploads.items() if mark}

        def key_for(part: str) -> str:
            return new_key(procedure_id, part, uuid.uuid4().hex)

        placement = Placement(metadata)
        if policy == "always" or (policy == "auto" and now >= self._segments_again):
            before = Placement(metadata, base.snapshot.attachments, over=base.snapshot.over)
            went_on = log_digests(document.log)[: len(base.digests.log)] == base.digests.log
            resting = document.status not in RUNNING
            placement = segmented(metadata, document, before, stored, key_for, compact=resting or not went_on)
        try:
            return place(placement, policy, limit, stored, key_for)
        except TooLarge as error:
            advice = (
                "set attachments=auto, so that it can go to S3"
                if there
                else "give it access to S3 (the extra `s3` of plexus-tactus-cache, credentials, the bucket)"
            )
            raise TooLarge(f"{error}: {advice}, or make the state smaller; then `plexus-tactus-cache retry`") from error

    def _dashboard(self, metadata: dict[str, Any]) -> dict[str, Any] | None:
        """The dashboard's view of the state; None: leave what the record has."""
        if self._projection is not None:
            return self._projection(metadata["state"])
        if "dashboard_state" in metadata or looks_like_optimizer(metadata["state"]):
            return project(metadata["state"])
        return None

    def note_sending(self, pushes: Iterable[Push]) -> None:
        """Durably, before anything is sent: what each push carries, in case that no answer comes."""
        pushes = list(pushes)

        def work() -> None:
            for push in pushes:
                history = history_of(self._store, push.procedure_id)
                self._put_history(push.procedure_id, history.sending(push.snapshot))

        self._transaction([push.procedure_id for push in pushes], work)

    def can_do_without_s3(self, push: Push, now: float) -> bool:
        """Whether S3, which failed, was asked for nothing but the length of the log: not again for a while."""
        if not push.placement.over or now < self._segments_again or self._settings.attachments == "always":
            return False
        self._segments_again = now + SEGMENTS_RETRY
        return True

    def upload(self, push: Push) -> Failure | None:
        """Put what the record will point to into S3, before the record does: what went wrong.

        Every key is noted durably before it is used, so that nothing is left behind there unknown.
        """
        attachments = self._procedures.attachments
        if not push.placement.uploads or attachments is None:
            return None
        marks = {one.key: one.digest for one in push.placement.attachments.values()}
        procedure_id = push.procedure_id
        self._note_uploads(procedure_id, dict.fromkeys(push.placement.uploads, ""))
        for key, body in push.placement.uploads.items():
            try:
                attachments.put(key, body)
            except RequestFailed as error:
                size = sum(map(len, push.placement.uploads.values()))
                message = f"{size:,} bytes of it have to go to S3: {error.failure.message}"
                if error.failure.kind is FailureClass.REFUSED:
                    message += "; mend that, or make the state smaller, then `plexus-tactus-cache retry`"
                return dataclasses.replace(error.failure, message=message)
            self._note_uploads(procedure_id, {key: marks[key]})
        push.placement.uploads.clear()  # should the batch be sent again in parts
        return None

    def _note_uploads(self, procedure_id: str, uploads: dict[str, str]) -> None:
        def work() -> None:
            self._store.put_uploads(procedure_id, {**self._store.uploads(procedure_id), **uploads})

        self._transaction(procedure_id, work)

    def make_room(self, push: Push) -> bool:
        """The record has less room than we thought: let more of it leave. False when nothing is left that could."""
        inline = len(push.update.metadata)
        if self._procedures.attachments is None or self._settings.attachments == "never" or inline < LEAST_INLINE:
            return False
        self._transaction(push.procedure_id, lambda: self._store.put_inline_limit(push.procedure_id, inline // 2))
        return True

    def collect_garbage(self, now: float) -> None:
        """Delete objects in S3 that nothing has referred to for long, after reading again that nothing does."""
        for procedure_id, keys in self._store.garbage(now).items():
            again: float | None = None
            try:
                self._delete(procedure_id, keys)
            except RequestFailed as error:
                log.warning("superseded objects of procedure %s stay in S3 for now: %s", procedure_id, error)
                again = now + GARBAGE_RETRY
            self._transaction(procedure_id, partial(self._note_garbage, procedure_id, keys, again))

    def _note_garbage(self, procedure_id: str, keys: list[str], again: float | None) -> None:
        self._store.drop_garbage(procedure_id, keys)
        if again is not None:
            self._store.put_garbage(procedure_id, keys, again)

    def _delete(self, procedure_id: str, keys: list[str]) -> None:
        """Raises RequestFailed."""
        attachments = self._procedures.attachments
        if attachments is None:
            raise RequestFailed(Failure(FailureClass.REFUSED, "there is no access to S3 here", by_s3=True))
        text = self._procedures.metadata(procedure_id)
        attachments.delete(key for key in keys if key not in text)

    def acknowledge(self, push: Push, updated_at: str, now: float) -> None:
        """Plexus has version `push.version`; what was written since stays dirty."""
        self._transaction(push.procedure_id, lambda: self._acknowledge(push, updated_at, now))

    def _acknowledge(self, push: Push, updated_at: str, now: float) -> None:
        procedure_id = push.procedure_id
        header = self._store.header(procedure_id)
        if header is None:
            return
        history = history_of(self._store, procedure_id)
        if push.snapshot.id not in {one.id for one in history.snapshots}:
            self._store.update_pending(procedure_id, now, reread=True, look=False)
            return  # it was forgotten while this was on its way, and is another one now
        clean = header.version == push.version
        header = header._replace(pushed=max(header.pushed, push.version), queued=True)
        self._store.put_header(procedure_id, header)
        confirmed = history.confirmed(push.snapshot.id)
        if len(confirmed.snapshots) < len(history.snapshots):  # else it is stored as it is: a long log is a large row
            self._put_history(procedure_id, confirmed)
        self._store.put_base(procedure_id, Base(updated_at, push.snapshot, push.update.base.foreign).to_json())
        uploads = self._store.uploads(procedure_id)
        kept = {one.key for one in push.placement.attachments.values()}
        self._store.put_garbage(procedure_id, uploads.keys() - kept, now + self._settings.attachments_retention)
        self._store.put_uploads(procedure_id, {key: mark for key, mark in uploads.items() if key in kept})
        self._store.drop_creation(procedure_id)
        self._store.forget_old(procedure_id)
        later = LOOK_AFTER if clean else self._settings.push_interval
        self._store.put_pending(procedure_id, Pending(since=now, due=now + later, look=clean))

    def _put_history(self, procedure_id: str, history: History) -> None:
        self._store.put_history(procedure_id, history_to_json(history))

    def forget(self, pushes: Iterable[Push]) -> None:
        """This attempt certainly was not applied; an earlier one of the same push may have been."""
        certain = [push for push in pushes if not push.repeated]

        def work() -> None:
            for push in certain:
                history = history_of(self._store, push.procedure_id)
                self._put_history(push.procedure_id, history.without({push.snapshot.id}))

        self._transaction([push.procedure_id for push in certain], work)


def too_large_for_item(failure: Failure) -> bool:
    """DynamoDB's refusal of an item above 400 KB; there is only its text to go by (§3)."""
    return failure.kind is FailureClass.REFUSED and "item size" in failure.message.lower()
