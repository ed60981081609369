"""The control port and the command line."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from plexus_tactus_cache.testing.simulator import Simulator
from plexus_tactus_cache.testing.simulator.control import ControlServer

from .conftest import Client

ROOT = Path(__file__).parents[2]


@pytest.fixture
def control(plexus: Simulator) -> Iterator[str]:
    with ControlServer(plexus) as server:
        yield server.url


def post(url: str, body: object = None) -> requests.Response:
    return requests.post(url, json=body, timeout=5)


def test_faults_over_http_even_while_the_api_is_refused(plexus: Simulator, client: Client, control: str) -> None:
    assert post(f"{control}/fail", {"fault": "status", "code": 502, "times": 1}).json() == {"ok": True}
    assert client.post("{__typename}").status_code == 502
    assert client.post("{__typename}").status_code == 200

    post(f"{control}/fail", {"fault": "refuse"})
    with pytest.raises(requests.ConnectionError):
        client.post("{__typename}")
    assert post(f"{control}/heal").status_code == 200
    assert client.post("{__typename}").status_code == 200


def test_stats(plexus: Simulator, client: Client, control: str) -> None:
    client.get("p1")

    stats = requests.get(f"{control}/stats", timeout=5).json()
    assert (stats["requests"], stats["operations"]) == (1, {"getProcedure": 1})
    assert stats["bytes_received"] == plexus.bytes_received > 0
    assert stats["bytes_sent"] == plexus.bytes_sent > 0

    post(f"{control}/reset-counters")
    assert requests.get(f"{control}/stats", timeout=5).json()["requests"] == 0


def test_records_over_http(plexus: Simulator, control: str) -> None:
    body = {"name": "n", "metadata": {"a": 1}}
    put = requests.put(f"{control}/records/a%2Fb", json=body, timeout=5).json()

    assert put == plexus.record("a/b")
    assert requests.get(f"{control}/records", timeout=5).json() == {"a/b": put}
    assert requests.get(f"{control}/records/a%2Fb", timeout=5).json() == put


@pytest.mark.parametrize("body", [None, [], {}, {"fault": "gremlins"}, {"fault": "status", "times": "x"}])
def test_bad_requests_say_why(control: str, body: object) -> None:
    response = post(f"{control}/fail", body)

    assert response.status_code == 400
    assert response.json()["error"]


def test_unknown_paths(control: str) -> None:
    assert post(f"{control}/nonsense").status_code == 404
    assert requests.get(f"{control}/records/nowhere", timeout=5).status_code == 404


def test_the_command_line(tmp_path: Path) -> None:
    data_file = tmp_path / "plexus.json"
    command = [
        sys.executable,
        "-m",
        "plexus_tactus_cache.testing.simulator",
        "--port",
        "0",
        "--control-port",
        "0",
        "--api-key",
        "secret",
    ]
    with subprocess.Popen([*command, "--data", str(data_file)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url, control = (process.stdout.readline().split(": ")[1].strip() for _ in range(2))
            assert requests.put(f"{control}/records/p1", json={"name": "n"}, timeout=5).status_code == 200
            query = {"query": '{ getProcedure(id: "p1") { name } }'}
            answer = requests.post(url, json=query, headers={"x-api-key": "secret"}, timeout=5).json()
            assert answer == {"data": {"getProcedure": {"name": "n"}}}
            assert list(json.loads(data_file.read_text())) == ["p1"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()


def test_the_command_line_says_what_is_wrong(plexus: Simulator) -> None:
    port = plexus.url.split(":")[2].split("/")[0]

    done = subprocess.run(
        [sys.executable, "-m", "plexus_tactus_cache.testing.simulator", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == f"Error: port {port} on 127.0.0.1 is already in use\n"
