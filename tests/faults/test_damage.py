"""Damage stays where it is: each row of a store flipped, cut short and deleted, and what its documents do then."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import client_of, eventually, fast, remote_results, remote_state

from faults.damaged import DOCUMENTS, Made, Picture, damage, make, picture, rows, whose
from plexus_tactus_cache import LocalStoreError, ProcedureCache
from plexus_tactus_cache.testing.simulator import Simulator


@pytest.fixture(scope="module")
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def made(plexus: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(plexus, tmp_path_factory.mktemp("damage") / "store")


@pytest.mark.parametrize("how", ["flipped", "cut short", "deleted"])
def test_no_row_is_damaged_in_silence(plexus: Simulator, made: Made, tmp_path: Path, how: str) -> None:
    original, pictures, records = made
    silent: list[str] = []
    for number, key in enumerate(rows(original)):
        directory = tmp_path / str(number)
        shutil.copytree(original, directory)
        damage(directory, key, how)
        for name, record in records.items():
            plexus.put(name, metadata=record["metadata"], status=record["status"])
        silent += [f"{key}: {what}" for what in differences(plexus, directory, pictures, whose(key))]
        shutil.rmtree(directory)
    assert not silent, "\n".join(silent)


def differences(plexus: Simulator, directory: Path, pictures: dict[str, Picture], hit: str | None) -> list[str]:
    """What is not as it was, although nobody said so; what others suffer from it."""
    found = []
    try:
        with ProcedureCache(None, directory, fast()) as cache:  # offline: nothing is mended from Plexus
            for name in DOCUMENTS:
                try:
                    if picture(cache, name) != pictures[name]:
                        found.append(f"{name} differs in silence")
                except LocalStoreError as error:
                    if name != hit:
                        found.append(f"{name} suffers: {error}")
                    elif name not in str(error):
                        found.append(f"the error does not name {name}: {error}")
            cache.status()
            if len(cache.procedures()) < len(DOCUMENTS):
                known = {one.procedure_id for one in cache.procedures()}
                found += [f"{name} is not listed" for name in DOCUMENTS if name not in known and name != hit]
    except LocalStoreError as error:
        return [] if hit is None else [f"the whole store suffers from {hit}: {error}"]
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        others = [name for name in DOCUMENTS[1:] if name != hit]
        try:
            eventually(lambda: all(remote_state(plexus, name).get("k0") == "changed" for name in others), 20)
            eventually(lambda: all(remote_results(plexus, name)[-1] == "after" for name in others), 20)
        except AssertionError:
            found.append(f"others do not sync: {others}")
        if hit is not None:
            try:
                now = picture(cache, hit)
                if now != pictures[hit]:
                    found.append(f"{hit} differs in silence, with Plexus: {now}")
            except LocalStoreError as error:
                if hit == "clean":
                    found.append(f"{hit} is not read again from Plexus: {error}")
    return found
