"""A simulator per test, and caches that are closed when it ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import client_of, fast

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator

OpenCache = Callable[..., ProcedureCache]


@pytest.fixture(autouse=True)
def _no_plexus_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLEXUS_API_URL", "PLEXUS_API_KEY", "PLEXUS_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):  # nor S3
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")


@pytest.fixture
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def open_cache(plexus: Simulator, tmp_path: Path) -> Iterator[OpenCache]:
    """`open_cache(name="a", client=..., background=..., **settings)`: a cache on a directory of that name."""
    opened: list[ProcedureCache] = []

    def open_(name: str = "store", *, client: Any = None, background: bool = True, **settings: Any) -> ProcedureCache:
        cache = ProcedureCache(client or client_of(plexus), tmp_path / name, fast(**settings), background=background)
        opened.append(cache)
        return cache

    yield open_
    plexus.heal()
    for cache in opened:
        cache.close(timeout=0.5)


@pytest.fixture
def open_offline(tmp_path: Path) -> Iterator[OpenCache]:
    """As `open_cache`, without a client: writes stay where they are, for an engine that the test drives."""
    opened: list[ProcedureCache] = []

    def open_(name: str = "store", **settings: Any) -> ProcedureCache:
        cache = ProcedureCache(None, tmp_path / name, fast(**settings))
        opened.append(cache)
        return cache

    yield open_
    for cache in opened:
        cache.close(timeout=0)
