"""What reconciling compares: a document reduced to digests, and the record as it was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plexus_tactus_cache.document.encoded import Document, EntryRecord, Part
from plexus_tactus_cache.document.plain import digest
from plexus_tactus_cache.envelope.parts import BOOK, Envelope, entry_digest, entry_keys
from plexus_tactus_cache.envelope.placement import Attachment


@dataclass(frozen=True)
class Digests:
    """A document, reduced to what comparing with Plexus needs."""

    log: tuple[str, ...] = ()
    replay_index: int = 0
    state: Mapping[str, str] = field(default_factory=dict)
    lua_state: Mapping[str, str] = field(default_factory=dict)
    extras: str | None = None
    status: str | None = None
    waiting_on_message_id: str | None = None
    runs: tuple[str, ...] = ()  # the run ids in the log, sorted

    @staticmethod
    def of(document: Document) -> Digests:
        return Digests(
            log=log_digests(document.log),
            replay_index=document.replay_index,
            state=_part(document.state),
            lua_state=_part(document.lua_state),
            extras=None if document.extras is None else digest(document.extras.plain),
            status=document.status,
            waiting_on_message_id=document.waiting_on_message_id,
            runs=document.runs,
        )

    @property
    def blank(self) -> bool:
        """Nothing of ours is in it; a status may be."""
        return not (self.log or self.state or self.lua_state or self.extras)


def log_digests(log: list[EntryRecord]) -> tuple[str, ...]:
    """One mark per entry: equal for the same position, type (or name), run and result."""
    return tuple(entry_digest(key, entry) for key, entry in zip(entry_keys(log), log, strict=True))


def _part(part: Part) -> dict[str, str]:
    return {key: digest(value.plain) for key, value in part.items()}


@dataclass(frozen=True)
class Remote:
    """A record as it was read from Plexus."""

    updated_at: str
    status: str | None
    waiting_on_message_id: str | None
    envelope: Envelope
    attachments: Mapping[str, Attachment] = field(default_factory=dict)  # by part
    over: int = 0  # see Placement
    unchanged: frozenset[str] = frozenset()  # parts that were not fetched: they are those of `relative_to`
    relative_to: str | None = None  # id of the snapshot that they are those of

    def digests(self, before: Digests | None) -> Digests:
        """The digests of the whole, `before` being those that `unchanged` is about."""
        found = Digests.of(self.document)
        if before is None or not self.unchanged:
            return found
        kept: dict[str, Any] = {}
        if "checkpoints" in self.unchanged:
            kept |= {"log": before.log, "runs": before.runs, "replay_index": self.envelope.replay_index}
        if "state" in self.unchanged:
            kept["state"] = before.state
        if "lua_state" in self.unchanged:
            kept["lua_state"] = before.lua_state
        if BOOK in self.unchanged:
            kept["extras"] = before.extras
        return dataclasses.replace(found, **kept)

    @property
    def document(self) -> Document:
        found = self.envelope.document
        return Document(
            log=found.log,
            replay_index=found.replay_index,
            state=found.state,
            lua_state=found.lua_state,
            extras=found.extras,
            variables=found.variables,
            status=self.status,
            waiting_on_message_id=self.waiting_on_message_id,
        )
