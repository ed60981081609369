"""Entries of the log, from live objects to encoded ones and back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Container, Mapping
from typing import Any

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoded import EntryRecord, Variables, value_digest
from plexus_tactus_cache.document.encoding import encode_leniently, encode_result
from plexus_tactus_cache.document.models import CheckpointEntry, NamedCheckpoint, SourceLocation
from plexus_tactus_cache.document.plain import Encoded, dumps
from plexus_tactus_cache.errors import InvalidArgument, ValueNotSerializable

References = Callable[[Mapping[Any, Any]], dict[str, str]]  # for captured_vars: name -> digest of the value


def encode_entry(entry: Any, references: References | None = None, place: int | None = None) -> EntryRecord:
    """The record of a CheckpointEntry, ours or Tactus's, that is at this place of the log; None: wherever it is.

    Without `references` it has no captured variables.

    Raises ValueNotSerializable for its result, InvalidArgument for anything else that is wrong with it.
    """
    try:
        checks.entry(entry, place)
        kind = checks.text(entry.type, "type")
        captured = checks.captured_vars(entry.captured_vars)
        result = _encode_result(entry)
        return EntryRecord(
            position=int(entry.position),
            type=kind,
            result=result.plain,
            notes=result.notes,
            timestamp=checks.timestamp(entry.timestamp),
            duration_ms=checks.duration(entry.duration_ms),
            input_hash=checks.optional_text(entry.input_hash, "input_hash"),
            run_id=checks.optional_text(entry.run_id, "run_id"),
            source_location=checks.source_location(entry.source_location),
            captured=None if captured is None or references is None else references(captured),
            name=checks.text(entry.name, "name") if isinstance(entry, NamedCheckpoint) else None,
        )
    except InvalidArgument as error:
        raise error.inside("execution_log" if place is None else f"execution_log[{place}]") from None


def _encode_result(entry: Any) -> Encoded:
    try:
        return encode_result(entry.result)
    except ValueNotSerializable as error:
        raise error.inside(f"the result of checkpoint {entry.position} ({entry.type})") from None


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
        references[_variable_name(name)] = reference
    return references


def _variable_name(name: Any) -> str:
    """The name of a captured variable as text; described, like a value, where it cannot be stored."""
    try:
        return checks.text(name, "captured_vars")
    except InvalidArgument:
        encoded = encode_leniently(name)
        return dumps(list(encoded) if encoded.notes else encoded.plain).decode()


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
