"""What the store keeps of a document: encoded values (plain.py).

So it can go to the database, into an envelope and back without anybody decoding it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoding import encode
from plexus_tactus_cache.document.plain import Encoded, Notes, Plain, digest, dumps


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

    @property
    def adds(self) -> bool:
        """Whether there is more to be stored after it than an id or a number."""
        values = (*self.state.values(), *self.lua_state.values(), *(self.extras or ()))
        return bool(self.entries or self.variables) or any(value is not None for value in values)


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
