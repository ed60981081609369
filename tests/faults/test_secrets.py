"""What procedures keep, and the API key, are nobody's business: they are in no log record, whatever happens."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import DashboardClient
from conftest import OpenCache
from helpers import append, eventually, fast
from processes import script

from plexus_tactus_cache import (
    PlexusClient,
    ProcedureCache,
    RunSuperseded,
    StorageError,
    ValueNotSerializable,
)
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

KEY = "da2-very-secret-key"
PAYLOADS = ("payload-of-the-state", "payload-of-a-result", "payload-of-a-variable")


class Everything(logging.Handler):
    """All records, as a formatter would write them, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("tools."):
            return  # the simulator's are not ours
        self.names.add(record.name)
        self.lines.append(f"{self.format(record)} {record.args!r} {record.__dict__!r}")

    def check(self, *also: Any) -> None:
        text = "\n".join([*self.lines, *map(repr, also)])
        for secret in (KEY, *PAYLOADS):
            assert secret not in text, f"{secret} was written"


@pytest.fixture
def everything() -> Iterator[Everything]:
    """Every logger at DEBUG, by name."""
    handler = Everything()
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in (*logging.root.manager.loggerDict, "root")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def plexus() -> Iterator[Simulator]:
    with Simulator(api_key=KEY) as running:
        yield running


def write(cache: ProcedureCache, value: int) -> None:
    """Something secret in every part of a document."""
    storage = cache.storage("p")
    storage.state_set("p", "name-of-a-key", ["payload-of-the-state", value])
    append(storage, {"payload-of-a-result": value})
    live = storage.load_procedure_metadata("p")
    live.lua_state["name-of-a-key"] = {"payload-of-the-state": value}
    live.__dict__["async_procedures"] = {"payload-of-the-state": value}
    entry = live.execution_log[-1].__class__(
        **dict(live.execution_log[-1], captured_vars={"name-of-a-key": ["payload-of-a-variable", value]})
    )
    live.execution_log[-1] = entry
    storage.save_procedure_metadata(live)


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        (None, {}),
        ("expired_key", {}),
        ("status", {"code": 500}),
        ("status", {"code": 503}),
        ("status", {"code": 403}),
        ("refuse", {}),
        ("hang", {}),
        ("html", {}),
        ("redirect", {}),
        ("drop_before", {}),
        ("drop_after", {}),
        ("throttle_200", {}),
        ("throttle_429", {"retry_after": None}),
    ],
)
def test_whatever_plexus_answers(
    plexus: Simulator, tmp_path: Path, everything: Everything, fault: str | None, parameters: dict[str, Any]
) -> None:
    plexus.put("p", metadata={"state": {"payload-of-the-state": "payload-of-the-state"}})
    client = PlexusClient(plexus.url, KEY, timeout=0.3)
    reports: list[Any] = []
    with ProcedureCache(client, tmp_path, fast(close_timeout=0.3)) as cache:
        write(cache, 0)
        assert cache.flush(10)
        if fault is not None:
            plexus.fail(fault, **parameters)
        write(cache, 1)
        reports += [cache.sync(2), cache.status(), cache.procedures()]
        if fault is not None:
            eventually(lambda: cache.status().connection != "online")
        try:
            cache.pull("p")
        except StorageError as error:
            reports.append(error)
    reports += [client, cache, repr(client.credentials)]
    everything.check(*reports)
    assert "urllib3.connectionpool" in everything.names  # it was listened to


def test_whatever_goes_wrong_here(plexus: Simulator, open_cache: OpenCache, everything: Everything) -> None:
    for procedure_id in ("p", "large", "pointer", "forked"):
        plexus.put(procedure_id)
    plexus.put("pointer", metadata={"state": {"_s3_key": "x"}, "name-of-a-key": "payload-of-the-state"})
    plexus.put("garbage", metadata={"checkpoints": {"name-of-a-key": "payload-of-a-result"}})
    cache = open_cache(client=PlexusClient(plexus.url, KEY, timeout=2))
    write(cache, 1)
    with pytest.raises(ValueNotSerializable):
        cache.storage("p").state_set("p", "other", ["payload-of-the-state", object()])
    cache.storage("large").state_set("large", "k", "payload-of-the-state" * 25_000)
    cache.storage("nobody").state_set("nobody", "k", "payload-of-the-state")
    for procedure_id in ("pointer", "garbage"):
        cache.storage(procedure_id).state_set(procedure_id, "k", "payload-of-the-state")
    other = open_cache(client=PlexusClient(plexus.url, KEY, timeout=2))
    theirs = other.storage("p").load_procedure_metadata("p")
    append(cache.storage("p"), "payload-of-a-result")
    theirs.execution_log.clear()
    with pytest.raises(RunSuperseded) as raised:
        other.storage("p").save_procedure_metadata(theirs)
    assert not cache.flush(10)
    everything.check(raised.value, cache.status(), cache.procedures())
    assert cache.status().parked == 4


