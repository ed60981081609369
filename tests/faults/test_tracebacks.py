"""The API key is in no traceback that shows locals, as rich's and Sentry's do, and in no `repr`."""

from __future__ import annotations

import io
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clients import DashboardClient
from conftest import OpenCache
from helpers import fast

from plexus_tactus_cache import InvalidClient, PlexusClient, ProcedureCache, RemoteUnavailable
from plexus_tactus_cache.testing.simulator import Simulator

KEY = "da2-very-secret-key" + "x" * 100  # rich looks at long text closely
SECRET = "very-secret"
QUERY = "query Q($i: ID!) { getProcedure(id: $i) { id } }"


@pytest.fixture
def plexus() -> Iterator[Simulator]:
    with Simulator(api_key=KEY) as running:
        yield running


def links(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that it came from."""
    seen: set[int] = set()
    found = [error]
    while found:
        link = found.pop()
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            found += [one for one in (link.__cause__, link.__context__) if one is not None]


def check(error: BaseException) -> set[str]:
    """Nothing shows the key, but for the frames of this file; returns the libraries whose frames are there."""
    rooms: set[str] = set()
    for link in links(error):
        assert SECRET not in repr(link)
        assert SECRET not in str(link)
        for frame, _ in traceback.walk_tb(link.__traceback__):
            name = str(frame.f_globals.get("__name__"))
            rooms.add(name.partition(".")[0])
            if frame.f_code.co_filename != __file__:
                for local, value in frame.f_locals.items():
                    assert SECRET not in repr(value), (name, frame.f_code.co_name, local)
                    if isinstance(value, DashboardClient):
                        continue  # its attributes are its own affair
                    assert SECRET not in repr(getattr(value, "__dict__", None)), (name, frame.f_code.co_name, local)
    return rooms


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("expired_key", {}),
    ("status", {"code": 500}),
    ("status", {"code": 403}),
    ("refuse", {}),
    ("hang", {}),
    ("html", {}),
    ("redirect", {}),
    ("drop_before", {}),
    ("throttle_429", {}),
    ("throttle_200", {}),
]


@pytest.mark.parametrize(("fault", "parameters"), FAULTS)
def test_the_client_alone(plexus: Simulator, fault: str, parameters: dict[str, Any]) -> None:
    plexus.put("p")
    client = PlexusClient(plexus.url, KEY, timeout=0.3)
    client.execute(QUERY, {"i": "p"})
    plexus.fail(fault, **parameters)
    for one in (client, PlexusClient(plexus.url, KEY, timeout=0.3)):  # on an open connection, and on a new one
        with pytest.raises(Exception) as raised:  # noqa: PT011 - whichever
            one.execute(QUERY, {"i": "p"})
        assert "gql" in check(raised.value)  # the frames are there
    if fault == "refuse":
        assert {"requests", "urllib3", "gql"} <= check(raised.value)


@pytest.mark.parametrize(("fault", "parameters"), FAULTS)
@pytest.mark.parametrize("own", [True, False])
def test_a_pull(plexus: Simulator, open_cache: OpenCache, fault: str, parameters: dict[str, Any], own: bool) -> None:
    """Through our client, and through Plexus's, which has the key in plain text."""
    if not own and fault in ("hang", "throttle_429", "status", "refuse", "drop_before"):
        plexus.fail("status", code=403)  # it would try again for long
    else:
        plexus.fail(fault, **parameters)
    client = PlexusClient(plexus.url, KEY, timeout=0.3) if own else DashboardClient(plexus.url, KEY)
    cache = open_cache(client=client, background=False)
    with pytest.raises(RemoteUnavailable) as raised:
        cache.pull("p")
    assert "plexus_tactus_cache" in check(raised.value)


def test_what_shows_locals(plexus: Simulator) -> None:
    """A program as people write them, under the tools as people use them."""
    client = PlexusClient(plexus.url, KEY, timeout=0.3)
    plexus.fail("refuse")
    try:
        client.execute(QUERY, {"i": "p"})
    except Exception as error:  # noqa: BLE001 - whichever
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "NewConnectionError" in shown
        assert SECRET not in shown
        pytest.importorskip("rich")
        from rich.console import Console
        from rich.traceback import Traceback

        console = Console(file=io.StringIO(), width=200)
        console.print(
            Traceback.from_exception(
                type(error), error, error.__traceback__, show_locals=True, locals_max_string=1000, max_frames=0
            )
        )
        found = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
        assert "urlopen" in found
        assert SECRET not in found


def test_ctrl_c_in_a_request(plexus: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    client = PlexusClient(plexus.url, KEY, timeout=2)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.client.HTTPConnection.getresponse", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        client.execute(QUERY, {"i": "p"})
    assert {"gql", "requests", "urllib3"} <= check(raised.value)


def test_while_a_request_is_sent(plexus: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks at the frames of a running call finds the key masked, but as the bytes that go out."""
    plexus.put("p")
    seen: list[str] = []
    client = PlexusClient(plexus.url, KEY, timeout=2)
    send = requests.adapters.HTTPAdapter.send

    def looking(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(f"{request.headers!r} {vars(request)!r} {arguments!r} {options!r}")
        seen.extend(repr(frame.f_locals) for frame, _ in traceback.walk_stack(None) if "requests" in str(frame.f_code))
        return send(self, request, *arguments, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", looking)
    client.execute(QUERY, {"i": "p"})
    assert "x-api-key" in seen[0]
    assert len(seen) > 2
    assert SECRET not in "".join(seen)


def test_what_the_caller_was_handling_keeps_its_locals(plexus: Simulator) -> None:
    def mine() -> None:
        precious = "precious"
        raise ValueError(precious)

    client = PlexusClient(plexus.url, KEY, timeout=2)
    plexus.fail("expired_key")
    try:
        mine()
    except ValueError as error:
        with pytest.raises(Exception, match="authorized"):
            client.execute(QUERY, {"i": "p"})
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert frames[-1].f_locals["precious"] == "precious"


@pytest.mark.parametrize("url", ["http://plexus.example/", "https://user:very-secret@plexus.example/", "garbage"])
def test_a_client_that_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidClient) as raised:
        PlexusClient(url, KEY)
    check(raised.value)
    with pytest.raises(InvalidClient) as raised:
        PlexusClient("https://plexus.example/", f"{KEY}\n")
    check(raised.value)
    with pytest.raises(InvalidClient) as raised:
        ProcedureCache(DashboardClient(url, KEY), tmp_path)
    check(raised.value)
    monkeypatch.setenv("PLEXUS_API_URL", url)
    monkeypatch.setenv("PLEXUS_API_KEY", KEY)
    with pytest.raises(InvalidClient) as raised:
        ProcedureCache(None, tmp_path)
    check(raised.value)
    monkeypatch.setenv("PLEXUS_CACHE_ALLOW_HTTP", "perhaps")
    with pytest.raises(ValueError, match=r"PLEXUS|allow_http") as other:
        PlexusClient(url, KEY)
    check(other.value)


def test_what_objects_show(plexus: Simulator, tmp_path: Path) -> None:
    plexus.put("p")
    client = PlexusClient(plexus.url, KEY, timeout=2)
    with ProcedureCache(client, tmp_path, fast()) as cache:
        cache.storage("p").state_set("p", "k", 1)
        assert cache.flush(10)
        client.execute(QUERY, {"i": "p"})
        session = client._local.session
        objects = [client, cache, cache.storage("p"), cache.settings, cache._engine, cache._client, session]
        objects += [session.client.transport, client._local.client.transport.session]
        for one in objects:
            shown = f"{one!r} {one!s} {vars(one)!r} {getattr(one, '__dict__', None)!r}"
            assert SECRET not in shown, type(one)
