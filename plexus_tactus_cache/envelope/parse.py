"""The envelope: a document as the JSON in `Procedure.metadata`, and back.

The known keys stay as Plexus's own adapter, dashboard, reset and clone tools write and read them (plexus-facts.md §6);
what they do not know of is under one key of ours, `cache`:

    {"format": 1, "push_id": ..., "digests": {part: digest},
     "book": {"extras": [plain, notes],
              "checkpoints": {"notes": {key: notes}, "variables": [[plain, notes], ...],
                              "positions": {given name: position}},
              "state": {"notes": {key: notes}, "keys": {plain key: key text}}, "lua_state": ...}}

A long log is kept in segments (segments.py); then `cache` has `log`, see layout.py.

A part that no longer matches its digest was written by someone else: then the part wins and its notes are void.
All other keys are *foreign*: kept, never invented.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from plexus_tactus_cache.document.encoded import Document, EntryRecord, Part, Variables, key_text, value_digest
from plexus_tactus_cache.document.plain import Encoded, Notes, canonical, digest

FORMAT = 1
BOOKKEEPING, BOOK = "cache", "book"
LOG, RANGES = "log", "ranges"
PARTS = ("checkpoints", "state", "lua_state")
OWNED = frozenset({*PARTS, "replay_index", BOOKKEEPING})
POINTER = "_s3_key"
_POSITIONAL = re.compile(r"(\d{6,}):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Envelope:
    """What was found in a record's metadata."""

    document: Document = field(default_factory=Document)  # status is not part of the envelope
    foreign: dict[str, Any] = field(default_factory=dict)
    push_id: str | None = None
    problem: str | None = None  # why it cannot be used; the rest is empty then
    beyond: dict[str, EntryRecord] = field(default_factory=dict)  # behind a gap in the log, by `entry_digest`
    absent: bool = False  # the record has no metadata at all
    replay_index: int = 0  # as it was found: of a log that was not fetched


# --- writing ----------------------------------------------------------------------------------------------


def build(document: Document, foreign: dict[str, Any], push_id: str) -> dict[str, Any]:
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


def entry_keys(log: list[EntryRecord]) -> list[str]:
    """The key of each entry: position and type, or the given name, with a suffix where that would be ambiguous."""
    keys: list[str] = []
    taken: set[str] = set()
    for position, entry in enumerate(log):
        key = f"{position:06}:{entry.type}" if entry.name is None else entry.name
        while key in taken or (entry.name is not None and _POSITIONAL.fullmatch(key)):
            key += "~"
            if _POSITIONAL.fullmatch(key):  # a suffix alone does not make it look different from ours
                key = f"name:{key}"
        taken.add(key)
        keys.append(key)
    return keys


def entry_digest(key: str, entry: EntryRecord) -> str:
    """What makes an entry the same one here and in Plexus: its key, its run and its result."""
    return digest([key, entry.run_id, entry.result])


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


def utc(timestamp: str) -> str:
    """An ISO 8601 time in UTC with microseconds: Plexus's reset compares these strings. Naive times are UTC."""
    moment = dt.datetime.fromisoformat(timestamp)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return moment.isoformat(timespec="microseconds")


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


# --- reading ----------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """The metadata cannot be read as an envelope; the message says why."""


def parse(metadata: Any) -> Envelope:
    """What a record's `metadata` says: AWSJSON text, or already an object. Never raises: see `problem`."""
    if metadata is None:
        return Envelope(absent=True)
    try:
        return _parse(metadata)
    except _UnusableError as error:
        return Envelope(problem=str(error))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        # Whatever else is wrong with what another writer left: it is kept as it is, and a person told.
        return Envelope(problem=f"the metadata in Plexus cannot be understood ({type(error).__name__})")


