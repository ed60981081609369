"""The dashboard's view of an optimizer's state, as Plexus projects it (plexus-facts.md §6). Pure; never raises.

Data that does not have the expected shape stays as it is where it is copied, and is passed over where it is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DROPPED = frozenset({"last_regression_rca", "last_recent_rca", "item_recurrence", "known_contradictions"})
_KEPT_OF_ITERATION = """iteration score_version_id recent_metrics regression_metrics recent_deltas regression_deltas
    accepted skip_reason disqualified done_reason synthesis_strategy synthesis_reasoning dual_synthesis
    recent_evaluation_id regression_evaluation_id recent_cost_per_item regression_cost_per_item"""
_ITERATION = frozenset(_KEPT_OF_ITERATION.split())
_PATTERNS = ("OSCILLATING", "PERSISTENT", "FLIP_FLOP", "LATE_EMERGING", "EMERGING")  # most notable first
_MOST_ITEMS = 30
_LAST_CYCLES = 5


def looks_like_optimizer(state: Mapping[str, Any]) -> bool:
    """Whether a dashboard would show it as an optimizer's: a list of iterations that have fields of iterations."""
    iterations = state.get("iterations")
    return isinstance(iterations, list) and any(isinstance(one, dict) and _ITERATION & one.keys() for one in iterations)


def project(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without what only the optimizer needs, and with its notable items."""
    view = {key: value for key, value in state.items() if key not in _DROPPED}
    if isinstance(view.get("iterations"), list):
        view["iterations"] = [_reduced(one) for one in view["iterations"]]
    recurrence = state.get("item_recurrence")
    if recurrence is not None:
        view["notable_item_recurrence"] = _notable(recurrence)
    return view


def _reduced(iteration: Any) -> Any:
    if not isinstance(iteration, dict):
        return iteration
    return {key: value for key, value in iteration.items() if key in _ITERATION}


def _notable(recurrence: Any) -> Any:
    """In the shape that `item_recurrence` has: by item, or a list of items."""
    if isinstance(recurrence, dict):
        return {key: _item(one) for key, one in _best(list(recurrence.items()))}
    if isinstance(recurrence, list):
        return [_item(one) for _, one in _best(list(enumerate(recurrence)))]
    return {}


def _best(items: list[tuple[Any, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    notable = [(key, one) for key, one in items if isinstance(one, dict) and _is_notable(one)]
    notable.sort(key=lambda pair: (_PATTERNS.index(pair[1]["pattern"]), -_activity(pair[1])))
    return notable[:_MOST_ITEMS]


def _is_notable(item: dict[str, Any]) -> bool:
    pattern = item.get("pattern")
    if pattern != "EMERGING":
        return pattern in _PATTERNS
    wrong, correct = _count(item, "wrong_count"), _count(item, "correct_count")
    return _cycles(item) >= 2 or wrong >= 2 or (wrong >= 1 and correct >= 1)


def _cycles(item: dict[str, Any]) -> int:
    found = item.get("per_cycle")
    return len(found) if isinstance(found, (list, dict)) else 0


def _count(item: dict[str, Any], name: str) -> float:
    found = item.get(name)
    return found if isinstance(found, (int, float)) and found == found else 0


def _activity(item: dict[str, Any]) -> float:
    """How often the item was seen, right or wrong."""
    return _count(item, "wrong_count") + _count(item, "correct_count")


def _item(item: dict[str, Any]) -> dict[str, Any]:
    shown = dict(item)
    cycles = shown.get("per_cycle")
    if isinstance(cycles, list):
        shown["per_cycle"] = cycles[-_LAST_CYCLES:]
    elif isinstance(cycles, dict):
        shown["per_cycle"] = dict(list(cycles.items())[-_LAST_CYCLES:])
    if shown.get("feedback_label") is None and "recent_label" in shown:
        shown["feedback_label"] = shown["recent_label"]
    return shown
