"""Failure classes: what came back from Plexus or S3, turned into what to do about it. The one place that decides.

| class        | what came back                                              | what is done                         |
|--------------|-------------------------------------------------------------|--------------------------------------|
| offline      | no connection, timeout, 5xx, an answer that is not GraphQL  | back off, probe, keep everything     |
| throttled    | 429, a Throttling error inside a 200                        | wait as told, else back off harder   |
| unauthorized | 401, 403, an Unauthorized error                             | pause, say so, give up leadership    |
| conflict     | a failed condition                                          | read the record, reconcile           |
| refused      | invalid, too large; by S3: not there, denied, credentials   | park this one, go on with the others |
| unavailable  | S3 is out of reach: no connection, timeout, 5xx, throttling | retry with growing delay, for ever   |
| unknown      | anything else                                               | retry with growing delay, then park  |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import requests
from gql.transport.exceptions import TransportError, TransportProtocolError, TransportServerError

from plexus_tactus_cache.errors import InvalidClient, RemoteUnavailable
from plexus_tactus_cache.printable import printable

_MAX_MESSAGE = 200  # characters of Plexus's own words that we pass on


class FailureClass(Enum):
    OFFLINE = "offline"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Failure:
    """What went wrong with a request, or with one procedure of it; `retry_after` is in seconds."""

    kind: FailureClass
    message: str
    retry_after: float | None = None
    not_sent: bool = False  # certain that Plexus did not get to see it
    by_s3: bool = False  # refused by S3, or for want of what it takes to ask it

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))  # much of it is what others said


class RequestFailed(Exception):
    """A whole request failed."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


class Redirected(requests.RequestException):
    """Plexus's answer was a redirect, to `origin`. It is not followed, since whoever is there would get the key."""

    def __init__(self, status: int, origin: str) -> None:
        super().__init__(f"HTTP {status}, a redirect to {origin}, which is not followed (a captive portal?)")


@contextlib.contextmanager
def plexus_needed() -> Iterator[None]:
    """For a call that needs Plexus: what a request raises comes out as RemoteUnavailable."""
    try:
        yield
    except RequestFailed as error:
        raise RemoteUnavailable(f"{error.failure.kind.value}: {error.failure.message}") from error


# Fragments of AppSync's and DynamoDB's errorType. Never match on the message of a conditional failure (§2).
_BY_TYPE = (
    ("ConditionalCheckFailed", FailureClass.CONFLICT),
    ("Unauthorized", FailureClass.UNAUTHORIZED),
    ("AccessDenied", FailureClass.UNAUTHORIZED),
    ("UnrecognizedClient", FailureClass.UNAUTHORIZED),
    ("Throttl", FailureClass.THROTTLED),
    ("TooManyRequests", FailureClass.THROTTLED),
    ("ProvisionedThroughputExceeded", FailureClass.THROTTLED),
    ("RequestLimitExceeded", FailureClass.THROTTLED),
    ("LimitExceeded", FailureClass.THROTTLED),
    ("ValidationException", FailureClass.REFUSED),
    ("ValidationError", FailureClass.REFUSED),
    ("MappingTemplate", FailureClass.REFUSED),
    ("BadRequest", FailureClass.REFUSED),
    ("Malformed", FailureClass.REFUSED),
    ("Internal", FailureClass.OFFLINE),
    ("ServiceUnavailable", FailureClass.OFFLINE),
    ("ExecutionTimeout", FailureClass.OFFLINE),
)
_THROTTLE_WORDS = ("throughput exceeds the current capacity", "rate exceeded", "throttl")


