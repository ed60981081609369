"""Values that procedures keep, exact comparison of them, and the trip through Plexus."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import string
import uuid
from collections.abc import Hashable
from typing import Any

import orjson
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from plexus_tactus_cache.document.plain import canonical
from plexus_tactus_cache.testing.simulator import awsjson


class Usage(BaseModel):
    """A model with defaults: what was set and what was not is part of the value."""

    tokens: int = 0
    cost: float | None = None
    note: Any = None


class Answer(BaseModel):
    """A model in a model, and keys that it does not declare."""

    model_config = ConfigDict(extra="allow")

    text: str
    usage: Usage | None = None
    parts: list[Any] = Field(default_factory=list)


class Outer:
    """A place for a class that is not at the top of its module."""

    class Inner(BaseModel):
        """A nested class."""

        value: Any = None


class Colour(enum.StrEnum):
    """A str that is not exactly a str."""

    RED = "red"


class Level(enum.IntEnum):
    """An int that is not exactly an int."""

    HIGH = 3


SPECIAL_FLOATS = [
    1.0,
    0.0,
    -0.0,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e22,
    5e-324,
    1e300,
    -1e300,
    2.0**53,
    2.0**63,
    2.0**64,
]
SPECIAL_INTEGERS = [2**53, 2**53 + 1, -(2**53) - 1, 2**63, -(2**63) - 1, 2**64, 10**40]
SPECIAL_KEYS = [
    "",
    "/",
    "~",
    "#",
    "#keys",
    "~0",
    "~1",
    "a#keys",
    "0",
    "1",
    "1~",
    "True",
    "null",
    "é",
    "\x00",
    "_s3_key",
]

floats = st.floats() | st.sampled_from(SPECIAL_FLOATS)
integers = st.integers() | st.sampled_from(SPECIAL_INTEGERS)
any_text = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(SPECIAL_KEYS)
zones = st.none() | st.builds(
    lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)), st.integers(min_value=-86399, max_value=86399)
)

_hashable_leaves: st.SearchStrategy[Hashable] = (
    st.none()
    | st.booleans()
    | integers
    | floats
    | any_text
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.uuids()
)
keys: st.SearchStrategy[Any] = st.recursive(
    _hashable_leaves,
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2),
    max_leaves=3,
)
hashables = keys | st.times() | st.timedeltas() | st.decimals(allow_nan=False)
leaves: st.SearchStrategy[Any] = (
    hashables | st.binary(max_size=4).map(bytearray) | st.decimals() | st.times(timezones=zones)
)


def _models(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    usage = st.builds(Usage) | st.builds(Usage, tokens=st.integers(-9, 9)) | st.builds(Usage, note=inner)
    extra = st.dictionaries(st.sampled_from(["extra_a", "extra/b", "#keys"]), inner, max_size=2)
    answers = st.builds(
        lambda text, usage, parts, more: Answer(text=text, usage=usage, parts=parts, **more),
        st.text(max_size=3),
        usage,
        st.lists(inner, max_size=2),
        extra,
    )
    return usage | answers | st.builds(Outer.Inner, value=inner)


values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(any_text | keys, inner, max_size=4)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
        | _models(inner)
    ),
    max_leaves=12,
)

json_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
)
json_values: st.SearchStrategy[Any] = st.recursive(
    json_leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def mark(value: Any, *, ordered: bool = False) -> Any:
    """All that tells `value` from others, as something that `==` compares; key order only if `ordered`."""
    if isinstance(value, BaseModel):
        fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return (type(value).__qualname__, sorted(value.model_fields_set), mark(fields))
    name = type(value).__qualname__
    if isinstance(value, dict):
        items = [(mark(key), mark(item, ordered=ordered)) for key, item in value.items()]
        return (name, items if ordered else sorted(items, key=repr))
    if isinstance(value, (list, tuple)):
        return (name, [mark(item, ordered=ordered) for item in value])
    if isinstance(value, (set, frozenset)):
        return (name, sorted((mark(item) for item in value), key=repr))
    if isinstance(value, float | decimal.Decimal | uuid.UUID):
        return (name, str(value) if not isinstance(value, float) else repr(value))
    if isinstance(value, dt.date | dt.time):
        return (name, value.isoformat())
    return (name, bytes(value) if isinstance(value, bytearray) else value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last bit and type; `==` says that `1 == True` and NaN differs from NaN."""
    return bool(mark(one) == mark(other))


def through_plexus(plain: Any) -> Any:
    """Plain JSON as it comes back from AppSync: numbers through doubles, keys in another order."""
    return orjson.loads(returned_text(plain))


def returned_text(plain: Any) -> str:
    """The text that AppSync answers with."""
    return awsjson.dump(awsjson.parse(orjson.dumps(plain).decode()))


def read_back(plain: Any) -> Any:
    """`through_plexus`, and into the form in which it is compared."""
    return canonical(through_plexus(plain))
