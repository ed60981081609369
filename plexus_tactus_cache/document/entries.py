"""Entries of the log, from live objects to encoded ones and back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Mapping
from typing import Any

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import EntryRecord, Variables, key_text, value_digest
from plexus_tactus_cache.document.encoding import encode_leniently, encode_result
from plexus_tactus_cache.document.models import CheckpointEntry, NamedCheckpoint, SourceLocation
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.errors import ValueNotSerializable


def encode_entry(entry: Any, captured: Mapping[str, str] | None) -> EntryRecord:
    """The record of a CheckpointEntry, ours or Tactus's. Raises ValueNotSerializable for its result."""
    try:
        result = encode_result(entry.result)
    except ValueNotSerializable as error:
        raise error.inside(f"the result of checkpoint {entry.position} ({entry.type})") from None
    location = entry.source_location
    return EntryRecord(
        position=entry.position,
        type=entry.type,
        result=result.plain,
        notes=result.notes,
        timestamp=entry.timestamp.isoformat(),
        duration_ms=entry.duration_ms,
        input_hash=entry.input_hash,
        run_id=entry.run_id,
        source_location=None
        if location is None
        else [location.file, location.line, location.function, location.code_context],
        captured=None if captured is None else dict(captured),
        name=entry.name if isinstance(entry, NamedCheckpoint) else None,
    )


def capture(
    captured_vars: Mapping[Any, Any], known: Mapping[int, str], stored: Container[str], new: Variables
) -> dict[str, str]:
    """References to the values in `captured_vars`; those that are not `stored` yet are added to `new`.

    `known` maps the identity of values just digested (those of the state, usually the very same objects) to
    their digests. What cannot be stored is described instead: captured variables only serve debugging.
    """
    references: dict[str, str] = {}
    for name, value in captured_vars.items():
        reference = known.get(id(value))
        if reference is None or not (reference in stored or reference in new):
            encoded = encode_leniently(value)
            reference = value_digest(encoded)
            if reference not in stored:
                new[reference] = encoded
        references[name if isinstance(name, str) else key_text(name)] = reference
    return references


_MISSING = {"__not_stored__": "the captured value is not in the store"}
_ENTRY_FIELDS = frozenset(CheckpointEntry.model_fields)
_new, _set = CheckpointEntry.__new__, object.__setattr__


def build_log(records: list[EntryRecord], variables: Variables) -> list[CheckpointEntry]:
    """The entries of a log. Equal source locations and variables are shared, as in a running procedure.

    Entries are built past pydantic's constructor: loading 10,000 of them is the difference between a third and
    three quarters of a second. What is stored was validated when it was written.
    """
    values = {key: decode(value) for key, value in variables.items()}
    locations: dict[tuple[Any, ...], SourceLocation] = {}
    when = dt.datetime.fromisoformat
    log: list[CheckpointEntry] = []
    for position, kind, result, notes, timestamp, duration, input_hash, run_id, place, captured, name in records:
        fields = {
            "position": position,
            "type": kind,
            "result": decode(Encoded(result, notes)) if notes else result,
            "timestamp": when(timestamp),
            "duration_ms": duration,
            "input_hash": input_hash,
            "run_id": run_id,
            "source_location": None if place is None else _location(tuple(place), locations),
            "captured_vars": None
            if captured is None
            else {variable: values.get(reference, _MISSING) for variable, reference in captured.items()},
        }
        if name is not None:
            log.append(NamedCheckpoint.model_construct(name=name, **fields))
            continue
        entry = _new(CheckpointEntry)
        _set(entry, "__dict__", fields)
        _set(entry, "__pydantic_fields_set__", set(_ENTRY_FIELDS))
        _set(entry, "__pydantic_extra__", None)
        _set(entry, "__pydantic_private__", None)
        log.append(entry)
    return log


def _location(place: tuple[Any, ...], known: dict[tuple[Any, ...], SourceLocation]) -> SourceLocation:
    found = known.get(place)
    if found is None:
        file, line, function, code_context = place
        found = SourceLocation(file=file, line=line, function=function, code_context=code_context)
        known[place] = found
    return found
