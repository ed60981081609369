"""Reading an envelope, whoever wrote it last; parts.py explains the JSON."""

from __future__ import annotations

from typing import Any

import orjson

from plexus_tactus_cache.document.encoded import Document, EntryRecord, Part, Variables, key_text, value_digest
from plexus_tactus_cache.document.plain import Encoded, Notes, canonical, digest
from plexus_tactus_cache.envelope.parts import (
    BOOK,
    BOOKKEEPING,
    FORMAT,
    LOG,
    OWNED,
    PARTS,
    POINTER,
    POSITIONAL,
    RANGES,
    Envelope,
    entry_digest,
    entry_keys,
    lineage_of,
    push_id_of,
    utc,
)


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
        push_id=push_id_of(metadata),
        lineage=lineage_of(metadata),
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
    positional = POSITIONAL.fullmatch(key)
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
