"""The dashboard's view of a state, clause by clause of what Plexus does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_tactus_cache.dashboard import looks_like_optimizer, project

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["iterations", "item_recurrence", "known_contradictions", "k"])


@given(st.dictionaries(names, json_values))
def test_no_state_makes_it_fail(state: dict[str, Any]) -> None:
    view = project(state)
    assert "known_contradictions" not in view
    assert isinstance(looks_like_optimizer(state), bool)


def test_what_only_the_optimizer_needs_is_left_out() -> None:
    state = {"last_regression_rca": 1, "last_recent_rca": 2, "known_contradictions": 3, "other": 4}
    assert project(state) == {"other": 4}


def test_iterations_are_reduced() -> None:
    iteration = {"iteration": 1, "accepted": False, "recent_metrics": {"a": 1}, "prompt": "long", "done_reason": None}
    view = project({"iterations": [iteration, "odd"]})
    assert view["iterations"] == [
        {"iteration": 1, "accepted": False, "recent_metrics": {"a": 1}, "done_reason": None},
        "odd",
    ]
    assert project({"iterations": "odd"}) == {"iterations": "odd"}


def item(pattern: str, **fields: Any) -> dict[str, Any]:
    return {"pattern": pattern, **fields}


@pytest.mark.parametrize(
    ("one", "notable"),
    [
        (item("PERSISTENT"), True),
        (item("OSCILLATING"), True),
        (item("FLIP_FLOP"), True),
        (item("LATE_EMERGING"), True),
        (item("EMERGING"), False),
        (item("EMERGING", wrong_count=1), False),
        (item("EMERGING", wrong_count=2), True),
        (item("EMERGING", wrong_count=1, correct_count=1), True),
        (item("EMERGING", per_cycle=[1]), False),
        (item("EMERGING", per_cycle=[1, 2]), True),
        (item("STABLE", wrong_count=9), False),
        ({}, False),
        ("odd", False),
    ],
)
def test_which_items_are_notable(one: Any, notable: bool) -> None:
    view = project({"item_recurrence": {"i": one}})
    assert "item_recurrence" not in view
    assert list(view["notable_item_recurrence"]) == (["i"] if notable else [])


def test_their_order_and_number() -> None:
    items = {
        "e": item("EMERGING", wrong_count=50),
        "l": item("LATE_EMERGING"),
        "f": item("FLIP_FLOP"),
        "p1": item("PERSISTENT", wrong_count=1),
        "p2": item("PERSISTENT", wrong_count=1, correct_count=5),
        "o": item("OSCILLATING"),
    }
    assert list(project({"item_recurrence": items})["notable_item_recurrence"]) == ["o", "p2", "p1", "f", "l", "e"]
    many = {str(number): item("PERSISTENT") for number in range(50)}
    assert len(project({"item_recurrence": many})["notable_item_recurrence"]) == 30


def test_how_an_item_is_shown() -> None:
    shown = project({"item_recurrence": {"i": item("PERSISTENT", per_cycle=list(range(9)), recent_label="yes")}})
    assert shown["notable_item_recurrence"]["i"] == {
        "pattern": "PERSISTENT",
        "per_cycle": [4, 5, 6, 7, 8],
        "recent_label": "yes",
        "feedback_label": "yes",
    }
    given_ = project({"item_recurrence": {"i": item("PERSISTENT", recent_label="yes", feedback_label="no")}})
    assert given_["notable_item_recurrence"]["i"]["feedback_label"] == "no"


@pytest.mark.parametrize(
    ("state", "yes"),
    [
        ({"iterations": [{"iteration": 1}]}, True),
        ({"iterations": [{"accepted": True}]}, True),
        ({"iterations": [{"something": 1}]}, False),
        ({"iterations": []}, False),
        ({"iterations": 3}, False),
        ({}, False),
    ],
)
def test_what_looks_like_an_optimizers_state(state: dict[str, Any], yes: bool) -> None:
    assert looks_like_optimizer(state) is yes
