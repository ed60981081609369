"""OFFLINE: no client, whatever the environment says."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from helpers import client_of, fast

from plexus_tactus_cache import OFFLINE, PlexusStorageAdapter, ProcedureCache, RemoteUnavailable
from plexus_tactus_cache.testing.simulator import Simulator


@pytest.fixture(autouse=True)
def _plexus_in_the_environment(plexus: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    plexus.put("p", metadata={"state": {"theirs": 1}})


def test_a_cache_talks_to_nobody(plexus: Simulator, tmp_path: Path) -> None:
    with ProcedureCache(OFFLINE, tmp_path, fast()) as cache:
        storage = cache.storage("p")
        assert storage.get_state("p") == {}
        storage.state_set("p", "k", 1)
        assert cache.sync(1).pending == ("p",)
        assert not cache.flush(0.2)
        with pytest.raises(RemoteUnavailable, match="no client: the client is OFFLINE"):
            cache.pull("p")
        status = cache.status()
    assert (status.connection, status.endpoint, status.dirty) == ("no client", None, 1)
    assert plexus.requests == 0

    with ProcedureCache(None, tmp_path, fast()) as cache:  # what the environment is good for
        assert cache.flush(10)
    assert plexus.requests > 0


def test_an_adapter_talks_to_nobody(plexus: Simulator, tmp_path: Path) -> None:
    storage = PlexusStorageAdapter(OFFLINE, "p", directory=tmp_path, settings=fast())
    storage.state_set("p", "k", 1)
    storage._cache.close()
    assert plexus.requests == 0


def test_without_a_directory_it_is_not_that_of_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with ProcedureCache(OFFLINE, settings=fast()) as cache:
        assert cache.directory.name == "offline"
        assert cache.directory.is_relative_to(tmp_path)


@pytest.mark.parametrize("offline_first", [True, False])
def test_adapters_of_one_directory_with_and_without_a_client(
    plexus: Simulator, tmp_path: Path, offline_first: bool
) -> None:
    clients: list[Any] = [OFFLINE, client_of(plexus)] if offline_first else [client_of(plexus), OFFLINE]
    adapters = [PlexusStorageAdapter(client, "p", directory=tmp_path, settings=fast()) for client in clients]
    offline, online = adapters if offline_first else reversed(adapters)
    try:
        offline.state_set("p", "k", 1)
        assert offline._cache.status().connection == "no client"
        assert online.state_get("p", "theirs") == 1
        assert online._cache.flush(10)
        assert (plexus.record("p") or {})["metadata"]["state"] == {"theirs": 1, "k": 1}
    finally:
        for adapter in adapters:
            adapter._cache.close()


def test_it_is_one_value() -> None:
    assert repr(OFFLINE) == "OFFLINE"
    assert pickle.loads(pickle.dumps(OFFLINE)) is copy.deepcopy(OFFLINE) is OFFLINE
