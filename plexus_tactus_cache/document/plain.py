"""What a value is as it is stored and sent: a plain JSON value, and notes.

A value is stored as a *plain* JSON value that a dashboard can show, and *notes* that say, by path, how the
exact value differs from it: the float `1.0` is the plain `1` and the note `float` (AppSync turns `1.0` into `1`
on its way, plexus-facts.md §3, so plain values never hold integral floats). Everything plain has no notes.

    encode({"n": 1.0, "when": datetime(...)})
    -> Encoded({"n": 1, "when": "2026-..."}, {"/n": ["float"], "/when": ["datetime"]})

Paths are JSON Pointers (RFC 6901, with `~2` for `#` besides) into the plain value. `<path>#keys` notes the keys of
a dict that are not plain text. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

Plain = Any  # None | bool | int | float | str | list[Plain] | dict[str, Plain]
Notes = dict[str, list[Any]]

MAX_DEPTH = 100  # orjson refuses to write deeper than 254, Python to recurse deeper than 1000 frames
SAFE_INTEGER = 2**53  # beyond it a JSON number is not safe (plexus-facts.md §3)
LONG_INTEGER = 10_000  # bits; Python refuses to print much longer ones in decimal
# DynamoDB keeps numbers between 1E-130 and 9.99E+125; others travel as text.
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-130, 1e125


class Encoded(NamedTuple):
    """A value as it is stored and sent."""

    plain: Plain
    notes: Notes


class UnknownModel(dict[str, Any]):
    """The fields of a pydantic model whose class is not loaded in this process; stored again as that model."""

    model: str
    rest: list[Any]  # of its note

    def __init__(self, fields: Mapping[str, Any], model: str, rest: list[Any]) -> None:
        super().__init__(fields)
        self.model = model
        self.rest = rest


def dumps(plain: Plain) -> bytes:
    """Plain JSON as canonical bytes: keys sorted, no white space."""
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)


def digest(plain: Plain) -> str:
    """What two plain values have in common exactly if they are equal as JSON; 16 hex digits are 64 bits."""
    return hashlib.blake2b(dumps(plain), digest_size=8).hexdigest()


def canonical(remote: Plain) -> Plain:
    """A JSON value from Plexus in the form that `encode` writes: integral floats as integers."""
    if isinstance(remote, float):
        return int(remote) if remote.is_integer() and abs(remote) <= SAFE_INTEGER else remote
    if isinstance(remote, list):
        return [canonical(item) for item in remote]
    if isinstance(remote, dict):
        return {key: canonical(item) for key, item in remote.items()}
    return remote


def fingerprint(value: Any) -> bytes | None:
    """A cheap mark of a value's content, for noticing changes made in place; None: it has to be encoded to know.

    Unlike JSON it tells `1`, `1.0` and `True` apart. Version 2 of marshal writes no references, so equal
    content gives equal bytes whoever else holds it. Only bytes and an equal bytearray share a mark.
    """
    try:
        return hashlib.blake2b(marshal.dumps(value, 2), digest_size=16).digest()
    except ValueError:  # not made of built-in types only, or nested too deeply
        return None


def escape(key: str) -> str:
    """One step of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1").replace("#", "~2")


def find_model(name: str) -> type[BaseModel] | None:
    """The model of that name, if its module is loaded.

    Nothing is ever imported or called on the word of stored data: names are looked up in namespaces, past any
    `__getattr__` that would import.
    """
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None
