"""Edits: the changes that a call makes to a document, as opposed to those that its holder made in the object."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import key_text, value_digest
from plexus_tactus_cache.document.encoding import holds_lua
from plexus_tactus_cache.document.entries import encode_entry
from plexus_tactus_cache.document.models import NamedCheckpoint
from plexus_tactus_cache.document.plain import Encoded, fingerprint
from plexus_tactus_cache.store.at_once import Call
from plexus_tactus_cache.store.live_object import Delta, LiveDocument, Mark


@dataclass(frozen=True)
class ReplaceState:
    """The whole state is another one: by key, each value and how it is stored."""

    removes: ClassVar[bool] = True

    values: dict[Any, tuple[Any, Encoded]]

    def extend(self, live: LiveDocument, delta: Delta) -> Delta:
        marks = {key: self._mark(key, *value) for key, value in self.values.items()}
        before = {mark.text: mark.digest for mark in live.state.values()}
        changes: dict[str, Encoded | None] = {
            mark.text: self.values[key][1] for key, mark in marks.items() if before.get(mark.text) != mark.digest
        }
        kept = {mark.text for mark in marks.values()}
        changes |= {text: None for text in before if text not in kept}
        return replace(delta, state=marks, changes=replace(delta.changes, state=changes))

    def show(self, live: LiveDocument) -> list[Call]:
        state = live.metadata.state
        return [(state.clear,), (state.update, {key: _shown(*value) for key, value in self.values.items()})]

    @staticmethod
    def _mark(key: Any, value: Any, encoded: Encoded) -> Mark:
        return Mark(key_text(key), value_digest(encoded), fingerprint(_shown(value, encoded)))


def _shown(value: Any, encoded: Encoded) -> Any:
    """A table belongs to one Lua runtime: it is shown as a restart would show it."""
    return decode(encoded) if "lupa" in sys.modules and holds_lua(value) else value


class PutCheckpoint:
    """An entry by name: at the end of the log, or in place of the one of that name."""

    removes: ClassVar[bool] = False

    def __init__(self, name: str, make: Callable[[int], NamedCheckpoint]) -> None:
        self._name = name
        self._make = make
        self._entry: NamedCheckpoint | None = None

    def extend(self, live: LiveDocument, delta: Delta) -> Delta:
        position = live.position_of(self._name)
        length = len(live.metadata.execution_log)
        entry = self._entry = self._make(length if position is None else position)
        entries = {**delta.changes.entries, entry.position: encode_entry(entry)}
        return replace(delta, changes=replace(delta.changes, entries=entries))

    def show(self, live: LiveDocument) -> list[Call]:
        log, entry = live.metadata.execution_log, self._entry
        if entry is not None:
            log[entry.position : entry.position + 1] = [entry]
        return []


class CutLog:
    """The entries from a position on are forgotten; `find` says from which, None: none are."""

    removes: ClassVar[bool] = True

    def __init__(self, find: Callable[[LiveDocument], int | None]) -> None:
        self._find = find
        self._position: int | None = None

    def extend(self, live: LiveDocument, delta: Delta) -> Delta:
        position = self._position = self._find(live)
        if position is None:
            return delta
        changes = replace(
            delta.changes,
            entries={at: entry for at, entry in delta.changes.entries.items() if at < position},
            log_length=position if position < len(live.saved) else None,
        )
        if position < live.metadata.replay_index:
            changes = replace(changes, replay_index=position)
        return replace(delta, changes=changes)

    def show(self, live: LiveDocument) -> list[Call]:
        position, metadata = self._position, live.metadata
        if position is not None:
            del metadata.execution_log[position:]
            metadata.replay_index = min(metadata.replay_index, position)
        return []
