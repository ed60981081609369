"""Ours passes the whole suite; and the suite tells backends apart."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("tactus.core.runtime")

from plexus_tactus_cache.conformance import CHECKS, Check, run_checks
from plexus_tactus_cache.conformance.__main__ import cache, file, memory


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_ours_passes(check: Check, tmp_path: Path) -> None:
    check.run(cache, tmp_path)


def test_the_suite_finds_what_is_known_to_be_wrong_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    failing = {
        name: {str(outcome.check) for outcome in run_checks(factory) if outcome.problem}
        for name, factory in (("memory", memory), ("file", file))
    }
    assert "durability: everything is there for the next process" in failing["memory"]
    assert "replay: DurableRuntime: Lua tables are tables again" in failing["file"]
    assert "protocol: the status, and the message that it waits for" not in failing["memory"] | failing["file"]
