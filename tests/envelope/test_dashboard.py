"""The dashboard's view of an optimizer's state, clause by clause (plexus-facts.md §6)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_tactus_cache.envelope.dashboard import looks_like_optimizer, project

KEPT = {
    "iteration": 3,
    "score_version_id": "v3",
    "recent_metrics": {"alignment": 0.5},
    "regression_metrics": {"alignment": 0.25},
    "recent_deltas": {"alignment": 0.1},
    "regression_deltas": None,
    "accepted": False,
    "skip_reason": "",
    "disqualified": True,
    "done_reason": "enough",
    "synthesis_strategy": "s",
    "synthesis_reasoning": "r",
    "dual_synthesis": [1],
    "recent_evaluation_id": "e1",
    "regression_evaluation_id": "e2",
    "recent_cost_per_item": 0.01,
    "regression_cost_per_item": 0,
}


def shown(**items: Any) -> Any:
    """What the view has of these items; None when it has no list of notable ones."""
    return project({"item_recurrence": items}).get("notable_item_recurrence")


def item(pattern: str = "PERSISTENT", *, cycles: int = 0, **fields: Any) -> dict[str, Any]:
    return {"pattern": pattern, "per_cycle": [{"cycle": n} for n in range(cycles)], **fields}


def test_what_only_the_optimizer_needs_is_dropped_and_all_else_stays() -> None:
    dropped = ("last_regression_rca", "last_recent_rca", "item_recurrence", "known_contradictions")
    state = {**{key: {"big": 1} for key in dropped}, "last_recurrence_context_audit": {"cycle": 4}, "none": None}
    assert project(state) == {"last_recurrence_context_audit": {"cycle": 4}, "none": None}


def test_iterations_keep_the_fields_of_the_list_and_no_others() -> None:
    state = {"iterations": [{**KEPT, "exploration_results": ["large"], "feedback_metrics": {}}, {"accepted": True}]}
    assert project(state) == {"iterations": [KEPT, {"accepted": True}]}


@pytest.mark.parametrize("name", ["iterations_archive", "Iterations"])
def test_only_iterations_are_reduced(name: str) -> None:
    state = {name: [{"exploration_results": 1}], "nested": {"iterations": [{"exploration_results": 1}]}}
    assert project(state) == state


@pytest.mark.parametrize("pattern", ["PERSISTENT", "OSCILLATING", "FLIP_FLOP", "LATE_EMERGING"])
def test_notable_patterns_need_no_history(pattern: str) -> None:
    assert shown(a=item(pattern)) == {"a": item(pattern)}


@pytest.mark.parametrize(
    ("fields", "notable"),
    [
        ({}, False),
        ({"cycles": 1, "wrong_count": 1, "correct_count": 0}, False),
        ({"cycles": 2}, True),
        ({"wrong_count": 2}, True),
        ({"wrong_count": 1, "correct_count": 1}, True),
        ({"wrong_count": 1}, False),
        ({"correct_count": 9}, False),
        ({"cycles": 1, "wrong_count": None, "correct_count": None}, False),
    ],
)
@pytest.mark.parametrize("pattern", ["EMERGING", None, ""])
def test_emerging_ones_are_notable_when_seen_repeatedly(fields: dict[str, Any], notable: bool, pattern: Any) -> None:
    assert (shown(a=item(pattern, **fields)) is not None) is notable


@pytest.mark.parametrize("pattern", ["RESOLVED", "emerging", "persistent", 7, ["PERSISTENT"], {"PERSISTENT": 1}])
def test_other_patterns_are_not_notable(pattern: Any) -> None:
    assert shown(a=item(pattern, cycles=9, wrong_count=9, correct_count=9)) is None


def test_without_a_pattern_an_item_is_emerging() -> None:
    assert shown(a={"wrong_count": 2}, b={"wrong_count": 1}) == {"a": {"wrong_count": 2, "per_cycle": []}}


@pytest.mark.parametrize(("cycles", "first"), [(0, None), (4, 0), (5, 0), (6, 1), (9, 4)])
def test_the_last_five_cycles_are_shown(cycles: int, first: int | None) -> None:
    expected = [] if first is None else [{"cycle": n} for n in range(first, cycles)]
    assert shown(a=item(cycles=cycles))["a"]["per_cycle"] == expected


def test_at_most_thirty_are_shown_the_most_notable() -> None:
    items = {f"e{n}": item("EMERGING", wrong_count=99) for n in range(20)}
    items |= {f"p{n}": item("PERSISTENT", wrong_count=n) for n in range(25)}
    found = shown(**items)
    assert list(found)[:25] == [f"p{n}" for n in reversed(range(25))]
    assert len(found) == 30
    assert len(shown(**{f"p{n}": item() for n in range(30)})) == 30


def test_the_order_is_by_pattern_then_activity_then_wrongness_then_name() -> None:
    found = shown(
        emerging=item("EMERGING", wrong_count=90, correct_count=90),
        late=item("LATE_EMERGING", wrong_count=80),
        flip=item("FLIP_FLOP", wrong_count=70),
        b=item("PERSISTENT", wrong_count=2, correct_count=1),
        a=item("PERSISTENT", wrong_count=2, correct_count=1),
        more_wrong=item("PERSISTENT", wrong_count=3, correct_count=0),
        more_active=item("PERSISTENT", wrong_count=0, correct_count=4),
        oscillating=item("OSCILLATING"),
    )
    assert list(found) == ["oscillating", "more_active", "more_wrong", "a", "b", "flip", "late", "emerging"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"recent_label": "Yes"}, {"recent_label": "Yes", "feedback_label": "Yes"}),
        ({"recent_label": "Yes", "feedback_label": "No"}, {"recent_label": "Yes", "feedback_label": "No"}),
        ({"recent_label": "Yes", "feedback_label": None}, {"recent_label": "Yes", "feedback_label": None}),
        ({"recent_label": None}, {"recent_label": None, "feedback_label": None}),
        ({}, {}),
    ],
)
def test_the_feedback_label_is_the_recent_one_where_absent(labels: dict[str, Any], expected: dict[str, Any]) -> None:
    assert shown(a=item(**labels)) == {"a": item(**expected)}


@pytest.mark.parametrize("recurrence", [None, {}, [], [item()], "x", 1, {"a": item("RESOLVED")}, {"a": [item()]}])
def test_nothing_notable_no_key_of_it(recurrence: Any) -> None:
    assert project({"item_recurrence": recurrence, "k": 1}) == {"k": 1}


def test_odd_data() -> None:
    """Copied as it is where nothing judges it, else passed over."""
    assert project({}) == {}
    assert project({"iterations": {"1": {"exploration_results": 1}}}) == {
        "iterations": {"1": {"exploration_results": 1}}
    }
    assert project({"iterations": [1, None, [KEPT], "x", KEPT]}) == {"iterations": [KEPT]}
    assert shown(a=item(per_cycle={"1": 2}), b=7) == {"a": item(per_cycle={"1": 2})}
    assert shown(a={"per_cycle": {"1": 2, "2": 3}}) is None  # cycles are a list, or not counted
    assert shown(a=item(per_cycle=None)) == {"a": item(per_cycle=[])}


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), "9", [9], None])
def test_counts_that_are_none_do_not_disturb_the_order(count: Any) -> None:
    found = shown(b=item(wrong_count=3), odd=item(wrong_count=count, correct_count=0.5), a=item(wrong_count=4))
    assert [key for key in found if key != "odd"] == ["a", "b"]
    expected_first = count in (float("inf"), 10**400)
    assert (next(iter(found)) == "odd") is expected_first


def test_the_state_stays_as_it_is() -> None:
    state = {"iterations": [{**KEPT, "x": 1}], "item_recurrence": {"a": item(cycles=9, recent_label="Yes")}}
    before = copy.deepcopy(state)
    project(state)
    assert state == before


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        ([{"iteration": 1}], True),
        ([None, {"accepted": False}], True),
        ([], False),
        ([{}], False),
        ([{"exploration_results": 1}], False),
        ([1, "iteration", ["iteration"]], False),
        ({"iteration": 1}, False),
        (10, False),
        (None, False),
    ],
)
def test_what_looks_like_an_optimizer(iterations: Any, expected: bool) -> None:
    assert looks_like_optimizer({"iterations": iterations}) is expected


def test_a_state_without_iterations_is_no_optimizers() -> None:
    assert not looks_like_optimizer({})
    assert not looks_like_optimizer({"iteration": 1})


numbers = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
values = st.recursive(
    numbers | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["pattern", "per_cycle", "wrong_count", "correct_count", "recent_label", "feedback_label"])
patterns = st.sampled_from(["OSCILLATING", "PERSISTENT", "FLIP_FLOP", "LATE_EMERGING", "EMERGING"])
items = (
    values
    | st.dictionaries(names, values)
    | st.builds(lambda one, name: {**one, "pattern": name}, st.dictionaries(names, values), patterns)
)
states = st.dictionaries(st.text(max_size=3), values, max_size=3) | st.fixed_dictionaries(
    {
        "iterations": values
        | st.lists(values | st.dictionaries(st.sampled_from([*KEPT, "other"]), values), max_size=3),
        "item_recurrence": values | st.dictionaries(st.text(max_size=3), items, max_size=40),
    }
)


@given(states)
def test_no_json_makes_it_raise(state: dict[str, Any]) -> None:
    before = json.dumps(state)
    view = project(state)
    looks_like_optimizer(state)
    looks_like_optimizer(view)
    assert json.dumps(state) == before
    assert len(view.get("notable_item_recurrence", {})) <= 30
    again = project(view)  # nothing left to drop
    assert json.dumps(again) == json.dumps(view)
