"""The outbox: what is to be pushed, by when.

| row                   | holds                                                                          |
|-----------------------|--------------------------------------------------------------------------------|
| `outbox/<id>`         | `Pending`: there while the document is dirty or parked; clean ones are not visited |
| `due/<moment>/<id>`   | nothing: the order in which those that are not parked may travel                |
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import unquote

import orjson

from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Pending
from plexus_tactus_cache.store.local.parts import OnRows, Sheet, quoted

log = logging.getLogger("plexus_tactus_cache")

_LAST = 9_999_999_999.0  # seconds since the epoch; moments are padded to its length, so that they sort as text


class OutboxRows(OnRows):
    """The outbox of a local store; see Outbox in contract.py."""

    def pending(self, procedure_id: str) -> Pending | None:
        try:
            payload = self.rows.read_row(f"outbox/{quoted(procedure_id)}")
        except CacheCorrupted as error:
            return _unreadable(procedure_id, error)
        return None if payload is None else Pending(*orjson.loads(payload))

    def outbox(self) -> dict[str, Pending]:
        try:
            return {unquote(key): Pending(*orjson.loads(payload)) for key, payload in self.rows.scan("outbox/")}
        except CacheCorrupted:  # one by one: damage of one keeps nobody from the others
            names = [unquote(key) for key in self.rows.keys("outbox/")]
            return {name: found for name in names if (found := self.pending(name)) is not None}

    def due(self, until: float, after: float | None = None) -> list[str]:
        found = self.rows.keys("due/", end=_past(until))
        if after is not None:
            found += self.rows.keys("due/", start=_past(max(until, after)))
        return [unquote(key.split("/")[1]) for key in found]

    def next_due(self) -> float | None:
        first = self.rows.first("due/")
        return None if first is None else float(first.split("/")[0])

    def put_pending(self, procedure_id: str, pending: Pending) -> None:
        sheet = self._sheet(procedure_id)
        payload, place = orjson.dumps([*pending]), _place(pending, sheet.name)
        self._move(self._place_of(procedure_id), place)
        self._put(procedure_id, "outbox", payload)
        self._note_queued(sheet, queued=True)

    def drop_pending(self, procedure_id: str) -> None:
        sheet = self._sheet(procedure_id)
        self._move(self._place_of(procedure_id), None)
        self._drop(procedure_id, "outbox")
        self._note_queued(sheet, queued=False)

    def _note_queued(self, sheet: Sheet, *, queued: bool) -> None:
        """In the header, unless that is damaged, or there is none."""
        if sheet.header is not None and sheet.header.queued != queued:
            sheet.header, sheet.changed = sheet.header._replace(queued=queued), True

    def _place_of(self, procedure_id: str) -> str | None:
        """Its place in the order, also when the row that says so is damaged."""
        name = quoted(procedure_id)
        place = _place(self.pending(procedure_id), name)
        if place is None or self.rows.checksum_of(place) is not None:
            return place
        return next((f"due/{key}" for key in self.rows.keys("due/") if key.partition("/")[2] == name), None)

    def _is_placed(self, procedure_id: str, pending: Pending) -> bool:
        place = _place(pending, quoted(procedure_id))
        return place is None or self.rows.checksum_of(place) is not None

    def _move(self, before: str | None, after: str | None) -> None:
        if before == after:
            return
        if before is not None:
            self.rows.delete_row(before)
        if after is not None:
            self.rows.write_row(after, b"")
            self._note_news()

    def update_pending(self, procedure_id: str, now: float, **changes: Any) -> None:
        def work() -> None:
            pending = self.pending(procedure_id) or Pending(since=now)
            self.put_pending(procedure_id, pending._replace(**changes))

        self.transaction(procedure_id, work)

    def park(self, procedure_id: str, reason: str, now: float) -> None:
        self.update_pending(procedure_id, now, parked=reason, reread=True)
        log.error("procedure %s is parked, nothing of it is lost: %s", procedure_id, reason)


def _unreadable(procedure_id: str, error: CacheCorrupted) -> Pending:
    """What the row said can be done without: the record is read again, and what is wrong is found again."""
    log.error("procedure %s keeps its place in the outbox, and no more is known of it: %s", procedure_id, error)
    return Pending(since=0.0, reread=True)


def _place(pending: Pending | None, name: str) -> str | None:
    """Its place in the order; None for what is not to travel."""
    return None if pending is None or pending.parked is not None else f"due/{_text(pending.moment)}/{name}"


def _past(moment: float) -> str:
    """After all places of `moment`: they go on with a `/`, and the next character is `0`."""
    return f"{_text(moment)}0"


def _text(moment: float) -> str:
    return f"{min(max(moment, 0.0), _LAST):014.3f}"
