"""Attachments: the parts of an envelope that are kept in S3, as whole objects."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import quote

from plexus_tactus_cache.errors import InvalidClient
from plexus_tactus_cache.remote.discreet import discreet
from plexus_tactus_cache.remote.endpoint import refusal_of
from plexus_tactus_cache.remote.failures import NotS3, RequestFailed, classify_s3, classify_s3_code

BUCKET_VARIABLE = "AMPLIFY_STORAGE_REPORTBLOCKDETAILS_BUCKET_NAME"  # Plexus's own (plexus-facts.md §6)
DEFAULT_BUCKET = "reportblockdetails-production"
_DELETE_BATCH = 1000  # keys in one request, S3's limit
_LIBRARIES = ("boto3", "botocore", "urllib3")  # at DEBUG they log the bucket, signatures, and whole objects


class Attachments(Protocol):
    """Objects by key. Any thread, and any process after a fork.

    Every method raises RequestFailed, and nothing else for S3's sake: UNAVAILABLE when trying again will do, REFUSED,
    naming the key, when a person has to mend something. Nothing is tried twice.
    """

    def get(self, key: str) -> tuple[bytes, str]:
        """The body and the ETag. A missing object is REFUSED, never an empty value."""

    def etag(self, key: str) -> str:
        """The ETag alone, which changes with the body."""

    def put(self, key: str, body: bytes) -> str:
        """Write a JSON object, replacing what was there; its ETag. When it returns, every reader sees it.

        When it fails, the object may have been written all the same.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Forget objects; missing ones are fine. When it fails, some of them may be gone."""


class S3Attachments:
    """Attachments in one bucket. boto3 finds credentials, region and endpoint as it always does, at the first call.

    Args:
        timeout: seconds that connecting, and then each wait for an answer, may take.
        allow_http: whether an http:// endpoint on another machine will do; None: as PLEXUS_CACHE_ALLOW_HTTP says.

    Raises ImportError, with the way out, where boto3 is not installed.
    """

    def __init__(self, bucket: str, timeout: float, allow_http: bool | None = None) -> None:
        if importlib.util.find_spec("boto3") is None:  # importing it takes long, so that waits for the first call
            raise ImportError("attachments in S3 need boto3: install plexus-tactus-cache with its extra `s3`")
        self._bucket = bucket
        self._timeout = timeout
        self._allow_http = allow_http
        self._made: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        return "S3Attachments(...)"

    @classmethod
    def from_environment(cls, bucket: str | None, timeout: float, allow_http: bool | None = None) -> S3Attachments:
        """The attachments in `bucket`; None: in the one that Plexus's environment names, or its default."""
        return cls(bucket or os.environ.get(BUCKET_VARIABLE) or DEFAULT_BUCKET, timeout, allow_http)

    def _client(self) -> Any:
        """One client for all threads of this process: connections must not be shared with a forked child.

        Without a lock, which a fork could leave locked for ever: two threads that come first at once make two clients,
        and one of them is kept. Raises InvalidClient for an endpoint that nothing is sent to.
        """
        made = self._made
        if made is None or made[0] != os.getpid():
            import boto3
            from botocore.config import Config

            config = Config(
                connect_timeout=self._timeout,
                read_timeout=self._timeout,
                retries={"total_max_attempts": 1},  # we back off ourselves, and say so in status
                request_checksum_calculation="when_required",  # what old S3-compatible servers understand
                response_checksum_validation="when_required",
            )
            # A session of its own: boto3's default one is not for several threads.
            client = boto3.session.Session().client("s3", config=config)
            refusal = refusal_of(client.meta.endpoint_url, self._allow_http, "S3's endpoint (AWS_ENDPOINT_URL)")
            if refusal is not None:
                raise InvalidClient(refusal)
            made = self._made = os.getpid(), client
        return made[1]

    def _call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        try:
            with discreet(*_LIBRARIES):
                client = self._client()
            with discreet(*_LIBRARIES):  # anew: making the client may have imported some
                answer: dict[str, Any] = getattr(client, operation)(Bucket=self._bucket, **arguments)
        except Exception as error:
            raise self._failed(error, key) from error
        return answer

    def _failed(self, error: Exception, key: str) -> RequestFailed:
        failure = classify_s3(error, key)
        if failure.by_s3:
            self._made = None  # a client keeps for life the credentials that it found, or did not find
        return RequestFailed(failure)

    def get(self, key: str) -> tuple[bytes, str]:
        answer = self._call("get_object", key, Key=key)
        try:
            with discreet(*_LIBRARIES):
                return answer["Body"].read(), _etag(answer)
        except Exception as error:  # the connection ended inside the body
            raise self._failed(error, key) from error

    def etag(self, key: str) -> str:
        return self._tagged("head_object", key)

    def put(self, key: str, body: bytes) -> str:
        return self._tagged("put_object", key, Body=body, ContentType="application/json")

    def _tagged(self, operation: str, key: str, **arguments: Any) -> str:
        answer = self._call(operation, key, Key=key, **arguments)
        try:
            return _etag(answer)
        except NotS3 as error:
            raise self._failed(error, key) from error

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        for start in range(0, len(wanted), _DELETE_BATCH):
            some = wanted[start : start + _DELETE_BATCH]
            answer = self._call("delete_objects", some[0], Delete={"Objects": [{"Key": key} for key in some]})
            for problem in answer.get("Errors", []):
                raise RequestFailed(classify_s3_code(str(problem.get("Code")), str(problem.get("Key"))))
            if len(answer.get("Deleted", [])) < len(set(some)):  # S3 names missing ones too
                raise RequestFailed(classify_s3(NotS3(), some[0]))


def _etag(answer: dict[str, Any]) -> str:
    """Raises NotS3."""
    found = answer.get("ETag")
    if not isinstance(found, str):
        raise NotS3
    return found


def s3_or_none(bucket: str | None, timeout: float, allow_http: bool | None = None) -> S3Attachments | None:
    """As `S3Attachments.from_environment`; None without boto3, the extra `s3`."""
    try:
        return S3Attachments.from_environment(bucket, timeout, allow_http)
    except ImportError:
        return None


_UNIQUE = re.compile(r"(reportblocks/)?procedures/[^/]+/[a-z_]+-[0-9a-f]{32}\.json")


def is_unique(key: str) -> bool:
    """Whether it looks like a `new_key`, whose object is never written again."""
    return _UNIQUE.fullmatch(key) is not None


def new_key(procedure_id: str, part: str, unique: str) -> str:
    """The key of a new object: under the prefixes that Plexus follows (§6), and never one of its own fixed keys.

    Those have no hyphen in their last segment. An id that is no plain segment of a path is escaped, so that no two
    ids share a key, and none leaves its prefix.
    """
    folder = "reportblocks/procedures" if part == "dashboard_state" else "procedures"
    segment = quote(procedure_id, safe="")
    if not segment.strip("."):
        segment = segment.replace(".", "%2E")  # to many a path, `.` and `..` are more than names
    return f"{folder}/{segment}/{part}-{unique}.json"
