"""PlexusClient: GraphQL requests to Plexus, with explicit limits and no retries of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from enum import Enum
from typing import Any, Final, Protocol

import requests
from gql import Client, gql
from gql.transport.requests import RequestsHTTPTransport
from pydantic import SecretStr

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.errors import InvalidArgument, InvalidClient, WrongType
from plexus_tactus_cache.remote.discreet import discreet
from plexus_tactus_cache.remote.endpoint import origin_of, refusal_of
from plexus_tactus_cache.remote.failures import Failure, Redirected, classify, retry_after_of
from plexus_tactus_cache.settings import CacheSettings

URL_VARIABLE, KEY_VARIABLE = "PLEXUS_API_URL", "PLEXUS_API_KEY"


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


class _HeaderValue(str):
    """Text that is sent as it is, and shown nowhere."""

    def __repr__(self) -> str:
        return "'**********'"


class _ApiKey(requests.auth.AuthBase):
    """Puts the key into a request at the last moment. That it is there keeps requests from looking into .netrc."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["x-api-key"] = _HeaderValue(self._key.get_secret_value())
        return request


class PlexusClient:
    """A client for one API endpoint; each thread that uses it gets a session of its own.

    Args:
        api_url: URL of the GraphQL API: https://, or http:// on this machine.
        api_key: sent as `x-api-key`.
        timeout: seconds that connecting, and then each wait for an answer, may take.
        allow_http: whether an http:// URL of another machine will do; None: as PLEXUS_CACHE_ALLOW_HTTP says.

    Raises InvalidClient.
    """

    def __init__(self, api_url: str, api_key: str, *, timeout: float = 10.0, allow_http: bool | None = None) -> None:
        for given, name in ((api_url, "api_url"), (api_key, "api_key")):
            if not isinstance(given, str):
                raise WrongType(name, f"want text, not {checks.kind_of(given)}")
        del given  # tracebacks may show locals
        refusal = _refusal_of_key(api_key)
        self._api_key = SecretStr(api_key)
        del api_key  # as above
        self.api_url = "refused"  # and us
        refusal = refusal or refusal_of(api_url, allow_http)
        if refusal is not None:
            del api_url  # so may be a password in it
            raise InvalidClient(refusal)
        self.api_url = api_url
        self.allow_http = allow_http
        self.timeout = checks.seconds(timeout)
        if self.timeout == 0:
            raise InvalidArgument("timeout", "want more than 0 seconds")
        if allow_http is not None:
            checks.instance(allow_http, bool, "allow_http")
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"PlexusClient({self.api_url!r})"

    @staticmethod
    def from_environment(*, timeout: float = 10.0, allow_http: bool | None = None) -> PlexusClient | None:
        """The client that `PLEXUS_API_URL` and `PLEXUS_API_KEY` describe; None unless both are set.

        Raises InvalidClient.
        """
        if not (os.environ.get(URL_VARIABLE) and os.environ.get(KEY_VARIABLE)):
            return None
        # Not in locals, which a traceback may show.
        return PlexusClient(os.environ[URL_VARIABLE], os.environ[KEY_VARIABLE], timeout=timeout, allow_http=allow_http)

    @property
    def credentials(self) -> str:
        """A fingerprint that changes with the key and says nothing about it."""
        return hashlib.blake2b(
            f"{self.api_url} {self._api_key.get_secret_value()}".encode(), digest_size=8, person=b"plexus-cache"
        ).hexdigest()

    def execute(self, query: str, variables: dict[str, Any] | None = None, /) -> dict[str, Any]:
        """The `data` of one GraphQL request, sent once.

        Raises gql's and requests' exceptions as they are; `classify` says what they mean.
        """
        with discreet("gql"):
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
        found = classify(
            error, status=getattr(self._local, "status", None), retry_after=getattr(self._local, "retry_after", None)
        )
        message = found.message.replace(self._api_key.get_secret_value(), "...")  # should Plexus repeat it
        return dataclasses.replace(found, message=message)

    def _session(self) -> Any:
        """This thread's session, in this process: a connection must not be shared with a forked child."""
        if getattr(self._local, "pid", None) != os.getpid():
            transport = RequestsHTTPTransport(
                url=self.api_url,
                auth=_ApiKey(self._api_key),
                timeout=self.timeout,  # type: ignore[arg-type]  # handed on to requests, which takes floats
                retries=0,  # a resent mutation, and a lost status code
                allow_redirects=False,  # nobody else must see the key: see `_note`
            )
            client = Client(transport=transport, fetch_schema_from_transport=False)
            self._local.session = client.connect_sync()  # type: ignore[no-untyped-call]
            self._local.client = client
            transport.session.hooks["response"].append(self._note)  # type: ignore[union-attr]
            self._local.pid = os.getpid()
        self._local.status = self._local.retry_after = None
        return self._local.session

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Remember what gql drops when the body of an error is GraphQL. Raises Redirected, which gql would overlook."""
        self._local.status = response.status_code
        self._local.retry_after = retry_after_of(response.headers)
        if 300 <= response.status_code < 400:
            response.close()
            raise Redirected(response.status_code, origin_of(self.api_url, response.headers.get("Location", "")))

    def close(self) -> None:
        """Close this thread's connection."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.client.close_sync()
        self._local.pid = None


def _refusal_of_key(key: str) -> str | None:
    """Why a key cannot be sent; http.client would say it with the key in the message."""
    if isinstance(key, str) and key and key.isascii() and key.isprintable() and " " not in key:
        return None
    return f"the API key ({KEY_VARIABLE}) has to be visible ASCII characters: is there a line end or a space in it?"


def client_or_none(given: GraphQLClient | Offline | None, settings: CacheSettings) -> GraphQLClient | None:
    """The client that a caller means: the given one, or for None the environment's; None: there is none.

    Raises InvalidClient, and WrongType for what is none.
    """
    if given is OFFLINE:
        return None
    if given is not None and not callable(getattr(given, "execute", None)):
        raise WrongType("client", f"want a PlexusClient or what has its `execute`, not {checks.kind_of(given)}")
    if given is None:
        return PlexusClient.from_environment(timeout=settings.request_timeout, allow_http=settings.allow_http)
    url = getattr(given, "api_url", None)
    if isinstance(url, str):
        refusal = refusal_of(url, getattr(given, "allow_http", None) or settings.allow_http)
        if refusal is not None:
            del url  # there may be a password in it, and tracebacks may show locals
            raise InvalidClient(refusal)
    return given


def endpoint_of(client: GraphQLClient | Offline | None) -> str | None:
    """The API URL of a client, ours or Plexus's; without one, that of the environment."""
    if client is None or client is OFFLINE:
        return None
    found = getattr(client, "api_url", None)
    return found if isinstance(found, str) else os.environ.get(URL_VARIABLE)
