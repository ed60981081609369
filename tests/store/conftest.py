"""A store of every kind, for the suite of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plexus_tactus_cache.store.contract import Store
from store.stores import STORES, StoreHarness


@pytest.fixture(params=STORES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreHarness]:
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(harness: StoreHarness) -> Store:
    return harness.open()


@pytest.fixture
def other(harness: StoreHarness) -> Store:
    """A second opener of the same store."""
    return harness.open()
