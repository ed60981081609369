"""Reading and writing one record: plexus-facts sections 1, 2 and 4."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import requests

from plexus_tactus_cache.testing.simulator import Simulator

from .conftest import CONDITIONAL, CREATE, GET, UPDATE, Client

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_unknown_id_is_null_without_an_error(client: Client) -> None:
    assert client(GET, id="nowhere") == {"data": {"getProcedure": None}}


def test_create_takes_the_clients_id_and_stamps_both_times(client: Client, plexus: Simulator) -> None:
    created = client.data(CREATE, input={"id": "p1", "name": "n", "accountId": "a"})["createProcedure"]

    assert created["id"] == "p1"
    assert STAMP.fullmatch(created["createdAt"])
    assert created["updatedAt"] == created["createdAt"]
    assert plexus.record("p1")["accountId"] == "a"  # type: ignore[index]


def test_create_without_an_id_makes_one(client: Client, plexus: Simulator) -> None:
    created = client.data(CREATE, input={"name": "n", "accountId": "a"})["createProcedure"]

    assert list(plexus.records()) == [created["id"]]


def test_create_requires_name_and_account(client: Client, plexus: Simulator) -> None:
    for given in ({"name": "n"}, {"accountId": "a"}):
        assert client(CREATE, input=given)["data"] is None
    assert plexus.records() == {}


def test_second_create_fails_on_the_condition(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", name="first")

    answer = client(CREATE, input={"id": "p1", "name": "second", "accountId": "a"})

    assert answer["data"] == {"createProcedure": None}
    assert answer["errors"][0]["errorType"] == CONDITIONAL
    assert plexus.record("p1")["name"] == "first"  # type: ignore[index]


def test_update_changes_the_given_fields_only_and_null_removes(client: Client, plexus: Simulator) -> None:
    before = plexus.put("p1", name="n", description="d", code="c", metadata={"a": 1})

    client.update(id="p1", code=None, status="RUNNING")

    after = plexus.record("p1")
    assert after == before | {"code": None, "status": "RUNNING", "updatedAt": after["updatedAt"]}  # type: ignore[index]
    assert STAMP.fullmatch(after["updatedAt"])


def test_updated_at_can_be_set_and_keeps_its_digits(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")

    answer = client.update(id="p1", updatedAt="2020-01-01T00:00:06.000000Z")

    assert answer["data"]["updateProcedure"]["updatedAt"] == "2020-01-01T00:00:06.000000Z"


def test_a_null_updated_at_breaks_the_record(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")
    client.update(id="p1", updatedAt=None)

    answer = client(GET, id="p1")

    assert answer["data"] == {"getProcedure": None}
    assert answer["errors"][0]["path"] == ["getProcedure", "updatedAt"]


def test_malformed_time_is_refused(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")

    answer = client.update(id="p1", updatedAt="yesterday")

    assert answer["data"] is None
    assert plexus.operations == {}


def test_failed_condition_has_the_shape_of_appsync(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", status="RUNNING")

    answer = client.update({"status": {"eq": "PENDING"}}, id="p1", status="ERROR")

    assert answer["data"] == {"updateProcedure": None}
    (error,) = answer["errors"]
    assert error["path"] == ["updateProcedure"]
    assert error["errorType"] == CONDITIONAL
    assert error["data"] is None
    assert error["message"].startswith("The conditional request failed (Service: DynamoDb, ")
    assert plexus.record("p1")["status"] == "RUNNING"  # type: ignore[index]


def test_update_of_an_unknown_id_fails_like_a_condition(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", status="RUNNING")
    failed = client.update({"status": {"eq": "PENDING"}}, id="p1")

    assert client.update(id="nowhere") == failed


def test_delete(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", name="n")
    mutation = "mutation($id: ID!) { deleteProcedure(input: {id: $id}) { name } }"

    assert client.data(mutation, id="p1") == {"deleteProcedure": {"name": "n"}}
    assert plexus.record("p1") is None
    assert client(mutation, id="p1")["errors"][0]["errorType"] == CONDITIONAL


def test_the_token_compares_strings(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", updatedAt="2026-11-24T00:00:06.000Z")

    assert "errors" in client.update({"updatedAt": {"eq": "2026-11-24T00:00:06.000000Z"}}, id="p1")
    assert "errors" not in client.update({"updatedAt": {"eq": "2026-11-24T00:00:06.000Z"}}, id="p1")


def test_of_forty_concurrent_updates_on_one_token_one_wins(plexus: Simulator) -> None:
    # All forty are let go at once, on a record that takes a while to write: without the lock, several win.
    token = plexus.put("p1", metadata={"v": list(range(30_000))})["updatedAt"]
    together = threading.Barrier(40)
    plexus.before_mutation = lambda *_: together.wait(10)

    def attempt(number: int) -> bool:
        condition = {"updatedAt": {"eq": token}}
        # Set by each, and different from the token: two automatic stamps within a millisecond are equal.
        given = {"id": "p1", "name": str(number), "updatedAt": "2030-01-01T00:00:00.000Z"}
        body = {"query": UPDATE, "variables": {"input": given, "condition": condition}}
        answer = requests.post(plexus.url, json=body, headers={"x-api-key": plexus.api_key}, timeout=10).json()
        return "errors" not in answer

    with ThreadPoolExecutor(40) as pool:
        won = list(pool.map(attempt, range(40)))

    assert won.count(True) == 1
    assert plexus.record("p1")["name"] == str(won.index(True))  # type: ignore[index]


def test_a_failing_alias_does_not_stop_the_later_ones(client: Client, plexus: Simulator) -> None:
    plexus.put("p1")
    plexus.put("p2")

    answer = client("""mutation {
      first: updateProcedure(input: {id: "p1", status: "RUNNING"}) { id }
      second: updateProcedure(input: {id: "nowhere", status: "RUNNING"}) { id }
      third: updateProcedure(input: {id: "p2", status: "RUNNING"}) { id }
    }""")

    assert answer["data"] == {"first": {"id": "p1"}, "second": None, "third": {"id": "p2"}}
    assert [error["path"] for error in answer["errors"]] == [["second"]]
    assert {record["status"] for record in plexus.records().values()} == {"RUNNING"}


def test_aliased_mutations_run_in_order(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", status="PENDING")

    client.data("""mutation {
      b: updateProcedure(input: {id: "p1", status: "RUNNING"}, condition: {status: {eq: "PENDING"}}) { id }
      a: updateProcedure(input: {id: "p1", status: "COMPLETE"}, condition: {status: {eq: "RUNNING"}}) { id }
    }""")

    assert plexus.record("p1")["status"] == "COMPLETE"  # type: ignore[index]


def test_aliased_queries(client: Client, plexus: Simulator) -> None:
    plexus.put("p1", name="one")

    data = client.data('{ a: getProcedure(id: "p1") { name } b: getProcedure(id: "p2") { name } }')

    assert data == {"a": {"name": "one"}, "b": None}


def test_every_field_can_be_written_and_read(client: Client, plexus: Simulator) -> None:
    given = {
        "id": "p1",
        "name": "n",
        "description": "d",
        "featured": True,
        "isTemplate": False,
        "parentProcedureId": "p0",
        "code": "return 1",
        "attachedFiles": ["a", "b"],
        "category": "c",
        "version": "1",
        "isDefault": False,
        "status": "PENDING",
        "waitingOnMessageId": "m",
        "metadata": '{"a":1}',
        "createdAt": "2026-11-24T00:00:00.000Z",
        "updatedAt": "2026-11-24T00:00:00.000Z",
        "accountId": "a",
        "scorecardId": "s",
        "scoreId": "s",
        "scoreVersionId": "s",
        "createdByUserId": "u",
    }
    client.data(CREATE, input=given)

    assert client.data(f'{{ getProcedure(id: "p1") {{ {" ".join(given)} }} }}')["getProcedure"] == given
    assert plexus.record("p1") == given | {"metadata": {"a": 1}}


def test_wrong_or_missing_key(plexus: Simulator) -> None:
    for headers in ({"x-api-key": "wrong"}, {}):
        response = requests.post(plexus.url, json={"query": "{__typename}"}, headers=headers, timeout=5)

        assert response.status_code == 401
        (error,) = response.json()["errors"]
        assert error["errorType"] == "UnauthorizedException"


def test_what_is_not_graphql(client: Client, plexus: Simulator) -> None:
    for body in (b"", b"[]", b"{}", b'{"query": "{"}', b'{"query": "{__typename}", "variables": 3}'):
        assert client.session.post(plexus.url, data=body, timeout=5).status_code == 400
    assert client.session.get(plexus.url, timeout=5).status_code == 405
    assert client.session.post(plexus.url + "/other", timeout=5).status_code == 404


def test_an_unknown_field_is_a_validation_error(client: Client) -> None:
    answer = client('{ getProcedure(id: "p1") { colour } }')

    assert answer["data"] is None
    assert "path" not in answer["errors"][0]
    assert "errorType" not in answer["errors"][0]
