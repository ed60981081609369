"""Attachments: the parts of an envelope that are kept in S3, as whole objects."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import quote

from plexus_tactus_cache.failures import RequestFailed, classify_s3

BUCKET_VARIABLE = "AMPLIFY_STORAGE_REPORTBLOCKDETAILS_BUCKET_NAME"  # Plexus's own (plexus-facts.md §6)
DEFAULT_BUCKET = "reportblockdetails-production"
_DELETE_BATCH = 1000  # keys in one request, S3's limit


class Attachments(Protocol):
    """Objects by key. Any thread. Every method raises RequestFailed, and nothing else for S3's sake."""

    def get(self, key: str) -> tuple[bytes, str]:
        """The body and the ETag. A missing object is a failure, never an empty value."""

    def etag(self, key: str) -> str:
        """The ETag alone."""

    def put(self, key: str, body: bytes) -> str:
        """Write a JSON object; its ETag. When it returns, every reader sees it."""

    def delete(self, keys: Iterable[str]) -> None:
        """Forget objects; missing ones are fine."""


class S3Attachments:
    """Attachments in one bucket. boto3 finds credentials, region and endpoint as it always does.

    Args:
        timeout: seconds that connecting, and then each wait for an answer, may take.
    """

    def __init__(self, bucket: str, timeout: float) -> None:
        self._bucket = bucket
        self._timeout = timeout
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def _client(self) -> Any:
        """One client for all threads of this process: connections must not be shared with a forked child."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
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
                self._made = os.getpid(), boto3.session.Session().client("s3", config=config)
            return self._made[1]

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client(), operation)(Bucket=self._bucket, **arguments)
        except Exception as error:
            raise RequestFailed(classify_s3(error, key)) from error

    def get(self, key: str) -> tuple[bytes, str]:
        answer = self._call("get_object", key, Key=key)
        try:
            return answer["Body"].read(), answer["ETag"]
        except Exception as error:  # the connection ended inside the body
            raise RequestFailed(classify_s3(error, key)) from error

    def etag(self, key: str) -> str:
        found: str = self._call("head_object", key, Key=key)["ETag"]
        return found

    def put(self, key: str, body: bytes) -> str:
        found: str = self._call("put_object", key, Key=key, Body=body, ContentType="application/json")["ETag"]
        return found

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        for start in range(0, len(wanted), _DELETE_BATCH):
            some = wanted[start : start + _DELETE_BATCH]
            self._call("delete_objects", some[0], Delete={"Objects": [{"Key": key} for key in some], "Quiet": True})


def s3_or_none(bucket: str | None, timeout: float) -> S3Attachments | None:
    """The attachments in `bucket` (default: Plexus's); None without boto3, the extra `s3`."""
    try:
        import boto3  # noqa: F401 - only whether it is there
    except ImportError:
        return None
    return S3Attachments(bucket or os.environ.get(BUCKET_VARIABLE) or DEFAULT_BUCKET, timeout)


_UNIQUE = re.compile(r"(reportblocks/)?procedures/[^/]+/[a-z_]+-[0-9a-f]{32}\.json")


def is_unique(key: str) -> bool:
    """Whether it looks like a `new_key`, whose object is never written again."""
    return _UNIQUE.fullmatch(key) is not None


def new_key(procedure_id: str, part: str, unique: str) -> str:
    """The key of a new object: under the prefixes that Plexus follows (§6), and never one of its own fixed keys."""
    folder = "reportblocks/procedures" if part == "dashboard_state" else "procedures"
    return f"{folder}/{quote(procedure_id, safe='')}/{part}-{unique}.json"
