"""Conditions and filters of Amplify, evaluated as DynamoDB does.

A comparison is true only between two values of one kind: `eq: null` therefore never matches, and an attribute
that is absent matches nothing but `ne`, `notContains` and `attributeExists: false`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Condition = Mapping[str, Any]

_GROUPS = ("and", "or", "not")


def holds(condition: Condition | None, record: Mapping[str, Any]) -> bool:
    """Say whether `record` satisfies every part of `condition`."""
    return all(_part_holds(name, part, record) for name, part in (condition or {}).items() if part is not None)


def fields(condition: Condition | None) -> Iterator[str]:
    """Yield the names of the fields that a condition speaks about, however deep in and/or/not."""
    for name, part in (condition or {}).items():
        if name not in _GROUPS:
            yield name
        else:
            for member in part if isinstance(part, list) else [part]:
                yield from fields(member)


def _part_holds(name: str, part: Any, record: Mapping[str, Any]) -> bool:
    match name:
        case "and":
            return all(holds(member, record) for member in part)
        case "or":
            return any(holds(member, record) for member in part)
        case "not":
            return not holds(part, record)
    return all(_OPERATORS[operator](record.get(name), operand) for operator, operand in part.items())


def _equal(value: Any, operand: Any) -> bool:
    return value is not None and type(value) is type(operand) and bool(value == operand)


def _comparing(compare: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, operand: isinstance(value, str) and isinstance(operand, str) and compare(value, operand)


def _contains(value: Any, operand: Any) -> bool:
    return isinstance(value, str | list) and isinstance(operand, str) and operand in value


def _between(value: Any, operand: Any) -> bool:
    if not isinstance(value, str) or not isinstance(operand, list) or len(operand) != 2 or None in operand:
        return False
    low, high = operand
    return bool(low <= value <= high)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "ne": lambda value, operand: not _equal(value, operand),
    "gt": _comparing(lambda value, operand: value > operand),
    "ge": _comparing(lambda value, operand: value >= operand),
    "lt": _comparing(lambda value, operand: value < operand),
    "le": _comparing(lambda value, operand: value <= operand),
    "contains": _contains,
    "notContains": lambda value, operand: not _contains(value, operand),
    "beginsWith": _comparing(str.startswith),
    "between": _between,
    "attributeExists": lambda value, operand: (value is not None) is operand,
}
