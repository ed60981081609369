"""Values from JSON, exactly: plain.py says how. Nothing here does I/O."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import uuid
from collections.abc import Callable
from typing import Any

from plexus_tactus_cache.document.markers import LuaDict, LuaList, PythonDict, PythonList
from plexus_tactus_cache.document.plain import Encoded, Notes, Plain, UnknownModel, dumps, escape, find_model

# Tag of a note -> how its plain value is read. `_WRITE` in encoding.py is the other direction.
_READ: dict[str, Callable[[str], Any]] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda text: dt.timedelta(*map(int, text.split())),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "bytes": base64.b64decode,
    "bytearray": lambda text: bytearray(base64.b64decode(text)),
    "int": lambda text: int(text, 0),
}


def decode(encoded: Encoded) -> Any:
    """The exact value again; the caller may keep and change it. Never raises for what `encode` wrote."""
    plain, notes = encoded
    if notes == _ONE_TABLE:  # the usual result; a long log has thousands
        return LuaDict(plain) if isinstance(plain, dict) else LuaList(plain)
    return _decode(plain, notes, "") if notes else plain


def _decode(plain: Plain, notes: Notes, path: str) -> Any:
    note = notes.get(path)
    tag = note[0] if note else None
    if tag in _READ:
        return _READ[tag](plain)
    if tag == "float":
        return float(note[1] if note and len(note) > 1 else plain)
    if tag == "surrogates" and note:
        return base64.b64decode(note[1]).decode("utf-8", "surrogatepass")
    if isinstance(plain, dict):
        keys = notes.get(f"{path}#keys")
        exact = keys[1] if keys else {}
        value = {
            _key(exact[name]) if name in exact else name: _decode(item, notes, f"{path}/{escape(name)}")
            for name, item in plain.items()
        }
        if tag == "model" and note:
            return _model(note[1], note[2:], value)
        return _MAPPINGS[tag](value) if tag else value
    if isinstance(plain, list):
        items = [_decode(item, notes, f"{path}/{index}") for index, item in enumerate(plain)]
        try:
            return _SEQUENCES[tag](items) if tag else items
        except TypeError:  # a set one of whose items was only described (`encode_leniently`)
            return items
    return plain


def _key(encoded: list[Any]) -> Any:
    """A key that is not text; one that was described only (`encode_leniently`) comes back as its description."""
    key = decode(Encoded(*encoded))
    try:
        hash(key)
    except TypeError:
        return dumps(encoded[0]).decode()
    return key


_ONE_TABLE: Notes = {"": ["lua"]}
_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {"lua": LuaDict, "python": PythonDict}
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "lua": LuaList,
    "python": PythonList,
}


def _model(name: str, rest: list[Any], fields: dict[str, Any]) -> Any:
    """The model as it was: no validator and no hook runs, as they ran when it was made."""
    found = find_model(name)
    if found is None:
        return UnknownModel(fields, name, rest)
    unset, *private = rest
    declared = found.model_fields
    extra = {key: value for key, value in fields.items() if key not in declared}
    value = found.__new__(found)
    for slot, content in (
        ("__dict__", {key: value for key, value in fields.items() if key in declared}),
        ("__pydantic_fields_set__", set(fields).difference(unset)),
        ("__pydantic_extra__", extra if found.model_config.get("extra") == "allow" else None),
        (
            "__pydantic_private__",
            decode(Encoded(*private[0])) if private else {} if found.__private_attributes__ else None,
        ),
    ):
        object.__setattr__(value, slot, content)
    return value
