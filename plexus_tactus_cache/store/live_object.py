"""Live objects: the one ProcedureMetadata per document that a process's runtimes hold and change.

A runtime loads the object once, appends to its log, changes its state in place, and saves it again and again
(plexus-facts.md §9). A `LiveDocument` remembers what the store had, so that a save finds what changed.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import delitem, setitem
from typing import Any, ClassVar, NamedTuple, Protocol

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import (
    Changes,
    Document,
    EntryRecord,
    Part,
    Variables,
    key_text,
    key_value,
    value_digest,
)
from plexus_tactus_cache.document.encoding import encode, holds_lua
from plexus_tactus_cache.document.entries import build_log, capture, encode_entry
from plexus_tactus_cache.document.models import ASYNC_PROCEDURES, ExecutionLog, NamedCheckpoint, ProcedureMetadata
from plexus_tactus_cache.document.plain import Encoded, fingerprint
from plexus_tactus_cache.errors import ValueNotSerializable
from plexus_tactus_cache.reconcile.decide import PartName
from plexus_tactus_cache.reconcile.snapshot import log_digests
from plexus_tactus_cache.store.at_once import Call, at_once
from plexus_tactus_cache.store.contract import Header


class Mark(NamedTuple):
    """A top-level value as it was last stored."""

    text: str  # of its key
    digest: str
    fingerprint: bytes | None


Marks = dict[Any, Mark]


@dataclass
class Delta:
    """What a live object has that the store, when last seen, had not."""

    changes: Changes
    state: Marks
    lua_state: Marks
    extras: str | None

    @property
    def touches_log(self) -> bool:
        return bool(self.changes.entries) or self.changes.log_length is not None

    def as_document(self, replay_index: int) -> Document:
        """The document that these changes make out of nothing."""
        changes = self.changes
        status, waiting_on_message_id = changes.status or (None, None)
        return Document(
            log=[changes.entries[position] for position in sorted(changes.entries)],
            replay_index=replay_index,
            state={key: value for key, value in changes.state.items() if value is not None},
            lua_state={key: value for key, value in changes.lua_state.items() if value is not None},
            status=status,
            waiting_on_message_id=waiting_on_message_id,
            extras=changes.extras[0] if changes.extras else None,
            variables=changes.variables,
        )


class Edit(Protocol):
    """A change that a call makes besides what the object has unsaved: first stored, then shown."""

    removes: ClassVar[bool]  # whether it may take something away

    def extend(self, live: LiveDocument, delta: Delta) -> Delta:
        """`delta` and the change. Nothing is changed yet."""

    def show(self, live: LiveDocument) -> list[Call]:
        """Make the change in the log, which `rebase` finds after an interrupt: the calls that make the rest."""


@dataclass
class LiveDocument:
    """A live object and what the store had when it was last in step.

    It is kept by whoever holds the object. What it shows and what is known of the store change at once, the version
    last: after an interrupt in between, the object is found behind and catches up again.
    """

    object: weakref.ref[Any]  # ProcedureMetadata, ours or Tactus's
    version: int = 0
    log_seen: int = 0  # the version at which the log was last in step
    swept: int = 0
    saved: list[Any] = field(default_factory=list)  # the entries as stored, by identity
    state: Marks = field(default_factory=dict)
    lua_state: Marks = field(default_factory=dict)
    extras: str | None = None
    replay_index: int = 0
    status: tuple[str, str | None] | None = None  # as the object showed it
    variables: set[str] = field(default_factory=set)  # digests known to be stored
    superseded: int | None = None  # the conflict that holds the log of a run that must not go on

    # --- from the store -----------------------------------------------------------------------------------

    @staticmethod
    def load(procedure_id: str, header: Header, document: Document) -> tuple[LiveDocument, Any]:
        """A new object with what is stored, and the object itself, for somebody to hold."""
        metadata = ProcedureMetadata(procedure_id=procedure_id, replay_index=document.replay_index)
        live = LiveDocument(weakref.ref(metadata))
        live.replay_index = document.replay_index
        live.catch_up(header, document, live.delta())
        return live, metadata

    @property
    def metadata(self) -> Any:
        """The object. Whoever calls anything here holds it."""
        return self.object()

    def catch_up(self, header: Header, document: Document, kept: Delta) -> None:
        """Bring what others wrote into the object, in place, except where `kept` has changes of its own."""
        if header.log_version > self.log_seen and not kept.touches_log:
            log = build_log(document.log, document.variables)
            shown: dict[str, Any] = {"execution_log": ExecutionLog(log)}
            if self.metadata.replay_index >= len(self.saved):  # a run in the middle of its replay stays where it is
                shown["replay_index"] = document.replay_index
            known = {"saved": list(log), "replay_index": document.replay_index}
            at_once((vars(self.metadata).update, shown), (vars(self).update, known))
        self.variables, self.swept = set(document.variables), header.swept
        self.catch_up_but_log(header, document, kept)
        if not kept.touches_log:
            self.log_seen = max(self.log_seen, header.version)

    def catch_up_but_log(self, header: Header, document: Document, kept: Delta) -> None:
        """As `catch_up`, for a run that was superseded: it has to find that out when it saves its log."""
        state = _differing(kept.changes.state, document.state)
        lua_state = _differing(kept.changes.lua_state, document.lua_state)
        _catch_up(self.metadata.state, document.state, self.state, state)
        _catch_up(self.metadata.lua_state, document.lua_state, self.lua_state, lua_state)
        if kept.changes.extras is None and document.extras is not None:
            extras, digest = decode(document.extras), value_digest(document.extras)
            at_once((setitem, vars(self.metadata), ASYNC_PROCEDURES, extras), (setattr, self, "extras", digest))
        if kept.changes.status is None and document.status is not None:
            self.note_status(document.status, document.waiting_on_message_id)
        elif kept.changes.status is None:
            self.status = (self.metadata.status, self.metadata.waiting_on_message_id)
        if not (state or lua_state):  # else it shows something else than what is stored
            self.version = header.version

    # --- to the store -------------------------------------------------------------------------------------

    def delta(self) -> Delta:
        """What has to be written. Raises ValueNotSerializable and InvalidArgument; the object and what is known of it
        stay as they are."""
        metadata = self.metadata
        checks.shape(metadata)
        state, state_changes = _compare("state", metadata.state, self.state)
        lua_state, lua_changes = _compare("lua_state", metadata.lua_state, self.lua_state)
        handles = metadata.__dict__.get(ASYNC_PROCEDURES) or None
        encoded = None if handles is None else _encode(handles, ASYNC_PROCEDURES)
        extras = None if encoded is None else value_digest(encoded)
        known = {id(metadata.state[key]): mark.digest for key, mark in state.items()}
        variables: dict[str, Encoded] = {}
        entries: dict[int, EntryRecord] = {}

        def references(captured: Mapping[Any, Any]) -> dict[str, str]:
            return capture(captured, known, self.variables, variables)

        changed = self._changed_positions()
        # What was stored may have moved since; what is new is where it says.
        stored = set(map(id, self.saved)) if changed and changed[0] < len(self.saved) else ()
        for position in changed:
            entry = metadata.execution_log[position]
            entries[position] = encode_entry(entry, references, None if id(entry) in stored else position)
        length = len(metadata.execution_log)
        shown = (metadata.status, metadata.waiting_on_message_id)
        if shown != self.status:
            shown = (
                checks.status(shown[0], "metadata.status"),
                checks.waiting_on_message_id(shown[1], "metadata.waiting_on_message_id"),
            )
        changes = Changes(
            entries=entries,
            log_length=length if length < len(self.saved) else None,
            replay_index=metadata.replay_index if metadata.replay_index != self.replay_index else None,
            state=state_changes,
            lua_state=lua_changes,
            variables=variables,
            status=shown if shown != self.status and self._status_was_set() else None,
            extras=None if extras == self.extras else (encoded,),
        )
        return Delta(changes, state, lua_state, extras)

    def _status_was_set(self) -> bool:
        """An object that its caller built says RUNNING by default: what was never set is no change."""
        return self.status is not None or "status" in getattr(self.metadata, "model_fields_set", {"status"})

    def _changed_positions(self) -> list[int]:
        log, saved = self.metadata.execution_log, self.saved
        if isinstance(log, ExecutionLog) and not log.shuffled:
            candidates: Iterable[int] = [*sorted(log.replaced), *range(len(saved), len(log))]
        else:
            candidates = range(len(log))
        return [position for position in candidates if position >= len(saved) or log[position] is not saved[position]]

    def acknowledge(self, delta: Delta, header: Header, *shows: Call) -> None:
        """`delta` is stored, as `header` says; `shows` is what the object does not show of it yet."""
        metadata = self.metadata
        log, written, end = metadata.execution_log, delta.changes.entries, len(self.saved)
        for position, record in written.items():
            if "lupa" in sys.modules and holds_lua(log[position].result):
                # A table belongs to one Lua runtime: from here on the entry holds what a restart would give.
                log[position].result = decode(Encoded(record.result, record.notes))
        without_lua(metadata.state)
        without_lua(metadata.lua_state)
        saved: list[Call] = [(setitem, self.saved, at, log[at]) for at in written if at < end]
        saved.append((self.saved.extend, [log[at] for at in written if at >= end]))
        saved.append((delitem, self.saved, slice(len(log), None)))
        held: Any = metadata if header.status is None else header
        shown = _shown(held.status, held.waiting_on_message_id)
        if not isinstance(log, ExecutionLog):
            log = shown["execution_log"] = ExecutionLog(log)
        known = {
            "state": delta.state,
            "lua_state": delta.lua_state,
            "extras": delta.extras,
            "replay_index": metadata.replay_index,
            "status": (held.status, held.waiting_on_message_id),
            "log_seen": header.version if header.log_length == len(log) else self.log_seen,
            "version": header.version,
            "swept": header.swept,
        }
        if header.swept != self.swept:
            self.variables = set()  # rows were freed: what is still stored is not known any more
        saved.append((self.variables.update, delta.changes.variables))
        at_once(
            *shows,
            *saved,
            (vars(log).update, log.as_stored()),
            (vars(metadata).update, shown),
            (vars(self).update, known),
        )

    def rebase(self, document: Document) -> bool:
        """Compare three ways with a stored log that others changed: False when this object's run must not go on.

        That is when entries that it already went past were removed or replaced, or when both logs went on,
        differently. Afterwards `delta` finds only what the stored log does not have yet.
        """
        log = self.metadata.execution_log
        mine, seen = (log_digests([encode_entry(entry) for entry in one]) for one in (log, self.saved))
        stored = log_digests(document.log)
        if stored == seen:
            return True
        if stored == mine:  # stored all the same: by a call that an interrupt ended, or by another process
            self.saved = list(log)
            return True
        replayed = min(self.metadata.replay_index, len(seen))
        common = min(len(mine), len(stored))
        if stored[:replayed] != seen[:replayed]:
            return False
        if mine != seen:
            if mine[:common] != stored[:common] or common < len(seen):
                return False
            self.saved = log[:common]
            if isinstance(log, ExecutionLog):
                log.shuffled = True  # what it knows of replaced entries is about another stored log
        return True

    @property
    def has_unsaved_entries(self) -> bool:
        """Whether the log has entries that were never stored."""
        return len(self.metadata.execution_log) != len(self.saved) or bool(self._changed_positions())

    def own_log(self) -> Document:
        """The log as the object has it, whether stored or not."""
        variables: Variables = {}

        def references(captured: Mapping[Any, Any]) -> dict[str, str]:
            return capture(captured, {}, (), variables)

        return Document(
            log=[encode_entry(entry, references) for entry in self.metadata.execution_log], variables=variables
        )

    def overridden(
        self, document: Document, delta: Delta
    ) -> Iterator[tuple[PartName, str, Encoded | None, Encoded | None]]:
        """Keys that `delta` writes and others changed since the object saw them: part, key text, mine, theirs."""
        parts: tuple[tuple[PartName, Marks, dict[str, Encoded | None], Part], ...] = (
            ("state", self.state, delta.changes.state, document.state),
            ("lua_state", self.lua_state, delta.changes.lua_state, document.lua_state),
        )
        for part, marks, changes, stored in parts:
            known = {mark.text: mark.digest for mark in marks.values()}
            for text, mine in changes.items():
                theirs = stored.get(text)
                found = None if theirs is None else value_digest(theirs)
                if found not in (known.get(text), None if mine is None else value_digest(mine)):
                    yield part, text, mine, theirs

    def note_status(self, status: str, waiting_on_message_id: str | None) -> None:
        """The status was stored: show it in the object."""
        known, shown = (status, waiting_on_message_id), _shown(status, waiting_on_message_id)
        was_set: set[str] = getattr(self.metadata, "model_fields_set", set())
        at_once((vars(self.metadata).update, shown), (was_set.update, shown), (setattr, self, "status", known))

    def note_state(self, key: Any, value: Any, encoded: Encoded | None) -> None:
        """One key of the state was stored, or deleted: show it in the object."""
        state = self.metadata.state
        if encoded is None:
            at_once((state.pop, key, None), (self.state.pop, key, None))
            return
        kept = decode(encoded) if "lupa" in sys.modules and holds_lua(value) else value
        mark = Mark(key_text(key), value_digest(encoded), fingerprint(kept))
        at_once((setitem, state, key, kept), (setitem, self.state, key, mark))

    def position_of(self, name: str) -> int | None:
        """The position of the entry with that name, or with that key in the envelope."""
        for position, entry in enumerate(self.metadata.execution_log):
            own = entry.name if isinstance(entry, NamedCheckpoint) else f"{position:06}:{entry.type}"
            if own == name:
                return position
        return None


def without_lua(values: dict[Any, Any]) -> None:
    """Replace Lua tables among `values` by what the store gives back for them."""
    if "lupa" in sys.modules:
        for key, value in values.items():
            if holds_lua(value):
                values[key] = decode(encode(value))


def _encode(value: Any, where: str) -> Encoded:
    try:
        return encode(value)
    except ValueNotSerializable as error:
        raise error.inside(where) from None


def _compare(part: str, values: dict[Any, Any], marks: Marks) -> tuple[Marks, dict[str, Encoded | None]]:
    """The marks of `values`, and what has to be written for them."""
    found: Marks = {}
    changes: dict[str, Encoded | None] = {}
    for key, value in values.items():
        mark = marks.get(key)
        print_ = fingerprint(value)
        if mark is not None and print_ is not None and print_ == mark.fingerprint:
            found[key] = mark
            continue
        if mark is None:
            checks.state_key(key, f"a key of {part}")
        encoded = _encode(value, f"{part} key {key!r}")
        digest = value_digest(encoded)
        text = mark.text if mark is not None else key_text(key)
        found[key] = Mark(text, digest, print_)
        if mark is None or mark.digest != digest:
            changes[text] = encoded
    if len(found) != len(marks) or any(key not in found for key in marks):
        changes.update((mark.text, None) for key, mark in marks.items() if key not in found)
    return found, changes


def _differing(changes: dict[str, Encoded | None], stored: Part) -> dict[str, Encoded | None]:
    """Those of the unsaved changes that the store has not got in the meantime, from whoever."""
    return {
        text: mine
        for text, mine in changes.items()
        if (None if mine is None else value_digest(mine)) != (value_digest(stored[text]) if text in stored else None)
    }


def _catch_up(values: dict[Any, Any], stored: Part, marks: Marks, kept: dict[str, Encoded | None]) -> None:
    """Bring `stored` into `values`, in place, and into the marks of what they have seen, except for the keys in `kept`:
    whoever saves those has not seen what is stored, and `overridden` must find that."""
    texts = {mark.text: key for key, mark in marks.items()}
    for text, encoded in stored.items():
        if text in kept:
            continue
        key = texts[text] if text in texts else key_value(text)
        digest, mark = value_digest(encoded), marks.get(key)
        if mark is None or mark.digest != digest:
            value = decode(encoded)
            at_once((setitem, values, key, value), (setitem, marks, key, Mark(text, digest, fingerprint(value))))
    for text, key in texts.items():
        if text not in stored and text not in kept:
            at_once((values.pop, key, None), (marks.pop, key, None))


def _shown(status: str, waiting_on_message_id: str | None) -> dict[str, Any]:
    return {"status": status, "waiting_on_message_id": waiting_on_message_id}
