"""A simulator per test, and a client as plain as can be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from plexus_tactus_cache.testing.simulator import Simulator

CONDITIONAL = "DynamoDB:ConditionalCheckFailedException"
VALIDATION = "DynamoDB:ValidationException"

UPDATE = """
mutation Update($input: UpdateProcedureInput!, $condition: ModelProcedureConditionInput) {
  updateProcedure(input: $input, condition: $condition) { id name status metadata updatedAt }
}
"""
CREATE = """
mutation Create($input: CreateProcedureInput!) {
  createProcedure(input: $input) { id name metadata createdAt updatedAt }
}
"""
GET = "query Get($id: ID!) { getProcedure(id: $id) { id name status metadata createdAt updatedAt } }"


class Client:
    """Posts GraphQL over one kept-alive session."""

    def __init__(self, plexus: Simulator) -> None:
        self.url = plexus.url
        self.session = requests.Session()
        self.session.headers["x-api-key"] = plexus.api_key

    def post(self, query: str, *, timeout: float = 5, **variables: Any) -> requests.Response:
        body = {"query": query, "variables": variables}
        return self.session.post(self.url, json=body, timeout=timeout, allow_redirects=False)

    def __call__(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the body of an answer that must be HTTP 200."""
        response = self.post(query, **variables)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def data(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of an answer that must have no errors."""
        answer = self(query, **variables)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def update(self, condition: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        return self(UPDATE, input=fields, condition=condition)

    def get(self, record_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.data(GET, id=record_id)["getProcedure"]
        return found


@pytest.fixture
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def client(plexus: Simulator) -> Iterator[Client]:
    made = Client(plexus)
    with made.session:
        yield made


@pytest.fixture
def matches(client: Client) -> Callable[..., bool]:
    """Say whether a condition lets an update of record p1 through."""

    def matches(**condition: Any) -> bool:
        answer = client.update(condition, id="p1", code="touched")
        if "errors" not in answer:
            return True
        assert [error["errorType"] for error in answer["errors"]] == [CONDITIONAL]
        return False

    return matches
