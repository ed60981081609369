"""The checks behind the verdict. Each compares what was found with what procedure.tac must come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.demo import RUN_ID, expected


@dataclass(frozen=True)
class Check:
    """One thing that must hold; `problem` says how it does not."""

    name: str
    problem: str | None = None


@dataclass(frozen=True)
class Steps:
    """Which steps were really performed, in order, and what was known when the worker came back."""

    performed: Sequence[int]
    before_kill: int  # how many lines there were when it was dead
    stored: int  # how many checkpoints its next life found in the local store

    @property
    def repeated(self) -> list[int]:
        return sorted(step for step, times in Counter(self.performed).items() if times > 1)


def check_steps(steps: Steps) -> list[Check]:
    """Every step once; but the one that was in flight when the worker was killed may have run twice."""
    times = Counter(steps.performed)
    missing = [step for step in range(1, expected.STEPS + 1) if not times[step]]
    in_flight = {steps.stored + 1} if steps.before_kill > steps.stored else set()
    wrong = [step for step in steps.repeated if step not in in_flight or times[step] > 2]
    lost = steps.before_kill - steps.stored - 1
    return [
        Check("every step was performed", f"not performed: {missing}" if missing else None),
        Check("no finished step was performed again", f"again: {wrong}" if wrong else None),
        Check("no finished step was forgotten by the kill", f"{lost} forgotten" if lost > 0 else None),
    ]


def check_record(record: dict[str, Any]) -> list[Check]:
    """The record as plain GraphQL returns it."""
    metadata = record["metadata"]
    checkpoints = metadata.get("checkpoints") or {}
    entries = sorted(checkpoints.values(), key=lambda entry: int(entry["position"]))
    foreign = {key: metadata.get(key) for key in expected.FOREIGN}
    return [
        _same(
            "plain GraphQL: every checkpoint and its result", [entry["result"] for entry in entries], expected.results()
        ),
        _same("plain GraphQL: the state", metadata.get("state"), expected.state()),
        _same("plain GraphQL: the keys of other writers", foreign, expected.FOREIGN),
        _same("plain GraphQL: the status", record["status"], "COMPLETED"),
    ]


def check_reader(found: dict[str, Any]) -> list[Check]:
    """What an empty cache read: exact, so `1.0` is not `1` here."""
    return [
        _exact("an empty cache: every checkpoint and its result", found["results"], expected.results()),
        _exact("an empty cache: the state", found["state"], expected.state()),
        _exact("an empty cache: the run that they belong to", found["runs"], [RUN_ID]),
        _exact("an empty cache: the status", found["status"], "COMPLETED"),
    ]


def check_outcome(outcome: Any) -> Check:
    """What the procedure returned."""
    return _same("the procedure's own result", outcome, {"points": expected.points()})


def _exact(name: str, found: Any, wanted: Any) -> Check:
    return _same(name, json.dumps(found, sort_keys=True), json.dumps(wanted, sort_keys=True))


def _same(name: str, found: Any, wanted: Any) -> Check:
    return Check(name, None if found == wanted else f"found {_short(found)}, want {_short(wanted)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
