"""Puts a backend through the checks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from plexus_tactus_cache.conformance.checks import CHECKS
from plexus_tactus_cache.conformance.harness import Check, Factory


@dataclass(frozen=True)
class Outcome:
    """How a backend did in one check; `problem` is None if it passes."""

    check: Check
    problem: str | None


def run_checks(factory: Factory, checks: Iterable[Check] | None = None) -> list[Outcome]:
    """Put a backend through the checks (default: all), each on a directory of its own."""
    outcomes = []
    for check in CHECKS if checks is None else checks:
        with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
            try:
                check.run(factory, Path(directory))
                outcomes.append(Outcome(check, None))
            except Exception as error:  # noqa: BLE001  # whatever a backend raises is a finding
                outcomes.append(Outcome(check, f"{type(error).__name__}: {error}"))
    return outcomes