class Talkative:
    """A client whose errors have everything in them."""

    api_url = "https://plexus.example/graphql"

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def execute(self, query: str, variables: dict[str, Any] | None = None) -> Any:
        raise self._kind(f"{KEY} {PAYLOADS} {variables}") from ValueError(f"{KEY} {PAYLOADS}")


@pytest.mark.parametrize("kind", [Exception, RuntimeError, requests.ConnectionError, OSError, KeyError])
def test_a_client_whose_errors_say_too_much(
    open_cache: OpenCache, everything: Everything, kind: type[Exception]
) -> None:
    cache = open_cache(client=Talkative(kind), background=False)
    write(cache, 1)
    reports: list[Any] = [cache.sync(5) for _ in range(3)]
    cache.close()
    everything.check(*reports)
    assert everything.lines


def test_a_store_that_is_damaged(
    plexus: Simulator, open_cache: OpenCache, tmp_path: Path, everything: Everything
) -> None:
    plexus.put("p")
    cache = open_cache(client=PlexusClient(plexus.url, KEY, timeout=2))
    write(cache, 1)
    storage = cache.storage("p")
    storage.load_procedure_metadata("p")
    assert cache.flush(10)
    with sqlite3.connect(tmp_path / "store" / DATABASE) as connection:
        connection.execute("UPDATE Cache SET value = value || 'payload-of-the-state' WHERE key LIKE 'state/%'")
    connection.close()
    storage.update_procedure_status("p", "RUNNING")
    eventually(lambda: cache.status().parked == 1)
    with pytest.raises(StorageError) as raised:
        open_cache(client=PlexusClient(plexus.url, KEY, timeout=2)).storage("p").load_procedure_metadata("p")
    everything.check(raised.value, cache.status(), cache.procedures())


PROGRAM = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from plexus_tactus_cache import *
storage = PlexusStorageAdapter(None, "p", directory=sys.argv[1], settings=CacheSettings(push_interval=0.05))
for number in range(3):
    storage.state_set("p", "name-of-a-key", ["{PAYLOADS[0]}", number])
    storage.checkpoint_save("p", "a", ["{PAYLOADS[1]}", number])
    print(storage._cache.flush(0.5), storage._cache.status())
"""


@pytest.mark.parametrize("fault", [None, "expired_key", "refuse"])
def test_a_program_that_logs_everything(plexus: Simulator, tmp_path: Path, fault: str | None) -> None:
    plexus.put("p")
    if fault is not None:
        plexus.fail(fault)
    done = script(PROGRAM, str(tmp_path), PLEXUS_API_URL=plexus.url, PLEXUS_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert "DEBUG:urllib3" in done.stderr
    for secret in (KEY, *PAYLOADS):
        assert secret not in done.stderr + done.stdout


def test_the_key_is_not_in_the_directory(plexus: Simulator, tmp_path: Path) -> None:
    plexus.put("p")
    plexus.fail("expired_key")
    with ProcedureCache(PlexusClient(plexus.url, KEY, timeout=2), tmp_path, fast()) as cache:
        write(cache, 1)
        eventually(lambda: cache.status().connection == "unauthorized")
    found = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    assert b"payload-of-the-state" in found
    assert KEY.encode() not in found


def test_plexus_own_client(plexus: Simulator, open_cache: OpenCache, everything: Everything) -> None:
    plexus.put("p")
    cache = open_cache(client=DashboardClient(plexus.url, KEY))
    write(cache, 1)
    assert cache.flush(10)
    everything.check(cache.status())


def test_the_client_alone(plexus: Simulator, everything: Everything) -> None:
    plexus.put("p", metadata={"state": {"payload-of-the-state": "payload-of-the-state"}})
    client = PlexusClient(plexus.url, KEY, timeout=2)
    found = client.execute("query Q($i: ID!) { getProcedure(id: $i) { metadata } }", {"i": "p"})
    assert "payload-of-the-state" in found["getProcedure"]["metadata"]
    everything.check()


def test_what_others_do_with_gql_is_logged_as_they_want_it(
    plexus: Simulator, open_cache: OpenCache, everything: Everything
) -> None:
    plexus.put("p")
    theirs = DashboardClient(plexus.url, KEY)
    cache = open_cache(client=theirs)
    write(cache, 1)
    assert cache.flush(10)
    assert "gql.transport.requests" not in everything.names
    theirs.execute("query Q($i: ID!) { getProcedure(id: $i) { metadata } }", {"i": "p"})
    assert "gql.transport.requests" in everything.names
