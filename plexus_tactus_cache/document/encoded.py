"""Records: what the store keeps of a document, and their way from and to live objects.

A record holds encoded values (plain.py), so it can go to the database, into an envelope and back without
anybody decoding it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoding import encode, encode_leniently, encode_result
from plexus_tactus_cache.document.models import CheckpointEntry, NamedCheckpoint, SourceLocation
from plexus_tactus_cache.document.plain import Encoded, Notes, Plain, digest, dumps
from plexus_tactus_cache.errors import ValueNotSerializable


class EntryRecord(NamedTuple):
    """One entry of the execution log. As a row it is a JSON list, which loads faster than an object."""

    position: int
    type: str
    result: Plain
    notes: Notes
    timestamp: str  # ISO 8601, as it was
    duration_ms: float | None = None
    input_hash: str | None = None
    run_id: str | None = None
    source_location: list[Any] | None = None  # file, line, function, code_context
    captured: dict[str, str] | None = None  # name of the variable -> digest of its value
    name: str | None = None  # given by checkpoint_save

    def to_bytes(self) -> bytes:
        return orjson.dumps([*self])

    @staticmethod
    def from_bytes(payload: bytes) -> EntryRecord:
        return EntryRecord._make(orjson.loads(payload))


Variables = dict[str, Encoded]  # digest -> value of a captured variable, once per distinct value
Part = dict[str, Encoded]  # key text (see `key_text`) -> value


@dataclass(frozen=True)
class Document:
    """All that is kept of one procedure, at one version."""

    log: list[EntryRecord] = field(default_factory=list)
    replay_index: int = 0
    state: Part = field(default_factory=dict)
    lua_state: Part = field(default_factory=dict)
    status: str | None = None  # None: never set here nor in Plexus
    waiting_on_message_id: str | None = None
    extras: Encoded | None = None  # async_procedures
    variables: Variables = field(default_factory=dict)

    @property
    def runs(self) -> tuple[str, ...]:
        """The run ids in the log, sorted."""
        return tuple(sorted({entry.run_id for entry in self.log if entry.run_id is not None}))

    @property
    def status_unit(self) -> tuple[str | None, str | None]:
        """The status, with the message that it waits for: they change together."""
        return self.status, self.waiting_on_message_id


@dataclass(frozen=True)
class Changes:
    """What one write changes; a value of None in `state` or `lua_state` deletes the key."""

    entries: dict[int, EntryRecord] = field(default_factory=dict)
    log_length: int | None = None  # cut the log there
    replay_index: int | None = None
    state: dict[str, Encoded | None] = field(default_factory=dict)
    lua_state: dict[str, Encoded | None] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    status: tuple[str, str | None] | None = None
    extras: tuple[Encoded | None] | None = None

    def __bool__(self) -> bool:
        return self != _NO_CHANGES


_NO_CHANGES = Changes()


def value_digest(value: Encoded) -> str:
    """Tells exact values apart, `1` from `1.0` too."""
    return digest(list(value)) if value.notes else digest(value.plain)


def pack(value: Encoded) -> bytes:
    """A value as a row."""
    return orjson.dumps([*value])


def unpack(payload: bytes) -> Encoded:
    """The value in a row."""
    return Encoded(*orjson.loads(payload))


def key_text(key: Any) -> str:
    """A top-level key of state as text: JSON, so that `1` and `"1"` differ; sorts well enough."""
    encoded = encode(key)
    return dumps(list(encoded) if encoded.notes else encoded.plain).decode()


def key_value(text: str) -> Any:
    """The key that `key_text` wrote."""
    loaded = orjson.loads(text)
    return decode(Encoded(*loaded)) if isinstance(loaded, list) else loaded


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
