"""Every fault, as a client meets it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from plexus_tactus_cache.testing.simulator import FAULTS, Simulator

from .conftest import GET, UPDATE, Client

TOUCH = 'mutation { updateProcedure(input: {id: "p1", status: "RUNNING"}) { id } }'
READ = '{ getProcedure(id: "p1") { status } }'


@pytest.fixture(autouse=True)
def record(plexus: Simulator) -> None:
    plexus.put("p1", status="PENDING")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


def status(plexus: Simulator) -> str:
    value: str = plexus.records()["p1"]["status"]
    return value


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does, and that nothing reports."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def is_refused(plexus: Simulator) -> bool:
    port = int(plexus.url.split(":")[2].split("/")[0])
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_refuse_and_heal_on_the_same_port(plexus: Simulator, client: Client) -> None:
    url = plexus.url
    for _ in range(3):
        plexus.fail("refuse")
        assert is_refused(plexus)
        plexus.heal()
        assert client.get("p1") is not None
    assert plexus.url == url


def test_refuse_cuts_a_kept_alive_connection(plexus: Simulator, client: Client) -> None:
    client.get("p1")
    plexus.fail("refuse")

    with pytest.raises(requests.ConnectionError):
        client.post(TOUCH)
    assert status(plexus) == "PENDING"


def test_refuse_cuts_a_raw_connection_before_it_can_send(plexus: Simulator) -> None:
    port = int(plexus.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        plexus.fail("refuse")
        with contextlib.suppress(ConnectionResetError):  # where it had not been accepted yet
            assert sock.recv(1) == b""


def test_nothing_is_applied_once_refuse_has_returned(plexus: Simulator, client: Client) -> None:
    serving: list[threading.Thread] = []

    def refuse(*_: object) -> None:
        serving.append(threading.current_thread())
        plexus.fail("refuse")

    plexus.before_mutation = refuse

    with pytest.raises(requests.ConnectionError):
        client.post(TOUCH)
    serving[0].join(5)  # the client hears of the cut before the server's thread could apply anything
    assert status(plexus) == "PENDING"


def test_refuse_under_load(plexus: Simulator, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()

    def write() -> None:
        writer = Client(plexus)
        while not stop.is_set():
            try:
                writer.post(UPDATE, input={"id": "p1"})
            except requests.ConnectionError:
                continue

    writers = [pool.submit(write) for _ in range(4)]
    try:
        for _ in range(5):
            arrived = plexus.requests
            eventually(lambda arrived=arrived: plexus.requests > arrived + 4)  # type: ignore[misc]
            plexus.fail("refuse")
            frozen = plexus.records()
            assert is_refused(plexus)
            assert plexus.records() == frozen
            plexus.heal()
    finally:
        stop.set()
    for writer in writers:
        writer.result(5)


def test_an_outage_ends_by_itself(plexus: Simulator) -> None:
    plexus.fail("outage", seconds=0.2)
    assert is_refused(plexus)

    eventually(lambda: not is_refused(plexus))


def test_an_outage_does_not_end_a_refusal(plexus: Simulator) -> None:
    plexus.fail("outage", seconds=0.05)
    plexus.fail("refuse")
    outage = next(thread for thread in threading.enumerate() if isinstance(thread, threading.Timer))
    outage.join(5)

    assert is_refused(plexus)


def test_heal_ends_an_outage(plexus: Simulator) -> None:
    plexus.fail("outage", seconds=60)
    plexus.heal()

    assert not is_refused(plexus)


def test_hang_never_answers(plexus: Simulator, client: Client) -> None:
    plexus.fail("hang")

    with pytest.raises(requests.ReadTimeout):
        client.post(TOUCH, timeout=0.1)
    assert status(plexus) == "PENDING"
    assert [entry.status for entry in plexus.log] == [None]


@pytest.mark.parametrize("times", [None, 1])
@pytest.mark.parametrize("end", ["heal", "stop"])
def test_hanging_requests_end(
    plexus: Simulator, client: Client, pool: ThreadPoolExecutor, times: int | None, end: str
) -> None:
    plexus.fail("hang", times=times)
    hanging = pool.submit(client.post, TOUCH)
    eventually(lambda: plexus.requests == 1)

    getattr(plexus, end)()

    with pytest.raises(requests.ConnectionError):
        hanging.result(2)
    assert status(plexus) == "PENDING"


def test_delay(plexus: Simulator, client: Client) -> None:
    plexus.fail("delay", seconds=0.1, times=1)
    began = time.monotonic()
    client.get("p1")

    assert time.monotonic() - began >= 0.1
    assert plexus.log[0].fault == "delay"


def test_a_mutation_is_applied_after_its_client_gave_up(plexus: Simulator, client: Client) -> None:
    plexus.fail("delay", seconds=0.2)

    with pytest.raises(requests.ReadTimeout):
        client.post(TOUCH, timeout=0.05)
    eventually(lambda: status(plexus) == "RUNNING")


def test_heal_ends_a_delay(plexus: Simulator, client: Client, pool: ThreadPoolExecutor) -> None:
    plexus.fail("delay", seconds=60)
    waiting = pool.submit(client.post, TOUCH)
    eventually(lambda: plexus.requests == 1)
    plexus.heal()

    assert waiting.result(5).status_code == 200


def test_delay_of_every_request() -> None:
    with Simulator(delay=0.05) as plexus:
        began = time.monotonic()
        Client(plexus).get("p1")
        assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_status(plexus: Simulator, client: Client, code: int) -> None:
    plexus.fail("status", code=code)

    response = client.post(TOUCH)

    assert response.status_code == code
    assert "errors" not in response.json()
    assert status(plexus) == "PENDING"


def test_status_is_503_by_default(plexus: Simulator, client: Client) -> None:
    plexus.fail("status")

    assert client.post(TOUCH).status_code == 503


def test_throttle_429(plexus: Simulator, client: Client) -> None:
    plexus.fail("throttle_429", retry_after=7, times=1)
    plexus.fail("throttle_429", retry_after=None, times=1)
    first, second, third = (client.post(TOUCH) for _ in range(3))

    assert (first.status_code, first.headers["Retry-After"]) == (429, "7")
    assert (second.status_code, second.headers.get("Retry-After")) == (429, None)
    assert third.status_code == 200


def test_throttle_200(plexus: Simulator, client: Client) -> None:
    plexus.fail("throttle_200")

    answer = client('mutation { a: updateProcedure(input: {id: "p1", status: "RUNNING"}) { id } }')

    assert answer["data"] == {"a": None}
    (error,) = answer["errors"]
    assert (error["path"], error["errorType"]) == (["a"], "ThrottlingException")
    assert status(plexus) == "PENDING"
    assert plexus.operations == {}


@pytest.mark.parametrize(("fault", "after"), [("drop_before", "PENDING"), ("drop_after", "RUNNING")])
def test_dropped_connections(plexus: Simulator, client: Client, fault: str, after: str) -> None:
    plexus.fail(fault, times=1)

    with pytest.raises(requests.ConnectionError):
        client.post(TOUCH)
    assert status(plexus) == after
    assert plexus.log[0].status is None
    assert client.get("p1") is not None


def test_html(plexus: Simulator, client: Client) -> None:
    plexus.fail("html")

    response = client.post(TOUCH)

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert status(plexus) == "PENDING"


def test_redirect_leads_to_html(plexus: Simulator, client: Client) -> None:
    plexus.fail("redirect")

    assert client.post(TOUCH).status_code == 302
    followed = client.session.post(plexus.url, json={"query": TOUCH}, timeout=5)
    assert (followed.status_code, followed.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert plexus.requests == 2


def test_expired_key(plexus: Simulator, client: Client) -> None:
    plexus.fail("expired_key")

    response = client.post(TOUCH)

    assert response.status_code == 401
    assert response.json()["errors"][0]["errorType"] == "UnauthorizedException"
    assert status(plexus) == "PENDING"


def test_stale_reads_serve_the_previous_version(plexus: Simulator, client: Client) -> None:
    plexus.put("p1", status="RUNNING")
    plexus.put("new")
    plexus.fail("stale", times=3)

    assert client.data(READ)["getProcedure"]["status"] == "PENDING"
    assert client.data(TOUCH)  # not a read: it neither fails nor counts
    assert client.data(READ)["getProcedure"]["status"] == "RUNNING"
    assert client.data(GET, id="new") == {"getProcedure": None}
    assert client.data(READ)["getProcedure"]["status"] == "RUNNING"
    assert client.get("new") is not None


def test_only_one_kind(plexus: Simulator, client: Client) -> None:
    plexus.fail("status", only="mutation")
    assert client.post(READ).status_code == 200
    assert client.post(TOUCH).status_code == 503
    plexus.heal()

    plexus.fail("status", only="query", times=1)
    assert client.post(TOUCH).status_code == 200
    assert client.post(READ).status_code == 503
    assert client.post(READ).status_code == 200


def test_counted_faults_come_in_turn_and_before_endless_ones(plexus: Simulator, client: Client) -> None:
    plexus.fail("html")
    plexus.fail("status", code=500, times=1)
    plexus.fail("status", code=502, times=2)

    assert [client.post(READ).status_code for _ in range(4)] == [500, 502, 502, 200]
    assert [entry.fault for entry in plexus.log] == ["status", "status", "status", "html"]


@pytest.mark.parametrize("fault", FAULTS)
def test_heal_ends_every_fault(plexus: Simulator, client: Client, fault: str) -> None:
    if fault in {"delay", "outage"}:
        plexus.fail(fault, seconds=60)
    else:
        plexus.fail(fault)
    plexus.heal()

    assert client.data(TOUCH) == {"updateProcedure": {"id": "p1"}}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"fault": "gremlins"}, "unknown fault 'gremlins'; known: refuse, "),
        ({"fault": "hang", "seconds": 3}, "no parameter seconds; it takes: none"),
        ({"fault": "delay"}, "needs seconds="),
        ({"fault": "delay", "seconds": -1}, "not negative"),
        ({"fault": "status", "code": 42}, "HTTP status"),
        ({"fault": "status", "only": "reads"}, "'mutation' or 'query'"),
        ({"fault": "status", "times": 0}, "positive"),
        ({"fault": "refuse", "times": 1}, "neither times= nor only="),
    ],
)
def test_a_fault_that_makes_no_sense(plexus: Simulator, client: Client, call: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plexus.fail(**call)  # type: ignore[arg-type]
    assert client.post(READ).status_code == 200
