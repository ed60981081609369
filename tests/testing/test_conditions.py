"""What a condition matches: plexus-facts section 2, and the operators of Amplify."""

from collections.abc import Callable
from typing import Any

import pytest

from plexus_tactus_cache.testing.simulator import Simulator

from .conftest import Client

Matches = Callable[..., bool]


@pytest.fixture(autouse=True)
def record(plexus: Simulator) -> None:
    plexus.put("p1", name="mm", featured=True, attachedFiles=["a", "b"], metadata={"a": "b"})


@pytest.mark.parametrize(
    ("operator", "yes", "no"),
    [
        ("eq", "mm", "m"),
        ("ne", "m", "mm"),
        ("gt", "ml", "mm"),
        ("ge", "mm", "mn"),
        ("lt", "mn", "mm"),
        ("le", "mm", "ml"),
        ("contains", "m", "x"),
        ("notContains", "x", "m"),
        ("beginsWith", "m", "x"),
        ("between", ["ml", "mn"], ["mn", "mz"]),
        ("attributeExists", True, False),
    ],
)
def test_operators_on_strings(matches: Matches, operator: str, yes: Any, no: Any) -> None:
    assert matches(name={operator: yes})
    assert not matches(name={operator: no})


def test_equal_to_null_never_matches(matches: Matches) -> None:
    assert not matches(waitingOnMessageId={"eq": None})
    assert not matches(name={"eq": None})


def test_attribute_exists(matches: Matches) -> None:
    assert matches(waitingOnMessageId={"attributeExists": False})
    assert not matches(waitingOnMessageId={"attributeExists": True})
    assert matches(metadata={"attributeExists": True})


@pytest.mark.parametrize("operator", ["eq", "gt", "ge", "lt", "le", "contains", "beginsWith"])
def test_an_absent_field_compares_with_nothing(matches: Matches, operator: str) -> None:
    assert not matches(status={operator: "x"})


def test_an_absent_field_differs_from_everything(matches: Matches) -> None:
    assert matches(status={"ne": "x"})
    assert matches(status={"notContains": "x"})


def test_and_or_not(matches: Matches) -> None:
    yes, no = {"name": {"eq": "mm"}}, {"name": {"eq": "x"}}

    assert matches(**{"and": [yes, yes]})
    assert not matches(**{"and": [yes, no]})
    assert matches(**{"or": [no, yes]})
    assert not matches(**{"or": [no, no]})
    assert matches(**{"not": no})
    assert not matches(**{"not": yes})
    assert not matches(**yes, **{"or": [no, {"not": yes}]})


def test_all_parts_must_hold(matches: Matches) -> None:
    assert matches(name={"ge": "ma", "le": "mz"}, featured={"eq": True})
    assert not matches(name={"eq": "mm"}, featured={"eq": False})


def test_a_list_contains_its_members(matches: Matches) -> None:
    assert matches(attachedFiles={"contains": "a"})
    assert not matches(attachedFiles={"contains": "c"})


def test_metadata_is_a_map_and_equals_no_text(matches: Matches) -> None:
    assert not matches(metadata={"eq": '{"a":"b"}'})


def test_every_scalar_field_can_be_in_a_condition(client: Client, matches: Matches) -> None:
    introspected = client.data('{ __type(name: "Procedure") { fields { name } } }')["__type"]["fields"]

    assert len(introspected) == 21
    for field in introspected:
        matches(**{field["name"]: {"attributeExists": True}})


def test_an_unknown_field_or_operator_is_refused(client: Client, plexus: Simulator) -> None:
    for condition in ({"colour": {"eq": "x"}}, {"name": {"like": "x"}}):
        assert client.update(condition, id="p1")["data"] is None
    assert plexus.operations == {}
