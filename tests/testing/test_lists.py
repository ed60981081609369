"""Lists and their pages: plexus-facts section 1."""

from itertools import chain
from typing import Any

import pytest

from plexus_tactus_cache.testing.simulator import Simulator

from .conftest import VALIDATION, Client

SCAN = """query($filter: ModelProcedureFilterInput, $limit: Int, $nextToken: String) {
  page: listProcedures(filter: $filter, limit: $limit, nextToken: $nextToken) { items { id } nextToken }
}"""
BY_ACCOUNT = """query(
  $updatedAt: ModelStringKeyConditionInput, $sortDirection: ModelSortDirection,
  $filter: ModelProcedureFilterInput, $limit: Int, $nextToken: String
) {
  page: listProcedureByAccountIdAndUpdatedAt(
    accountId: "a", updatedAt: $updatedAt, sortDirection: $sortDirection,
    filter: $filter, limit: $limit, nextToken: $nextToken
  ) { items { id } nextToken }
}"""


@pytest.fixture(autouse=True)
def records(plexus: Simulator) -> None:
    for number in range(9):
        account = "b" if number == 8 else "a"
        status = "RUNNING" if number == 5 else "PENDING"
        plexus.put(f"p{number}", accountId=account, status=status, updatedAt=f"2026-11-24T00:00:0{number}.000Z")


def pages(client: Client, query: str, **variables: Any) -> list[list[str]]:
    found, token = [], None
    while True:
        page = client.data(query, nextToken=token, **variables)["page"]
        found.append([item["id"] for item in page["items"]])
        token = page["nextToken"]
        if token is None:
            return found


def test_a_scan_pages_through_everything_once(client: Client) -> None:
    found = pages(client, SCAN, limit=4)

    assert [len(page) for page in found] == [4, 4, 1]
    ids = [record_id for page in found for record_id in page]
    assert sorted(ids) == [f"p{number}" for number in range(9)]
    assert ids != sorted(ids)


def test_the_limit_counts_before_the_filter(client: Client) -> None:
    found = pages(client, SCAN, limit=2, filter={"status": {"eq": "RUNNING"}})

    assert len(found) == 5
    assert sorted(found) == [[], [], [], [], ["p5"]]


def test_a_page_ends_at_1_mb(client: Client, plexus: Simulator) -> None:
    for number in range(4):
        plexus.put(f"big{number}", metadata={"v": "x" * 390_000})

    assert len(pages(client, SCAN)) == 2


def test_paging_survives_a_deleted_record(client: Client, plexus: Simulator) -> None:
    first = client.data(BY_ACCOUNT, limit=3)["page"]
    plexus.delete("p2")

    rest = client.data(BY_ACCOUNT, nextToken=first["nextToken"])["page"]

    assert [item["id"] for item in rest["items"]] == ["p3", "p4", "p5", "p6", "p7"]


def test_by_account_is_ordered_by_updated_at(client: Client) -> None:
    expected = [f"p{number}" for number in range(8)]

    assert pages(client, BY_ACCOUNT) == [expected]
    assert list(chain(*pages(client, BY_ACCOUNT, limit=3, sortDirection="DESC"))) == expected[::-1]


def test_by_account_since(client: Client) -> None:
    assert pages(client, BY_ACCOUNT, updatedAt={"gt": "2026-11-24T00:00:05.000Z"}) == [["p6", "p7"]]


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: {"and": [{"not": part}]}])
def test_updated_at_inside_the_filter_is_refused(client: Client, wrap: Any) -> None:
    answer = client(BY_ACCOUNT, filter=wrap({"updatedAt": {"gt": "2026"}}))

    assert answer["data"] == {"page": None}
    assert answer["errors"][0]["errorType"] == VALIDATION
    assert pages(client, BY_ACCOUNT, filter={"status": {"eq": "RUNNING"}}) == [["p5"]]


@pytest.mark.parametrize("bad", [{"nextToken": "nonsense"}, {"limit": 0}])
def test_bad_paging_is_refused(client: Client, bad: dict[str, Any]) -> None:
    assert client(SCAN, **bad)["data"] == {"page": None}
