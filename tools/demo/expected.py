"""What procedure.tac must come to, worked out without Tactus, the cache or Plexus."""

from __future__ import annotations

from typing import Any

STEPS = 40

FOREIGN: dict[str, Any] = {
    "runtime": {"worker": "ecs-7", "started": "2026-11-23T23:40:33Z"},
    "scorecard_name": "Call quality",
    "cloudwatchLogGroup": "/ecs/procedures",
    "of_a_writer_yet_to_come": {"nested": [1, 2.5, None, {"deep": True}]},
}
"""The keys of other writers that are in the record before the procedure starts."""


def results() -> list[dict[str, Any]]:
    """The result of each step."""
    return [
        {
            "step": n,
            "label": f"step {n}",
            "findings": [{"kind": "length", "score": n / 4}, {"kind": "tone", "score": n * 0.1}],
            "totals": {"points": n * 10, "passed": n % 2 == 0},
        }
        for n in range(1, STEPS + 1)
    ]


def points(steps: int = STEPS) -> int:
    """The points after that many steps."""
    return sum(n * 10 for n in range(1, steps + 1))


def state() -> dict[str, Any]:
    """The state at the end."""
    found: dict[str, Any] = {f"step {n}": {"label": f"step {n}", "points": points(n)} for n in range(1, STEPS + 1)}
    return {**found, "progress": {"step": STEPS, "points": points()}}
