"""Clients that are not ours."""

from __future__ import annotations

from typing import Any

from gql import Client, gql
from gql.transport.requests import RequestsHTTPTransport


class DashboardClient:
    """As Plexus's PlexusDashboardClient: a new transport for each call, three retries, a bare Exception."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self.api_url, self.api_key = api_url, api_key

    def execute(
        self, query: str, variables: dict[str, Any] | None = None, retry_policy: str | None = None
    ) -> dict[str, Any]:
        transport = RequestsHTTPTransport(url=self.api_url, headers={"x-api-key": self.api_key}, verify=True, retries=3)
        request: Any = gql(query)
        options: dict[str, Any] = {}
        if hasattr(request, "variable_values"):
            request.variable_values = variables
        else:
            options["variable_values"] = variables
        try:
            found: dict[str, Any] = Client(transport=transport).execute(request, **options)
        except Exception as error:
            raise Exception(f"GraphQL query failed: {error}") from error
        return found
