"""The envelope: a document as the JSON in `Procedure.metadata`, and back.

The known keys stay as Plexus's own adapter, dashboard, reset and clone tools write and read them (plexus-facts.md §6);
what they do not know of is under one key of ours, `cache`:

    {"format": 1, "push_id": ..., "lineage": [[store, version], ...], "digests": {part: digest},
     "book": {"extras": [plain, notes],
              "checkpoints": {"notes": {key: notes}, "variables": [[plain, notes], ...],
                              "positions": {given name: position}},
              "state": {"notes": {key: notes}, "keys": {plain key: key text}}, "lua_state": ...}}

A long log is kept in segments (segments.py); then `cache` has `log`, see placement.py.

A part that no longer matches its digest was written by someone else: then the part wins and its notes are void.
All other keys are *foreign*: kept, never invented.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plexus_tactus_cache.document.encoded import Document, EntryRecord
from plexus_tactus_cache.document.plain import digest

FORMAT = 1
BOOKKEEPING, BOOK, LINEAGE = "cache", "book", "lineage"
LOG, RANGES = "log", "ranges"
PARTS = ("checkpoints", "state", "lua_state")
OWNED = frozenset({*PARTS, "replay_index", BOOKKEEPING})
POINTER = "_s3_key"
POSITIONAL = re.compile(r"(\d{6,}):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Envelope:
    """What was found in a record's metadata."""

    document: Document = field(default_factory=Document)  # status is not part of the envelope
    foreign: dict[str, Any] = field(default_factory=dict)
    push_id: str | None = None
    lineage: dict[str, int] | None = None  # what it includes (lineage.py); None: it does not say
    problem: str | None = None  # why it cannot be used; the rest is empty then
    beyond: dict[str, EntryRecord] = field(default_factory=dict)  # behind a gap in the log, by `entry_digest`
    absent: bool = False  # the record has no metadata at all
    replay_index: int = 0  # as it was found: of a log that was not fetched


def entry_keys(log: list[EntryRecord]) -> list[str]:
    """The key of each entry: position and type, or the given name, with a suffix where that would be ambiguous."""
    keys: list[str] = []
    taken: set[str] = set()
    for position, entry in enumerate(log):
        key = f"{position:06}:{entry.type}" if entry.name is None else entry.name
        while key in taken or (entry.name is not None and POSITIONAL.fullmatch(key)):
            key += "~"
            if POSITIONAL.fullmatch(key):  # a suffix alone does not make it look different from ours
                key = f"name:{key}"
        taken.add(key)
        keys.append(key)
    return keys


def entry_digest(key: str, entry: EntryRecord) -> str:
    """What makes an entry the same one here and in Plexus: its key, its run and its result."""
    return digest([key, entry.run_id, entry.result])


def utc(timestamp: str) -> str:
    """An ISO 8601 time in UTC with microseconds: Plexus's reset compares these strings. Naive times are UTC."""
    moment = dt.datetime.fromisoformat(timestamp)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return moment.isoformat(timespec="microseconds")


def part_of(metadata: Mapping[str, Any], name: str) -> Any:
    """A part of the metadata; None where there is none."""
    if name != BOOK:
        return metadata.get(name)
    book = metadata.get(BOOKKEEPING)
    return book.get(BOOK) if isinstance(book, dict) else None


def with_parts(metadata: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with other values of some of its parts; RANGES are those of its log."""
    changed = {**metadata, **{name: part for name, part in parts.items() if name not in (BOOK, RANGES)}}
    if RANGES in parts:
        changed[BOOKKEEPING] = {**metadata[BOOKKEEPING], LOG: {RANGES: parts[RANGES]}}
    if BOOK in parts:
        changed[BOOKKEEPING] = {**changed[BOOKKEEPING], BOOK: parts[BOOK]}
    return changed


def lineage_of(metadata: Any) -> dict[str, int] | None:
    """What the metadata says that it includes; None where it does not say."""
    bookkeeping = metadata.get(BOOKKEEPING) if isinstance(metadata, dict) else None
    pairs = bookkeeping.get(LINEAGE) if isinstance(bookkeeping, dict) else None
    return None if pairs is None else {str(store): int(version) for store, version in pairs}


def push_id_of(metadata: Any) -> str | None:
    """The push that wrote the metadata, as far as it says so."""
    bookkeeping = metadata.get(BOOKKEEPING) if isinstance(metadata, dict) else None
    found = bookkeeping.get("push_id") if isinstance(bookkeeping, dict) else None
    return found if isinstance(found, str) else None


def pointers(metadata: Any) -> dict[str, str]:
    """The keys in S3 that parts of a document point to, by part. The dashboard's is not one: nobody reads it back."""
    if not isinstance(metadata, dict):
        return {}
    found = {name: part_of(metadata, name) for name in (*PARTS, BOOK)}
    return {
        name: part[POINTER]
        for name, part in found.items()
        if isinstance(part, dict) and isinstance(part.get(POINTER), str)
    }


def manifest_of(metadata: Any) -> dict[str, Any] | None:
    """What the bookkeeping says of a log in segments; None where there is none, or `checkpoints` is not in S3.

    Inline checkpoints are another writer's: a reset.
    """
    bookkeeping = metadata.get(BOOKKEEPING) if isinstance(metadata, dict) else None
    found = bookkeeping.get(LOG) if isinstance(bookkeeping, dict) else None
    return found if isinstance(found, dict) and "checkpoints" in pointers(metadata) else None
