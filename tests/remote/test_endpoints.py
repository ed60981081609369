"""Where requests go, and where they do not: URLs, redirects, .netrc, proxies."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from clients import DashboardClient
from conftest import OpenCache
from helpers import fast
from pydantic import ValidationError

from plexus_tactus_cache import InvalidClient, PlexusClient, PlexusStorageAdapter, ProcedureCache, StorageError
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.remote.attachments import S3Attachments
from plexus_tactus_cache.remote.failures import RequestFailed
from plexus_tactus_cache.testing.simulator import Simulator
from remote.s3server import S3Server

KEY = "da2-very-secret-key"
PASSWORD = "very-secret-password"
QUERY = "{ getProcedure(id: 1) { id } }"

NEVER = [
    "",
    "garbage",
    "plexus.example/graphql",
    "http://",
    "https:///graphql",
    "file:///etc/passwd",
    "ftp://plexus.example/graphql",
    "ws://127.0.0.1/graphql",
    "javascript:alert(1)",
    "https://plexus.example:port/graphql",
    "https://[::1/graphql",
    "https://plexus.example/ graphql",
    "https://plexus.example\\@127.0.0.1/graphql",
    "https://plexus.example/\x1b[2J",
    "ht\ntps://plexus.example/graphql",
    " https://plexus.example/graphql",
    f"https://user:{PASSWORD}@plexus.example/graphql",
    f"https://{PASSWORD}@plexus.example/graphql",
    f"https://:{PASSWORD}@plexus.example/graphql",
    f"http://user:{PASSWORD}@127.0.0.1/graphql",
    "https://@plexus.example/graphql",
]
IN_CLEAR = [
    "http://plexus.example/graphql",
    "HTTP://plexus.example/graphql",
    "http://10.1.2.3:8080/graphql",
    "http://0.0.0.0/graphql",
    "http://127.1/graphql",
    "http://2130706433/graphql",
    "http://127.0.0.1.plexus.example/graphql",
    "http://localhost.plexus.example/graphql",
    "http://plexus.example/#@127.0.0.1",
    "http://[2001:db8::1]/graphql",
]
FINE = [
    "https://plexus.example/graphql",
    "HTTPS://plexus.example:8443/graphql",
    "https://10.1.2.3/graphql",
    "http://localhost:8080/graphql",
    "http://LOCALHOST/graphql",
    "http://127.0.0.1/graphql",
    "http://127.8.9.10:1/graphql",
    "http://[::1]:8080/graphql",
]


class Listener:
    """An HTTP server that answers everything with one answer, and keeps what it was asked."""

    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status, self.headers = status, headers
        self.body = b'{"data": {"getProcedure": null}}'
        self.seen: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                listener.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                self.send_response(listener.status)
                for name, value in {"Content-Length": str(len(listener.body)), **listener.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(listener.body)

            do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815 - looked up by these names

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def listen() -> Iterator[Any]:
    opened: list[Listener] = []

    def listen_(status: int = 200, **headers: str) -> Listener:
        opened.append(Listener(status, **headers))
        return opened[-1]

    yield listen_
    for one in opened:
        one.close()


# --- URLs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", FINE)
def test_urls_that_are_fine(url: str) -> None:
    assert PlexusClient(url, KEY).api_url == url


@pytest.mark.parametrize("url", NEVER)
@pytest.mark.parametrize("allow_http", [None, True, False])
def test_urls_that_never_are(url: str, allow_http: bool | None) -> None:
    with pytest.raises(InvalidClient, match="PLEXUS_API_URL") as raised:
        PlexusClient(url, KEY, allow_http=allow_http)
    assert isinstance(raised.value, StorageError)
    assert isinstance(raised.value, ValueError)
    assert PASSWORD not in repr(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("url", IN_CLEAR)
def test_http_to_other_machines_is_a_setting(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidClient, match="PLEXUS_CACHE_ALLOW_HTTP"):
        PlexusClient(url, KEY)
    assert PlexusClient(url, KEY, allow_http=True).api_url == url
    monkeypatch.setenv("PLEXUS_CACHE_ALLOW_HTTP", "1")
    assert PlexusClient(url, KEY).api_url == url
    with pytest.raises(InvalidClient):
        PlexusClient(url, KEY, allow_http=False)


@pytest.mark.parametrize("url", [IN_CLEAR[0], f"https://user:{PASSWORD}@plexus.example/graphql", "file:///etc/passwd"])
@pytest.mark.parametrize("way", ["environment", "another client", "shared", "shared, another client"])
def test_nothing_is_made_for_such_a_url(url: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEXUS_API_URL", url)
    monkeypatch.setenv("PLEXUS_API_KEY", KEY)
    client = DashboardClient(url, KEY) if "another" in way else None
    with pytest.raises(InvalidClient) as raised:
        if "shared" in way:
            PlexusStorageAdapter(client, "p", directory=tmp_path / "store", settings=fast())
        else:
            ProcedureCache(client, tmp_path / "store", fast())
    assert PASSWORD not in repr(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["environment", "another client", "ours", "shared"])
def test_a_cache_that_may_use_http(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy, since no other machine answers here."""
    url = "http://plexus.invalid/graphql"
    monkeypatch.setenv("PLEXUS_API_URL", url)
    monkeypatch.setenv("PLEXUS_API_KEY", KEY)
    clients: dict[str, Any] = {
        "another client": DashboardClient(url, KEY),
        "ours": PlexusClient(url, KEY, allow_http=True),
    }
    client = clients.get(way)
    settings = fast(allow_http=way != "ours", load_timeout=0, close_timeout=0)
    if way == "shared":
        storage = PlexusStorageAdapter(client, "p", directory=tmp_path, settings=settings)
        assert storage._cache.endpoint == url
        storage._cache.close(0)
    else:
        with ProcedureCache(client, tmp_path, settings, background=False) as cache:
            assert cache.endpoint == url