def classify_error(error: Any, *, status: int | None = None, retry_after: float | None = None) -> Failure:
    """The class of one entry of a GraphQL `errors` list."""
    if not isinstance(error, Mapping):
        return Failure(FailureClass.UNKNOWN, str(error)[:_MAX_MESSAGE])
    extensions = error.get("extensions")
    error_type = error.get("errorType") or (extensions.get("errorType") if isinstance(extensions, Mapping) else None)
    message = str(error.get("message") or "")[:_MAX_MESSAGE]
    text = f"{error_type}: {message}" if error_type else message
    by_status = None if status is None else _by_status(status)
    if by_status is not None:
        return Failure(by_status, text, retry_after)
    if error_type:
        for fragment, kind in _BY_TYPE:
            if fragment.lower() in str(error_type).lower():
                return Failure(kind, text, retry_after)
    if any(words in message.lower() for words in _THROTTLE_WORDS):
        return Failure(FailureClass.THROTTLED, text, retry_after)
    if not error_type and not error.get("path"):  # AppSync's validation of the document itself (§3)
        return Failure(FailureClass.REFUSED, text)
    return Failure(FailureClass.UNKNOWN, text, retry_after)


def _by_status(status: int) -> FailureClass | None:
    if status in (401, 403):
        return FailureClass.UNAUTHORIZED
    if status == 429:
        return FailureClass.THROTTLED
    if status == 413:
        return FailureClass.REFUSED
    if status >= 500 or status == 408:
        return FailureClass.OFFLINE
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from: Plexus's own client wraps the real one in a bare Exception (§7)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def graphql_errors(error: BaseException) -> tuple[list[Any], Any] | None:
    """`errors` and partial `data` of a GraphQL answer that a client raised, if that is what it raised."""
    for link in chain(error):
        errors = getattr(link, "errors", None)
        if isinstance(errors, list) and errors:
            return errors, getattr(link, "data", None)
    return None


def classify(error: BaseException, *, status: int | None = None, retry_after: float | None = None) -> Failure:
    """The class of an exception raised by a client, ours or Plexus's own, with gql 3.5 or 4."""
    answered = graphql_errors(error)
    if answered is not None:
        return classify_error(answered[0][0], status=status, retry_after=retry_after)
    for link in chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, requests.Response):
            status = response.status_code
            retry_after = retry_after_of(response.headers)
            break
    for link in chain(error):
        if isinstance(link, TransportServerError):
            status = status or link.code or 500
            kind = _by_status(status) or FailureClass.OFFLINE
            return Failure(kind, f"HTTP {status}", retry_after)
        if isinstance(link, TransportProtocolError):
            # the text of the answer stays out: it can be anything
            return Failure(
                FailureClass.OFFLINE, f"HTTP {status or 200}, and the answer is not GraphQL (a captive portal?)"
            )
        if isinstance(link, (requests.RequestException, OSError, TransportError)):
            return Failure(FailureClass.OFFLINE, _describe(error), not_sent=_never_left(error))
    return Failure(FailureClass.UNKNOWN, type(error).__name__)


class NotS3(Exception):
    """An answer without what every answer of S3 has: a proxy's, or a captive portal's."""


# What a person has to mend, by S3's error code, by HTTP status where there is no code (HEAD), or by name of exception.
_DENIED = "access denied: the credentials do not allow it, or the object is not there"
_ELSEWHERE = "the bucket is in another AWS region"
_INVALID = "the AWS credentials are not valid"
_EXPIRED = "the AWS credentials have expired: renew them"
_S3_REFUSALS = {
    "NoSuchKey": "the object is not there",
    "404": "the object is not there",
    "NoSuchBucket": "the bucket is not there: see the setting attachments_bucket",
    "PermanentRedirect": _ELSEWHERE,
    "301": _ELSEWHERE,
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _INVALID,
    "SignatureDoesNotMatch": _INVALID,
    "InvalidToken": _INVALID,
    "TokenRefreshRequired": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "EntityTooLarge": "the object is too large",
    "NoCredentialsError": "S3 is not configured: there are no AWS credentials",
    "PartialCredentialsError": "S3 is not configured: the AWS credentials are incomplete",
    "ProfileNotFound": "S3 is not configured: there is no such AWS profile",
    "ConfigParseError": "S3 is not configured: the AWS configuration file is not valid",
    "NoRegionError": "S3 is not configured: there is no AWS region",
    "InvalidRegionError": "S3 is not configured: the AWS region is not valid",
    "ValueError": "S3 is not configured: its endpoint is not a valid URL",
    "SSOTokenLoadError": _EXPIRED,
    "UnauthorizedSSOTokenError": _EXPIRED,
    "TokenRetrievalError": _EXPIRED,
    "ParamValidationError": "the key or the bucket's name is not valid",
}
# Codes of 4xx answers that mean "again, later", and those of single objects in an answer that is none.
_PASSING = """InternalError ServiceUnavailable SlowDown RequestTimeout RequestTimeTooSkewed OperationAborted Throttling
    ThrottlingException ThrottledException RequestThrottled RequestThrottledException TooManyRequestsException
    RequestLimitExceeded BandwidthLimitExceeded"""
