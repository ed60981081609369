"""What becomes of metadata on its way: plexus-facts section 3."""

import json
from typing import Any

import pytest

from plexus_tactus_cache.testing.simulator import Simulator

from .conftest import VALIDATION, Client


@pytest.fixture(autouse=True)
def record(plexus: Simulator) -> None:
    plexus.put("p1", metadata={"old": True})


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def sent_and_returned(client: Client, text: str) -> str:
    returned: str = client.update(id="p1", metadata=text)["data"]["updateProcedure"]["metadata"]
    return returned


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ("1.0", "1"),
        ("-0.0", "0"),
        ("1e2", "100"),
        ("0.1", "0.1"),
        ("9007199254740991", "9007199254740991"),
        ("9007199254740993", "9007199254740992"),
        ("true", "true"),
        ("null", "null"),
        ('"\\u00e9\\ud83d\\ude00"', '"é😀"'),
        ('{ "b" : [ 1 , { } ] }', '{"b":[1,{}]}'),
    ],
)
def test_values_come_back_reserialised(client: Client, sent: str, returned: str) -> None:
    assert sent_and_returned(client, f'{{"v": {sent}}}') == f'{{"v":{returned}}}'


def test_key_order_is_not_kept(client: Client) -> None:
    given = {f"key{number}": number for number in range(20)}

    back = json.loads(sent_and_returned(client, json.dumps(given)))

    assert back == given
    assert list(back) != list(given)
    assert list(back) != sorted(given)


def test_null_removes_the_attribute(client: Client, plexus: Simulator) -> None:
    client.update(id="p1", metadata=None)

    assert plexus.record("p1")["metadata"] is None  # type: ignore[index]
    assert "errors" not in client.update({"metadata": {"attributeExists": False}}, id="p1")


@pytest.mark.parametrize("bad", ['{"v": NaN}', '{"v": Infinity}', '{"v": -Infinity}', "{", "", {"an": "object"}])
@pytest.mark.parametrize("inline", [True, False])
def test_invalid_json_refuses_the_whole_document(client: Client, plexus: Simulator, bad: Any, inline: bool) -> None:
    value = json.dumps(bad) if inline and isinstance(bad, str) else "$bad"
    query = f"""mutation($bad: AWSJSON) {{
      good: updateProcedure(input: {{id: "p1", status: "RUNNING"}}) {{ id }}
      bad: updateProcedure(input: {{id: "p1", metadata: {value}}}) {{ id }}
    }}"""

    answer = client(query, bad=bad)

    assert answer["data"] is None
    for error in answer["errors"]:
        assert "errorType" not in error
        assert "path" not in error
    record = plexus.record("p1")
    assert record is not None
    assert (record["status"], record["metadata"]) == (None, {"old": True})


def test_nesting_of_32_levels_is_the_limit(client: Client, plexus: Simulator) -> None:
    assert "errors" not in client.update(id="p1", metadata=nested(32))

    answer = client.update(id="p1", metadata=nested(33))

    assert answer["data"] == {"updateProcedure": None}
    assert answer["errors"][0]["errorType"] == VALIDATION
    assert client.update(id="p1", metadata=nested(100_000))["data"] in (None, {"updateProcedure": None})
    assert plexus.record("p1")["metadata"] == json.loads(nested(32))  # type: ignore[index]


def test_an_item_over_400_kb_is_refused(client: Client, plexus: Simulator) -> None:
    assert "errors" not in client.update(id="p1", metadata=json.dumps({"v": "x" * 400_000}))

    answer = client.update(id="p1", metadata=json.dumps({"v": "x" * 410_000}))

    assert answer["data"] == {"updateProcedure": None}
    assert answer["errors"][0]["errorType"] == VALIDATION
    assert answer["errors"][0]["message"] == "Item size to update has exceeded the maximum allowed size"
    assert len(plexus.record("p1")["metadata"]["v"]) == 400_000  # type: ignore[index]


def test_the_limit_counts_bytes_not_characters(client: Client) -> None:
    answer = client.update(id="p1", metadata=json.dumps({"v": "漢" * 140_000}, ensure_ascii=False))

    assert answer["errors"][0]["errorType"] == VALIDATION


def test_a_request_over_1_mb_is_refused(client: Client) -> None:
    response = client.post("mutation($v: AWSJSON) { __typename }", v="x" * 1_100_000)

    assert response.status_code == 413
    assert client.get("p1") is not None  # the connection is still good


def test_a_lone_surrogate_does_not_break_the_answer(client: Client) -> None:
    assert sent_and_returned(client, '{"v":"\\ud800"}') == '{"v":"?"}'
