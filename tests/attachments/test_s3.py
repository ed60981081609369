"""The S3 client: what it does, and what its failures mean."""

from __future__ import annotations

import os
import time

import pytest

from attachments.s3server import BUCKET, Bucket, S3Server
from plexus_tactus_cache.attachments import DEFAULT_BUCKET, S3Attachments, new_key, s3_or_none
from plexus_tactus_cache.failures import FailureClass, RequestFailed


@pytest.fixture
def attachments(s3: S3Server) -> S3Attachments:
    return S3Attachments(BUCKET, timeout=1)


def test_objects_come_back(attachments: S3Attachments, bucket: Bucket) -> None:
    etag = attachments.put("procedures/p/state-1.json", b'{"a": 1}')
    assert attachments.get("procedures/p/state-1.json") == (b'{"a": 1}', etag)
    assert attachments.etag("procedures/p/state-1.json") == etag
    assert bucket.read("procedures/p/state-1.json") == b'{"a": 1}'
    bucket.write("procedures/p/state-1.json", b"{}")
    assert attachments.etag("procedures/p/state-1.json") != etag
    attachments.delete(["procedures/p/state-1.json", "procedures/p/never.json"])
    assert bucket.all_keys() == set()
    attachments.delete([])


@pytest.mark.parametrize("operation", ["get", "etag", "put", "delete"])
@pytest.mark.parametrize(("fault", "kind"), [("down", "unavailable"), ("deny", "refused"), ("slow", "unavailable")])
def test_failures(s3: S3Server, attachments: S3Attachments, operation: str, fault: str, kind: str) -> None:
    getattr(s3, fault)()
    arguments = {"put": ("k", b"{}"), "delete": (["k"],)}.get(operation, ("k",))
    started = time.monotonic()
    with pytest.raises(RequestFailed) as raised:
        getattr(attachments, operation)(*arguments)
    assert raised.value.failure.kind is FailureClass(kind)
    assert time.monotonic() - started < 10  # once, and within its timeout
    assert len([one for one in s3.requests if one[0] != "PUT" or "k" in one[1]]) <= 2
    s3.heal()
    attachments.put("k", b"{}")


def test_a_missing_object_is_a_failure_that_names_it(attachments: S3Attachments) -> None:
    for read in (attachments.get, attachments.etag):
        with pytest.raises(RequestFailed, match=r"procedures/p/state\.json.*not there") as raised:
            read("procedures/p/state.json")
        assert raised.value.failure.kind is FailureClass.REFUSED


def test_no_server_no_bucket_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestFailed, match="attachments_bucket"):
        S3Attachments("no-such-bucket", timeout=1).get("k")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(RequestFailed, match="no AWS credentials") as raised:
        S3Attachments(BUCKET, timeout=1).get("k")
    assert raised.value.failure.kind is FailureClass.REFUSED
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(RequestFailed) as raised:
        S3Attachments(BUCKET, timeout=1).get("k")
    assert raised.value.failure.kind is FailureClass.UNAVAILABLE


def test_a_forked_child_makes_its_own_connection(attachments: S3Attachments, bucket: Bucket) -> None:
    attachments.put("parent", b"{}")
    pid = os.fork()
    if pid == 0:
        try:
            attachments.put("child", b"{}")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    attachments.put("parent again", b"{}")
    assert bucket.all_keys() == {"parent", "child", "parent again"}


def test_keys() -> None:
    assert new_key("p1", "state", "u1") == "procedures/p1/state-u1.json"
    assert new_key("p1", "dashboard_state", "u1") == "reportblocks/procedures/p1/dashboard_state-u1.json"
    for odd in ("../secret", "a/b", "", "ä b?#"):
        assert new_key(odd, "state", "u1").count("/") == 2
        assert new_key(odd, "state", "u1").startswith("procedures/")


def test_which_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMPLIFY_STORAGE_REPORTBLOCKDETAILS_BUCKET_NAME", raising=False)
    found = s3_or_none(None, 1)
    assert found is not None
    assert found._bucket == DEFAULT_BUCKET
