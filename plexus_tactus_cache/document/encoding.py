"""Values to JSON, exactly: plain.py says how. Nothing here does I/O."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from plexus_tactus_cache.document.markers import TABLES
from plexus_tactus_cache.document.plain import (
    LARGEST_NUMBER,
    LONG_INTEGER,
    MAX_DEPTH,
    SAFE_INTEGER,
    SMALLEST_NUMBER,
    Encoded,
    Notes,
    Plain,
    UnknownModel,
    dumps,
    escape,
    find_model,
)
from plexus_tactus_cache.errors import ValueNotSerializable


def encode(value: Any) -> Encoded:
    """`value` as plain JSON and notes.

    Lua tables become dicts and lists. Raises ValueNotSerializable, naming the path, for anything that would
    not come back as it was.
    """
    return _Encoder(lenient=False).run(value)


def encode_result(value: Any) -> Encoded:
    """As `encode`, but with notes of what was a Lua table (markers.py): a replay makes it a table again."""
    return _Encoder(lenient=False, mark_tables=True).run(value)


def encode_leniently(value: Any, *, mark_tables: bool = False) -> Encoded:
    """As `encode`, but what cannot be stored becomes a marked description; for data that only serves debugging."""
    return _Encoder(lenient=True, mark_tables=mark_tables).run(value)


def is_lua_table(value: Any) -> bool:
    """Whether `value` is a table of a Lua runtime; looked up by name, so that lupa is not needed."""
    kind = type(value)
    return kind.__name__ == "_LuaTable" and kind.__module__.partition(".")[0] == "lupa"


def holds_lua(value: Any) -> bool:
    """Whether a Lua table is anywhere inside the containers and models of `value`."""
    if isinstance(value, dict):
        return any(map(holds_lua, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_lua, value))
    if isinstance(value, BaseModel):
        return holds_lua(value.__dict__)
    return is_lua_table(value)


def _iso(value: dt.date | dt.time) -> str:
    return value.isoformat()


# Exact type -> (tag, how it is written). `_READ` in decoding.py is the other direction.
_WRITE: dict[type, tuple[str, Callable[[Any], str]]] = {
    dt.datetime: ("datetime", _iso),
    dt.date: ("date", _iso),
    dt.time: ("time", _iso),
    dt.timedelta: ("timedelta", lambda value: f"{value.days} {value.seconds} {value.microseconds}"),
    decimal.Decimal: ("decimal", str),
    uuid.UUID: ("uuid", str),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
    bytearray: ("bytearray", lambda value: base64.b64encode(value).decode()),
}

_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int),
    (float, float),
)


class _Encoder:
    def __init__(self, *, lenient: bool, mark_tables: bool = False) -> None:
        self.lenient = lenient
        self.mark_tables = mark_tables  # those of a runtime; what is marked already stays marked
        self.in_table = False  # whether the container around the current value was a table
        self.marked = False  # and is a marked one, so that plain dicts and lists in it were tables too
        self.notes: Notes = {}
        self.around: set[object] = set()  # the containers around the current value, by identity

    def run(self, value: Any) -> Encoded:
        try:
            return Encoded(self.value(value, ""), self.notes)
        except RecursionError:
            raise ValueNotSerializable("", "it is nested too deeply for this call stack") from None

    def value(self, value: Any, path: str) -> Plain:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if value.isascii() else self.text(value, path)
        if kind is int:
            if -SAFE_INTEGER <= value <= SAFE_INTEGER:
                return value
            self.notes[path] = ["int"]
            return str(value) if value.bit_length() < LONG_INTEGER else hex(value)
        if kind is float:
            return self.number(value, path)
        if kind is dict:
            return self.container(value, path, self.mapping, table=self.marked, marked=self.marked)
        if kind is list:
            return self.container(value, path, self.items, table=self.marked, marked=self.marked)
        return self.special(value, kind, path)

    def special(self, value: Any, kind: type, path: str) -> Plain:
        """Everything that JSON does not know."""
        written = _WRITE.get(kind)
        if written is not None:
            self.notes[path] = [written[0]]
            return written[1](value)
        if is_lua_table(value):
            return self.lua_table(value, path)
        if isinstance(value, UnknownModel):
            self.notes[path] = ["model", value.model, *value.rest]
            return self.container(value, path, self.mapping)
        if isinstance(value, BaseModel):
            return self.container(value, path, self.model)
        if isinstance(value, tuple):
            self.notes[path] = ["tuple"]
            return self.container(value, path, self.items)
        if isinstance(value, (set, frozenset)):
            self.notes[path] = ["set" if isinstance(value, set) else "frozenset"]
            return self.unordered(value, path)
        if isinstance(value, TABLES):
            write = self.mapping if isinstance(value, dict) else self.items
            return self.container(value, path, write, table=True, marked=True)
        if isinstance(value, dict):  # an OrderedDict, a defaultdict: they come back as the dict they equal
            return self.container(value, path, self.mapping)
        if isinstance(value, list):
            return self.container(value, path, self.items)
        # Subclasses come back as the type they equal: a str enum as its text.
        for base, plain in _BASES:
            if isinstance(value, base):
                return self.value(plain(value), path)
        return self.refuse(path, f"a {kind.__module__}.{kind.__qualname__} cannot be turned into JSON")

    def refuse(self, path: str, problem: str) -> Plain:
        if not self.lenient:
            raise ValueNotSerializable(path, problem)
        return {"__not_stored__": problem}

    def text(self, value: str, path: str) -> Plain:
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate is not valid UTF-8, so not JSON
            self.notes[path] = ["surrogates", base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()]
            return value.encode("utf-8", "replace").decode()
        return value

    def number(self, value: float, path: str) -> Plain:
        if not math.isfinite(value):
            self.notes[path] = ["float", repr(value)]
            return None
        if value.is_integer():
            if abs(value) <= SAFE_INTEGER:
                self.notes[path] = ["float", "-0.0"] if value == 0 and math.copysign(1, value) < 0 else ["float"]
                return int(value)
        elif SMALLEST_NUMBER <= abs(value) <= LARGEST_NUMBER:
            return value
        self.notes[path] = ["float", repr(value)]
        return repr(value)

    def container(
        self,
        value: Any,
        path: str,
        write: Callable[[Any, str], Plain],
        *,
        identity: object = None,
        table: bool = False,
        marked: bool = False,
    ) -> Plain:
        identity = identity or id(value)
        if identity in self.around:
            return self.refuse(path, "it contains itself")
        if len(self.around) >= MAX_DEPTH:
            return self.refuse(path, f"it is nested more than {MAX_DEPTH} levels deep")
        if table != self.in_table and path not in self.notes:
            self.notes[path] = ["lua" if table else "python"]
        around = self.in_table, self.marked
        self.in_table, self.marked = table, marked
        self.around.add(identity)
        try:
            return write(value, path)
        finally:
            self.around.discard(identity)
            self.in_table, self.marked = around

    def items(self, value: Iterable[Any], path: str) -> Plain:
        return [self.value(item, f"{path}/{index}") for index, item in enumerate(value)]

    def unordered(self, value: Iterable[Any], path: str) -> Plain:
        """The items of a set, by content, so that equal sets are written alike. Each is encoded once."""
        items = sorted((self.apart(item, path) for item in value), key=lambda item: dumps(list(item)))
        for index, item in enumerate(items):
            self.notes.update((f"{path}/{index}{inner}", note) for inner, note in item.notes.items())
        return [item.plain for item in items]

    def apart(self, value: Any, path: str) -> Encoded:
        """`value` with notes of its own; what is wrong with it is wrong at `path`."""
        try:
            return _Encoder(lenient=self.lenient).run(value)
        except ValueNotSerializable as error:
            raise ValueNotSerializable(path, error.problem) from None

    def mapping(self, value: Mapping[Any, Any], path: str) -> Plain:
        names = self.keys(value, path)
        return {
            name: self.value(item, f"{path}/{escape(name)}") for name, item in zip(names, value.values(), strict=True)
        }

    def keys(self, value: Mapping[Any, Any], path: str) -> list[str]:
        """The plain name of each key; what the exact keys are goes into a note when they are not all plain text."""
        if all(type(key) is str and key.isascii() for key in value):
            return list(value)
        names: list[str] = []
        exact: dict[str, list[Any]] = {}
        taken = {key for key in value if type(key) is str}
        for key in value:
            encoded = self.apart(key, path)
            if isinstance(encoded.plain, dict):
                encoded = Encoded(self.refuse(path, f"a key of type {type(key).__qualname__} cannot be stored"), {})
            if type(key) is str and not encoded.notes:
                names.append(key)
                continue
            name = encoded.plain if isinstance(encoded.plain, str) else dumps(encoded.plain).decode()
            while name in taken:
                name += "~"
            taken.add(name)
            names.append(name)
            exact[name] = list(encoded)
        if exact:
            self.notes[f"{path}#keys"] = ["keys", exact]
        return names

    def model(self, value: BaseModel, path: str) -> Plain:
        kind = type(value)
        name = f"{kind.__module__}:{kind.__qualname__}"
        if find_model(name) is not kind:
            return self.refuse(path, f"the model {name} cannot be found again under that name")
        fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        unset = sorted(set(fields) - value.model_fields_set)
        private = self.apart(value.__pydantic_private__, path)
        self.notes[path] = ["model", name, unset, list(private)] if private.plain else ["model", name, unset]
        return self.mapping(fields, path)

    def lua_table(self, value: Any, path: str) -> Plain:
        """Keys 1..n: a list; else, and when empty, a dict with the keys as they are (mixed, sparse)."""
        try:
            pairs = list(value.items())
        except UnicodeDecodeError:
            return self.refuse(path, "it holds a Lua string that is not UTF-8 text")
        entries, count = dict(pairs), len(pairs)
        if len(entries) < count:
            return self.refuse(path, "it has both 1 and true (or 0 and false) as keys, which a dict takes for one")
        identity = repr(value)  # each Lua access makes a new wrapper; its repr has the address of the table
        if count and all(type(key) is int and 1 <= key <= count for key in entries):
            items = [entries[index] for index in range(1, count + 1)]
            return self.container(items, path, self.items, identity=identity, table=self.mark_tables)
        return self.container(entries, path, self.mapping, identity=identity, table=self.mark_tables)