def _parse(metadata: Any) -> Envelope:
    if isinstance(metadata, (str, bytes)):
        try:
            metadata = orjson.loads(metadata)
        except orjson.JSONDecodeError as error:
            raise _UnusableError("the metadata in Plexus is not JSON") from error
    if not isinstance(metadata, dict):
        raise _UnusableError("the metadata in Plexus is not a JSON object")
    metadata = canonical(metadata)
    for name in PARTS:
        part = metadata.get(name)
        if part is not None and not isinstance(part, dict):
            raise _UnusableError(f"{name} in Plexus is not an object")
        if part is not None and isinstance(part.get(POINTER), str):
            raise _UnusableError(f"{name} is kept in S3 ({part[POINTER]}), and there is no access to S3 here")
    bookkeeping = metadata.get(BOOKKEEPING)
    if not isinstance(bookkeeping, dict):
        bookkeeping = {"digests": {}, BOOK: {}}
    elif bookkeeping.get("format") != FORMAT:
        raise _UnusableError(
            f"another version of this package wrote the record, in format {bookkeeping.get('format')!r}"
        )
    book = bookkeeping[BOOK]
    if isinstance(book.get(POINTER), str):
        raise _UnusableError(f"the bookkeeping is kept in S3 ({book[POINTER]}), and there is no access to S3 here")
    # A part that does not match its digest was written by someone else: then what we noted of it is void.
    ours = {name: bookkeeping["digests"].get(name) == digest(metadata.get(name) or {}) for name in PARTS}
    manifest = bookkeeping.get(LOG)
    if isinstance(manifest, dict) and RANGES in manifest:  # a long log, fetched
        ranges = manifest[RANGES]
    else:
        log_book = book.get("checkpoints", {})
        ranges = [{**log_book, "checkpoints": metadata.get("checkpoints") or {}}]
        if not ours["checkpoints"]:
            ranges[0]["notes"] = {}
    log, beyond, variables = _read_log(ranges)
    replay_index = metadata.get("replay_index")
    if not isinstance(replay_index, int):
        replay_index = 0
    document = Document(
        log=log,
        replay_index=min(replay_index, len(log)),  # a reset empties the log and leaves the index
        state=_read_part(metadata.get("state") or {}, book.get("state", {}) if ours["state"] else {}),
        lua_state=_read_part(metadata.get("lua_state") or {}, book.get("lua_state", {}) if ours["lua_state"] else {}),
        extras=Encoded(*book["extras"]) if "extras" in book else None,
        variables=variables,
    )
    return Envelope(
        document=document,
        foreign={key: value for key, value in metadata.items() if key not in OWNED},
        push_id=bookkeeping.get("push_id"),
        beyond=beyond,
        replay_index=replay_index,
    )


def _read_part(part: dict[str, Any], book: dict[str, Any]) -> Part:
    notes, keys = book.get("notes", {}), book.get("keys", {})
    return {keys.get(name) or key_text(name): Encoded(plain, notes.get(name, {})) for name, plain in part.items()}


def _read_log(
    ranges: list[dict[str, Any]],
) -> tuple[list[EntryRecord], dict[str, EntryRecord], Variables]:
    """The log up to the first gap, the entries behind it, and the variables of the log.

    `ranges`: as `write_log` made them, or what is left of that.
    """
    found = []
    stored: Variables = {}
    for one in ranges:
        notes: dict[str, Notes] = one.get("notes", {})
        positions: dict[str, int] = one.get("positions", {})  # they hold for an entry that another writer rewrote, too
        values = [Encoded(*value) for value in one.get("variables", ())]
        references = [value_digest(value) for value in values]
        stored.update(zip(references, values, strict=True))
        for key, value in one["checkpoints"].items():
            if not isinstance(value, dict):
                raise _UnusableError(f"checkpoint {key!r} in Plexus is not an object")
            position, entry = _read_entry(key, value, notes.get(key, {}), references)
            position = positions.get(key) if position is None else position
            found.append((position is None, position or 0, utc(entry.timestamp), key, entry))
    found.sort(key=lambda one: one[:3])  # those that another writer added know no positions and come last
    log: list[EntryRecord] = []
    beyond: dict[str, EntryRecord] = {}
    for unplaced, position, _, key, entry in found:
        if (unplaced or position == len(log)) and not beyond:
            log.append(entry._replace(position=len(log)))
        else:
            beyond[entry_digest(key, entry)] = entry
    used = {reference for entry in (*log, *beyond.values()) for reference in (entry.captured or {}).values()}
    return log, beyond, {reference: value for reference, value in stored.items() if reference in used}


def same_entries(checkpoints: dict[str, Any], ranges: list[dict[str, Any]], count: int) -> bool:
    """Whether `checkpoints`, rewritten by someone else, still has the first `count` entries of the log in `ranges`."""
    try:
        theirs, beyond, _ = _read_log([{"checkpoints": checkpoints}])
        ours, _, _ = _read_log(ranges)
    except _UnusableError:
        return False
    keys = entry_keys(ours)[:count]
    marks = [entry_digest(key, entry) for key, entry in zip(keys, ours, strict=False)]
    return not beyond and marks == [entry_digest(*one) for one in zip(entry_keys(theirs), theirs, strict=True)]


def _read_entry(key: str, value: dict[str, Any], notes: Notes, references: list[str]) -> tuple[int | None, EntryRecord]:
    """The record and its position, None where the writer gave none."""
    positional = _POSITIONAL.fullmatch(key)
    position = value.get("position")
    if position is None and positional:
        position = int(positional[1])
    kind = value.get("type") or (positional[2] if positional else "checkpoint")
    captured = value.get("captured_vars")
    duration = value.get("duration_ms")
    return position, EntryRecord(
        position=position or 0,
        type=kind,
        result=value.get("result"),
        notes=notes,
        timestamp=value.get("timestamp") or utc(value.get("completed_at") or "1970-01-01T00:00:00+00:00"),
        duration_ms=None if duration is None else float(duration),
        input_hash=value.get("input_hash"),
        run_id=value.get("run_id"),
        source_location=value.get("source_location"),
        captured=None
        if captured is None
        else {
            name: references[number]
            for name, number in captured.items()
            if isinstance(number, int) and 0 <= number < len(references)
        },
        name=value.get("checkpoint_name", None if positional else key),
    )
