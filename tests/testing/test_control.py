"""The control port."""

from collections.abc import Iterator

import pytest
import requests

from plexus_tactus_cache.testing import FAULTS, Simulator
from plexus_tactus_cache.testing.simulator.control import ControlServer

from .conftest import Client


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


def test_the_root_lists_every_fault_and_every_route(plexus: Simulator, control: str) -> None:
    listed = requests.get(f"{control}/", timeout=5).json()
    assert list(listed["faults"]) == list(FAULTS)
    for name, fault in listed["faults"].items():
        assert fault["description"] == FAULTS[name].description
    assert set(listed["faults"]["delay"]["parameters"]) == {"seconds", "times", "only"}
    assert listed["faults"]["delay"]["parameters"]["seconds"].endswith("needed")
    assert set(listed["faults"]["outage"]["parameters"]) == {"seconds"}
    assert all(all(fault["parameters"].values()) for fault in listed["faults"].values())

    plexus.put("ID")
    for route in listed["routes"]:
        method, path = route.split()
        assert requests.request(method, f"{control}{path}", json={"fault": "stale"}, timeout=5).status_code != 404


@pytest.mark.parametrize("fault", FAULTS)
def test_the_parameters_listed_are_those_that_it_takes(plexus: Simulator, control: str, fault: str) -> None:
    values = {"seconds": 0, "code": 502, "retry_after": 1, "times": 1, "only": "query"}
    parameters = requests.get(f"{control}/", timeout=5).json()["faults"][fault]["parameters"]
    needed = {name: values[name] for name, meaning in parameters.items() if meaning.endswith("needed")}
    for name, value in values.items():
        status = post(f"{control}/fail", {"fault": fault, **needed, name: value}).status_code
        assert status == (200 if name in parameters else 400), name
    if needed:
        assert post(f"{control}/fail", {"fault": fault}).status_code == 400