_S3_PASSES = frozenset(_PASSING.split())


def classify_s3(error: BaseException, key: str) -> Failure:
    """The class of an exception of boto3's, or of NotS3: what a person has to mend is refused, all else passes."""
    response = getattr(error, "response", None)
    found = response.get("Error") if isinstance(response, Mapping) else None
    if isinstance(response, Mapping) and isinstance(found, Mapping):
        status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        return classify_s3_code(str(found.get("Code")), key, status=status)
    if isinstance(error, InvalidClient):
        return Failure(FailureClass.REFUSED, f"{key}: {error}", by_s3=True)
    code = type(error).__name__
    if code in _S3_REFUSALS:
        return classify_s3_code(code, key)
    names = {one.__name__ for one in type(error).__mro__}  # boto3 is not imported for this
    # boto3 follows a portal's redirects, looking for the bucket's region, until the stack ends
    if isinstance(error, (NotS3, OSError, RecursionError)) or names & {"BotoCoreError", "ResponseParserError"}:
        return Failure(FailureClass.UNAVAILABLE, f"S3 is out of reach ({code})")
    return Failure(FailureClass.UNKNOWN, f"{key}: asking S3 failed: {code}")  # not S3's fault: ours, or boto3's


def classify_s3_code(code: str, key: str, *, status: int | None = None) -> Failure:
    """The class of an error code of S3's; `status` is the HTTP status of an answer that is an error as a whole."""
    if code in _S3_REFUSALS:
        return Failure(FailureClass.REFUSED, f"{key}: {_S3_REFUSALS[code]} ({code})", by_s3=True)
    if code in _S3_PASSES or (status is not None and (not 400 <= status < 500 or status in (408, 429))):
        return Failure(FailureClass.UNAVAILABLE, f"S3 is out of reach ({code})")
    return Failure(FailureClass.REFUSED, f"{key}: refused by S3 ({code})", by_s3=True)


def _describe(error: BaseException) -> str:
    """The most specific exception of the chain, by name: messages of network libraries hold URLs and objects."""
    links = list(chain(error))
    named = [link for link in links if isinstance(link, requests.RequestException)] or links
    if isinstance(named[0], Redirected):
        return str(named[0])
    name = type(named[0]).__name__
    words = {
        "ConnectTimeout": "connecting took too long",
        "ReadTimeout": "no answer in time",
        "ConnectionError": "no connection",
        "MissingSchema": "the API URL is not a URL: it needs https://",
        "InvalidSchema": "the API URL is not an http or https URL",
        "InvalidURL": "the API URL is not a valid URL",
        "SSLError": "no secure connection",
    }
    return words.get(name, name)


def _never_left(error: BaseException) -> bool:
    """Whether the connection was never made, so that nothing can have been applied."""
    names = {type(link).__name__ for link in chain(error)}
    return bool(
        names & {"NewConnectionError", "ConnectionRefusedError", "ConnectTimeout", "NameResolutionError", "gaierror"}
    )


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds; the form with a date is not used by AppSync."""
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
