"""PlexusClient: GraphQL requests to Plexus, with explicit limits and no retries of its own."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from enum import Enum
from typing import Any, Final, Protocol

import requests
from gql import Client, gql
from gql.transport.requests import RequestsHTTPTransport

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.errors import WrongType
from plexus_tactus_cache.remote.failures import Failure, classify, retry_after_of

URL_VARIABLE, KEY_VARIABLE = "PLEXUS_API_URL", "PLEXUS_API_KEY"


def keep_payloads_out_of_the_log() -> None:
    """gql 3.5 logs whole requests and answers at INFO, under Plexus's own client too: they are nobody's business."""
    transport_log = logging.getLogger("gql.transport.requests")
    if transport_log.level == logging.NOTSET:
        transport_log.setLevel(logging.WARNING)


class GraphQLClient(Protocol):
    """What a cache needs of a client: Plexus's own `PlexusDashboardClient` has it too.

    `execute` returns the `data` object and raises anything at all when there are errors; it may be called from
    several threads.
    """

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]: ...


class Offline(Enum):
    """`OFFLINE`, given as a client: none, whatever the environment says. Everything is kept and nothing pushed."""

    # An enum of one member: it stays the same object when it is copied or pickled, and type checkers tell it apart.
    OFFLINE = "offline"

    def __repr__(self) -> str:
        return self.name


OFFLINE: Final = Offline.OFFLINE


class PlexusClient:
    """A client for one API endpoint; each thread that uses it gets a session of its own.

    Args:
        api_url: URL of the GraphQL API.
        api_key: sent as `x-api-key`.
        timeout: seconds that connecting, and then each wait for an answer, may take.
    """

    def __init__(self, api_url: str, api_key: str, *, timeout: float = 10.0) -> None:
        self.api_url = checks.text(api_url, "api_url")
        self._api_key = checks.text(api_key, "api_key")
        self.timeout = checks.seconds(timeout)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"PlexusClient({self.api_url!r})"

    @staticmethod
    def from_environment(*, timeout: float = 10.0) -> PlexusClient | None:
        """The client that `PLEXUS_API_URL` and `PLEXUS_API_KEY` describe; None unless both are set."""
        url, key = os.environ.get(URL_VARIABLE), os.environ.get(KEY_VARIABLE)
        return PlexusClient(url, key, timeout=timeout) if url and key else None

    @property
    def credentials(self) -> str:
        """A fingerprint that changes with the key and says nothing about it."""
        return hashlib.blake2b(
            f"{self.api_url} {self._api_key}".encode(), digest_size=8, person=b"plexus-cache"
        ).hexdigest()

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]:
        """The `data` of one GraphQL request, sent once.

        Raises gql's and requests' exceptions as they are; `classify` says what they mean.
        """
        session = self._session()
        request = gql(query)
        if hasattr(request, "variable_values"):  # gql 4: variables belong to the request
            request.variable_values = variables
            data = session.execute(request)
        else:
            data = session.execute(request, variable_values=variables)
        if not isinstance(data, dict):
            raise TypeError("the answer has no data")
        return data

    def classify(self, error: BaseException) -> Failure:
        """What an exception raised by `execute` in this thread means."""
        return classify(
            error, status=getattr(self._local, "status", None), retry_after=getattr(self._local, "retry_after", None)
        )

    def _session(self) -> Any:
        """This thread's session, in this process: a connection must not be shared with a forked child."""
        if getattr(self._local, "pid", None) != os.getpid():
            transport = RequestsHTTPTransport(
                url=self.api_url,
                headers={"x-api-key": self._api_key},
                timeout=self.timeout,  # type: ignore[arg-type]  # handed on to requests, which takes floats
                retries=0,  # a resent mutation, and a lost status code
                allow_redirects=False,  # a captive portal must not see the key
            )
            client = Client(transport=transport, fetch_schema_from_transport=False)
            self._local.session = client.connect_sync()  # type: ignore[no-untyped-call]
            self._local.client = client
            transport.session.hooks["response"].append(self._note)  # type: ignore[union-attr]
            self._local.pid = os.getpid()
        self._local.status = self._local.retry_after = None
        return self._local.session

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Remember what gql drops when the body of an error is GraphQL."""
        self._local.status = response.status_code
        self._local.retry_after = retry_after_of(response.headers)

    def close(self) -> None:
        """Close this thread's connection."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.client.close_sync()
        self._local.pid = None


def client_or_none(given: GraphQLClient | Offline | None, *, timeout: float = 10.0) -> GraphQLClient | None:
    """The client that a caller means: the given one, or for None the environment's; None: there is none.

    Raises WrongType for what is none.
    """
    if given is OFFLINE:
        return None
    if given is not None and not callable(getattr(given, "execute", None)):
        raise WrongType("client", f"want a PlexusClient or what has its `execute`, not {checks.kind_of(given)}")
    return PlexusClient.from_environment(timeout=timeout) if given is None else given


def endpoint_of(client: GraphQLClient | Offline | None) -> str | None:
    """The API URL of a client, ours or Plexus's; without one, that of the environment."""
    if client is None or client is OFFLINE:
        return None
    found = getattr(client, "api_url", None)
    return found if isinstance(found, str) else os.environ.get(URL_VARIABLE)
