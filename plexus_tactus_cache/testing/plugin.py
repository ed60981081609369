"""The fixtures, a plugin of pytest.

pytest imports it in every run where the package is installed, so what a fixture needs is imported by the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plexus_tactus_cache import ProcedureCache
    from plexus_tactus_cache.testing import Simulator


@pytest.fixture
def plexus_simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A Plexus of its own for the test, without records: `url`, `api_key`, `put`, `record`, `fail`, `heal`."""
    try:
        from plexus_tactus_cache.testing import Simulator
    except ImportError as error:
        pytest.fail(str(error), pytrace=False)
    monkeypatch.setenv("NO_PROXY", ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])))
    with Simulator() as running:  # leaving it switches off all faults, so that nothing is left waiting in one
        yield running


@pytest.fixture
def offline_cache(tmp_path: Path) -> Iterator[ProcedureCache]:
    """A cache below `tmp_path` that never talks to a Plexus, closed when the test ends."""
    from plexus_tactus_cache import OFFLINE, CacheSettings, ProcedureCache

    settings = CacheSettings(on_unreachable="empty")  # whatever the environment says
    with ProcedureCache(OFFLINE, tmp_path / "plexus-tactus-cache", settings) as cache:
        yield cache
