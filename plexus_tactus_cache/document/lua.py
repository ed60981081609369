"""Results on their way out of a Lua runtime, and into another one.

A table belongs to the Lua runtime that made it. What is stored of it (markers.py) becomes a table again in the runtime
that replays it. Nothing here imports lupa.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from plexus_tactus_cache.document.decoding import decode
from plexus_tactus_cache.document.encoding import encode, encode_leniently, encode_result
from plexus_tactus_cache.document.markers import LuaDict, LuaList, PythonDict, PythonList
from plexus_tactus_cache.document.plain import UnknownModel

NewTable = Callable[[], Any]


def freeze(value: Any) -> Any:
    """What a restart would give for `value`: no Lua table in it, and nothing that anybody else holds.

    Raises ValueNotSerializable.
    """
    return decode(encode_result(value))


def describe(value: Any) -> Any:
    """As `freeze`, but what cannot be stored becomes a description of it."""
    return decode(encode_leniently(value, mark_tables=True))


def revive(value: Any, new_table: NewTable) -> Any:
    """A copy of a frozen value for a Lua runtime: what was a table is one of its tables, the rest as it was."""
    return _copy(value, new_table, inside=False)


def as_tables(value: Any, new_table: NewTable) -> Any:
    """A copy in which every dict and list is a table, whatever it was: how Tactus hands state to Lua."""
    return _copy(value, new_table, inside=True)


def _copy(value: Any, new_table: NewTable, *, inside: bool) -> Any:
    """`inside`: whether a plain dict or list here was a table; a marked one says so itself."""
    if isinstance(value, (LuaDict, LuaList)):
        inside = True
    elif isinstance(value, (PythonDict, PythonList)):
        inside = False
    if isinstance(value, UnknownModel):  # its class may be loaded by now
        again = decode(encode(value))
        return copy.deepcopy(value) if isinstance(again, UnknownModel) else _copy(again, new_table, inside=False)
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value, 1)
        if inside:
            table = new_table()
            for key, item in pairs:
                table[key] = _copy(item, new_table, inside=True)
            return table
        items = [(key, _copy(item, new_table, inside=False)) for key, item in pairs]
        return dict(items) if isinstance(value, dict) else [item for _, item in items]
    if type(value) is tuple:
        return tuple(_copy(item, new_table, inside=False) for item in value)
    if isinstance(value, BaseModel):
        made = value.model_copy()
        for name, item in value.__dict__.items():
            made.__dict__[name] = _copy(item, new_table, inside=False)
        return made
    return copy.deepcopy(value)
