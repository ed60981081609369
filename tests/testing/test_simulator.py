"""The simulator as an object: life cycle, records, data file, counters, the hook."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from plexus_tactus_cache.testing.simulator import Simulator, TopField

from .conftest import CREATE, Client


def test_stop_frees_the_port_and_a_second_start_finds_it_again() -> None:
    plexus = Simulator().start()
    plexus.put("p1")
    url = plexus.url
    plexus.stop()
    plexus.stop()
    with pytest.raises(requests.ConnectionError):
        requests.post(url, timeout=5)

    with plexus:
        assert plexus.url == url
        assert Client(plexus).get("p1") is not None


def test_stop_does_not_wait_for_idle_connections(client: Client, plexus: Simulator) -> None:
    client.get("p1")
    began = time.monotonic()
    plexus.stop()

    assert time.monotonic() - began < 1


def test_no_address_before_the_start() -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = Simulator().url
    with pytest.raises(RuntimeError, match="needs a simulator that is started"):
        Simulator().fail("refuse")


def test_a_port_in_use(plexus: Simulator) -> None:
    port = int(plexus.url.split(":")[2].split("/")[0])

    with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is already in use"):
        Simulator(port=port).start()


def test_connections_are_kept_alive(plexus: Simulator) -> None:
    with requests.Session() as session:
        for _ in range(2):
            response = session.post(plexus.url, json={"query": "{__typename}"}, timeout=5)
            assert response.headers.get("Connection") != "close"
        (pool,) = session.get_adapter(plexus.url).poolmanager.pools._container.values()  # type: ignore[attr-defined]
        assert pool.num_connections == 1


def test_put_creates_then_changes_and_stamps_strictly_later(plexus: Simulator) -> None:
    first = plexus.put(id="p1", name="n", accountId="acc", metadata={"a": 1.0}, status="PENDING")
    stamps = [plexus.put("p1", status=str(number))["updatedAt"] for number in range(20)]
    last = plexus.put("p1", metadata=None)

    assert first["metadata"] == {"a": 1}
    assert stamps == sorted(set(stamps))
    assert first["updatedAt"] < stamps[0]
    assert last == first | {"metadata": None, "status": "19", "updatedAt": last["updatedAt"]}


def test_put_refuses_what_plexus_could_not_hold(plexus: Simulator) -> None:
    with pytest.raises(ValueError, match="no field colour"):
        plexus.put("p1", colour="red")
    with pytest.raises(ValueError, match="parsed value"):
        plexus.put("p1", metadata='{"a": 1}')
    with pytest.raises(ValueError, match="not JSON compliant"):
        plexus.put("p1", metadata={"a": float("nan")})


def test_records_are_copies(plexus: Simulator) -> None:
    given: dict[str, Any] = {"a": [1]}
    for copied in (plexus.put("p1", metadata=given), plexus.record("p1"), plexus.records()["p1"]):
        assert copied is not None
        copied["metadata"]["a"].append(2)
    given["a"].append(3)

    assert plexus.record("p1")["metadata"] == {"a": [1]}  # type: ignore[index]
    assert plexus.record("p2") is None


def test_delete(plexus: Simulator) -> None:
    plexus.put("p1")
    plexus.delete("p1")
    plexus.delete("p1")

    assert plexus.records() == {}


def test_the_data_file_is_written_at_each_mutation_and_read_at_the_start(tmp_path: Path) -> None:
    data_file = tmp_path / "plexus.json"
    with Simulator(data_file=data_file) as plexus:
        client = Client(plexus)
        client.data(CREATE, input={"id": "p1", "name": "n", "accountId": "a", "metadata": '{"a": [1]}'})
        assert json.loads(data_file.read_text())["p1"]["metadata"] == {"a": [1]}
        client.update(id="p1", status="RUNNING")
        plexus.put("p2")
        plexus.delete("p2")
        before = plexus.records()

    with Simulator(data_file=str(data_file)) as plexus:
        assert plexus.records() == before
        assert list(tmp_path.iterdir()) == [data_file]


@pytest.mark.parametrize("content", ["", "[]", '{"p1": {"id": "p2"}}'])
def test_a_file_that_is_no_data_file(tmp_path: Path, content: str) -> None:
    data_file = tmp_path / "plexus.json"
    data_file.write_text(content)

    with pytest.raises(ValueError, match="is not a data file of the simulator"):
        Simulator(data_file=data_file)


def test_counters_and_log(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")
    response = client.post(
        """query($id: ID!) { a: getProcedure(id: $id) { id } getProcedure(id: "p2") { id } __typename }""",
        id="p1",
    )
    client.update(id="p1")

    assert plexus.requests == 2
    assert plexus.operations == {"getProcedure": 2, "updateProcedure": 1}
    first, second = plexus.log
    assert first.fields == (
        TopField("getProcedure", "a", "p1"),
        TopField("getProcedure", "getProcedure", "p2"),
        TopField("__typename", "__typename"),
    )
    assert second.fields == (TopField("updateProcedure", "updateProcedure", "p1"),)
    assert (first.status, first.fault) == (200, None)
    assert first.at < second.at
    assert plexus.bytes_received > len(response.request.body or "")
    assert plexus.bytes_sent > len(response.content)

    plexus.reset_counters()

    assert (plexus.requests, plexus.bytes_received, plexus.bytes_sent) == (0, 0, 0)
    assert (plexus.operations, plexus.log) == ({}, [])


def test_another_writer_between_read_and_write(client: Client, plexus: Simulator) -> None:
    token = plexus.put("p1")["updatedAt"]
    calls: list[tuple[str, Any]] = []

    def write(name: str, args: dict[str, Any]) -> None:
        calls.append((name, args["input"]["id"]))
        plexus.put("p1", status="STALLED")

    plexus.before_mutation = write

    assert "errors" in client.update({"updatedAt": {"eq": token}}, id="p1", status="RUNNING")
    assert calls == [("updateProcedure", "p1")]
    assert plexus.record("p1")["status"] == "STALLED"  # type: ignore[index]


def test_a_hook_that_fails_is_an_error_and_nothing_is_applied(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")

    def fail(name: str, args: dict[str, Any]) -> None:
        raise RuntimeError("broken hook")

    plexus.before_mutation = fail

    assert client.update(id="p1", status="RUNNING")["errors"][0]["message"] == "broken hook"
    assert plexus.record("p1")["status"] is None  # type: ignore[index]
