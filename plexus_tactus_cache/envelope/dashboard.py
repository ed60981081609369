"""The dashboard's view of an optimizer's state, as Plexus projects it (plexus-facts.md §6). Pure; never raises.

What is copied stays as it is, whatever it is. What is judged is passed over unless it has the expected shape:
iterations and items that are not objects, a recurrence that is not an object, patterns that are not known names,
counts that are not numbers.
"""

from __future__ import annotations

import math
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
_MOST_SEEN = 1e15  # counts above are equal: no sum of two overflows, or loses a one


def looks_like_optimizer(state: Mapping[str, Any]) -> bool:
    """Whether a record without a dashboard's view should get one.

    Inferred: what an optimizer cannot do without is a list `iterations` with an object that has at least one of the
    fields that the view keeps. The key alone proves nothing, other procedures may count something by that name.
    """
    iterations = state.get("iterations")
    return isinstance(iterations, list) and any(isinstance(one, dict) and _ITERATION & one.keys() for one in iterations)


def project(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without what only the optimizer needs, and with its notable items, where there are any.

    Shares its values with `state`, which stays as it is.
    """
    view = {key: value for key, value in state.items() if key not in _DROPPED}
    iterations = view.get("iterations")
    if isinstance(iterations, list):
        view["iterations"] = [_reduced(one) for one in iterations if isinstance(one, dict)]
    notable = _notable(state.get("item_recurrence"))
    if notable:
        view["notable_item_recurrence"] = notable
    return view


def _reduced(iteration: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in iteration.items() if key in _ITERATION}


def _notable(recurrence: Any) -> dict[str, Any]:
    """The notable ones of `item_recurrence`, an object by item, most notable first; empty where there are none."""
    if not isinstance(recurrence, dict):
        return {}
    found = [(key, item) for key, item in recurrence.items() if isinstance(item, dict) and _is_notable(item)]
    found.sort(key=lambda pair: (_PATTERNS.index(_pattern(pair[1])), *_inactivity(pair[1]), str(pair[0])))
    return {key: _shown(item) for key, item in found[:_MOST_ITEMS]}


def _pattern(item: dict[str, Any]) -> Any:
    """An item is emerging until the optimizer says otherwise."""
    return item.get("pattern") or "EMERGING"


def _is_notable(item: dict[str, Any]) -> bool:
    pattern = _pattern(item)
    if pattern != "EMERGING":
        return pattern in _PATTERNS
    cycles = item.get("per_cycle")
    wrong, correct = _count(item, "wrong_count"), _count(item, "correct_count")
    return (isinstance(cycles, list) and len(cycles) >= 2) or wrong >= 2 or (wrong >= 1 and correct >= 1)


def _count(item: dict[str, Any], name: str) -> float:
    found = item.get(name)
    if not isinstance(found, (int, float)) or (isinstance(found, float) and math.isnan(found)):
        return 0
    return max(0, min(found, _MOST_SEEN))


def _inactivity(item: dict[str, Any]) -> tuple[float, float]:
    """Least for the item seen most often, right or wrong; then for the one that was wrong more often."""
    wrong, correct = _count(item, "wrong_count"), _count(item, "correct_count")
    return -(wrong + correct), -wrong


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    cycles = item.get("per_cycle") or []
    shown = {**item, "per_cycle": cycles[-_LAST_CYCLES:] if isinstance(cycles, list) else cycles}
    if "recent_label" in item:
        shown.setdefault("feedback_label", item["recent_label"])
    return shown
