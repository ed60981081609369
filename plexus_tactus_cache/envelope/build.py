"""Writing an envelope: the JSON that carries a document; parts.py explains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from plexus_tactus_cache.document.encoded import Document, EntryRecord, Part
from plexus_tactus_cache.document.plain import digest
from plexus_tactus_cache.envelope.parts import BOOK, BOOKKEEPING, FORMAT, LINEAGE, entry_keys, utc


def build(document: Document, foreign: dict[str, Any], push_id: str, lineage: Mapping[str, int]) -> dict[str, Any]:
    """The metadata that carries `document` together with other writers' keys."""
    log = write_log(document, 0, len(document.log))
    state, state_book = _write_part(document.state)
    lua_state, lua_book = _write_part(document.lua_state)
    parts = {"checkpoints": log.pop("checkpoints"), "state": state, "lua_state": lua_state}
    book: dict[str, Any] = {"checkpoints": log, "state": state_book, "lua_state": lua_book}
    if document.extras is not None:
        book["extras"] = list(document.extras)
    bookkeeping = {
        "format": FORMAT,
        "push_id": push_id,
        LINEAGE: list(lineage.items()),
        "digests": {name: digest(part) for name, part in parts.items()},
        BOOK: book,
    }
    return {**foreign, **parts, "replay_index": document.replay_index, BOOKKEEPING: bookkeeping}


def write_log(document: Document, start: int, end: int) -> dict[str, Any]:
    """Some entries of the log, with all that is needed to read them again: `checkpoints` and their bookkeeping."""
    keys = entry_keys(document.log)[start:end]
    entries = document.log[start:end]
    used = dict.fromkeys(reference for entry in entries for reference in (entry.captured or {}).values())
    stored = [reference for reference in used if reference in document.variables]
    numbers = {reference: number for number, reference in enumerate(stored)}
    return {
        "checkpoints": {
            key: _write_entry(key, position, entry, numbers)
            for position, (key, entry) in enumerate(zip(keys, entries, strict=True), start)
        },
        "notes": {key: entry.notes for key, entry in zip(keys, entries, strict=True) if entry.notes},
        "variables": [list(document.variables[reference]) for reference in stored],
        "positions": {
            key: position
            for position, (key, entry) in enumerate(zip(keys, entries, strict=True), start)
            if entry.name is not None
        },
    }


def _write_entry(key: str, position: int, entry: EntryRecord, numbers: dict[str, int]) -> dict[str, Any]:
    completed_at = utc(entry.timestamp)
    written: dict[str, Any] = {"name": key, "result": entry.result, "completed_at": completed_at}
    optional = {
        "run_id": entry.run_id,
        "position": position,  # in the log; the entry's own may be from before it moved
        "type": entry.type,
        "timestamp": entry.timestamp if entry.timestamp != completed_at else None,
        "duration_ms": entry.duration_ms,
        "input_hash": entry.input_hash,
        "source_location": entry.source_location,
        "checkpoint_name": entry.name,
        "captured_vars": None
        if entry.captured is None
        else {name: numbers[reference] for name, reference in entry.captured.items() if reference in numbers},
    }
    written.update((name, value) for name, value in optional.items() if value is not None)
    if isinstance(entry.duration_ms, float) and entry.duration_ms.is_integer():
        written["duration_ms"] = int(entry.duration_ms)  # as AppSync will return it: the digest is over that form
    return written


def _write_part(part: Part) -> tuple[dict[str, Any], dict[str, Any]]:
    """A part and its bookkeeping. Keys that are not text get a plain name; `keys` says what they are."""
    names: dict[str, str] = {}
    texts = [text for text in part if text.startswith('"')]
    for text in texts:
        names[text] = orjson.loads(text)
    taken = set(names.values())
    keys: dict[str, str] = {}
    for text in part:
        if text not in names:
            name = text
            while name in taken:
                name += "~"
            taken.add(name)
            names[text] = name
            keys[name] = text
    plain = {names[text]: value.plain for text, value in part.items()}
    book: dict[str, Any] = {
        "notes": {names[text]: value.notes for text, value in part.items() if value.notes},
    }
    if keys:
        book["keys"] = keys
    return plain, book
