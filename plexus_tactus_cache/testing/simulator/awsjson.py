"""AWSJSON: text on the wire, a DynamoDB map at rest, so what comes back is not the text that was sent."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_ITEM_BYTES = 400 * 1024
MAX_DEPTH = 32

_JS_EXPONENT_FROM = 1e21  # from here on JavaScript writes 1e+21 rather than digits


def parse(text: str) -> Any:
    """Parse as Plexus does: through JavaScript numbers, into maps without an order of their own.

    Raises ValueError for anything that is not JSON; NaN and Infinity are not.
    """
    try:
        return json.loads(
            text,
            parse_float=_number,
            parse_int=_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unordered,
        )
    except RecursionError:
        raise ValueError("nested too deeply to parse") from None


def dump(value: Any) -> str:
    """Serialise as Plexus does: compact, and not in the order of the sender."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def normalise(value: Any) -> Any:
    """Return what a Python value is after a trip through Plexus."""
    return parse(json.dumps(value, allow_nan=False))


def depth(value: Any) -> int:
    """Count the levels of nesting; a plain value has none."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            todo.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def item_size(record: Mapping[str, Any]) -> int:
    """Return about the bytes that DynamoDB counts for an item, by its published rules."""
    size, todo = 0, [*record.keys(), *record.values()]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            size += len(value.encode("utf-8", "replace"))
        elif isinstance(value, dict):
            size += 3 + len(value)
            todo.extend(value.keys())
            todo.extend(value.values())
        elif isinstance(value, list):
            size += 3 + len(value)
            todo.extend(value)
        elif isinstance(value, bool) or value is None:
            size += 1
        else:
            size += len(repr(value)) // 2 + 1
    return size


def _number(text: str) -> int | float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number out of range: {text[:40]}")
    if not value.is_integer() or abs(value) >= _JS_EXPONENT_FROM:
        return value
    # Integers go through the double as well: that is how digits beyond 2^53 are lost. It also makes 1.0 and 1
    # the same, and -0.0 and 0.
    return int(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unordered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Sorted by a hash: deterministic for tests, yet neither the order of the sender nor the alphabet.
    return dict(sorted(pairs, key=lambda pair: zlib.crc32(pair[0].encode("utf-8", "replace"))))