@pytest.mark.parametrize("command", ["status", "ls", "sync"])
@pytest.mark.parametrize("url", [IN_CLEAR[0], f"https://user:{PASSWORD}@plexus.example/graphql"])
def test_the_command_line(
    command: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProcedureCache(directory=tmp_path, settings=fast()):
        pass
    monkeypatch.setenv("PLEXUS_API_URL", url)
    monkeypatch.setenv("PLEXUS_API_KEY", KEY)
    for where in (["--directory", str(tmp_path)], []):
        assert main([command, *where]) == 1
        said = capsys.readouterr()
        assert "PLEXUS_API_URL" in said.err
        assert PASSWORD not in said.out + said.err


def test_a_setting_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEXUS_CACHE_ALLOW_HTTP", "perhaps")
    with pytest.raises(ValidationError, match="allow_http"):
        PlexusClient(IN_CLEAR[0], KEY)
    assert PlexusClient(FINE[0], KEY)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nx: y", f"{KEY}é", f"{KEY}\udc80", ""])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    """http.client would say so with the key in its message."""
    with pytest.raises(InvalidClient, match="PLEXUS_API_KEY") as raised:
        PlexusClient(FINE[0], key)
    assert KEY not in repr(raised.value)


# --- redirects --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_not_followed(listen: Any, open_cache: OpenCache, status: int) -> None:
    """Even when the redirect has what looks like an answer in it."""
    other = listen()
    portal = listen(status, Location=f"{other.url.replace('//', f'//user:{PASSWORD}@')}/login?token={PASSWORD}")
    cache = open_cache(client=PlexusClient(f"{portal.url}/graphql", KEY, timeout=5), background=False)
    cache.storage("p").state_set("p", "k", 1)
    (error,) = cache.sync(5).errors
    assert other.url in error
    assert f"HTTP {status}" in error
    assert PASSWORD not in error
    found = cache.status()
    assert (found.connection, found.dirty, found.parked) == ("offline", 1, 0)
    assert portal.seen
    assert other.seen == []


@pytest.mark.parametrize("location", ["/elsewhere", "//[", "http://\x7f", ""])
def test_redirects_that_lead_nowhere_in_particular(listen: Any, open_cache: OpenCache, location: str) -> None:
    portal = listen(302, Location=location)
    cache = open_cache(client=PlexusClient(portal.url, KEY, timeout=5), background=False)
    cache.storage("p").state_set("p", "k", 1)
    (error,) = cache.sync(5).errors
    assert "HTTP 302, a redirect to " in error
    assert {path for _, path, _ in portal.seen} == {"/"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_of_s3_are_not_followed(s3: S3Server, listen: Any, status: int) -> None:
    other = listen()
    s3.answer(f"{status} Moved", "", Location=f"{other.url}/bucket/key")
    attachments = S3Attachments.from_environment(None, 5)
    for call in (
        lambda: attachments.get("key"),
        lambda: attachments.etag("key"),
        lambda: attachments.put("key", b"{}"),
        lambda: attachments.delete(["key"]),
    ):
        with pytest.raises(RequestFailed):
            call()
    assert other.seen == []


def test_s3_endpoints(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    attachments = S3Attachments.from_environment(None, 5)
    attachments.put("key", b"{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio.invalid:9000")
    with pytest.raises(RequestFailed, match="allow_http") as raised:
        S3Attachments.from_environment(None, 5).get("key")
    assert raised.value.failure.kind.value == "refused"
    with pytest.raises(RequestFailed, match="out of reach"):
        S3Attachments.from_environment(None, 5, allow_http=True).get("key")


# --- what requests takes from the environment ---------------------------------------------------------------


def test_netrc_is_not_used(listen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PASSWORD}\ndefault login user password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = listen()
    assert PlexusClient(server.url, KEY, timeout=5).execute(QUERY) == {"getProcedure": None}
    (headers,) = [headers for _, _, headers in server.seen]
    assert headers["x-api-key"] == KEY
    assert "authorization" not in headers


def test_proxies_are_used(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, direct = listen(), listen()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("http_proxy", proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    client = PlexusClient("http://plexus.invalid/graphql", KEY, timeout=5, allow_http=True)
    assert client.execute(QUERY) == {"getProcedure": None}
    assert [path for _, path, _ in proxy.seen] == ["http://plexus.invalid/graphql"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert PlexusClient(direct.url, KEY, timeout=5).execute(QUERY) == {"getProcedure": None}
    assert len(direct.seen) == len(proxy.seen) == 1


def test_the_bundle_of_certificates_is_used(plexus: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    client = PlexusClient(plexus.url.replace("http:", "https:"), KEY, timeout=5)
    with pytest.raises(Exception, match=r"missing\.pem"):
        client.execute(QUERY)
