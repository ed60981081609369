"""The S3 client: what it does, and what its failures mean."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexus_tactus_cache.remote.attachments import DEFAULT_BUCKET, S3Attachments, is_unique, new_key, s3_or_none
from plexus_tactus_cache.remote.failures import Failure, FailureClass, RequestFailed, classify_s3
from remote.s3server import BUCKET, Bucket, S3Server

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TIMEOUT = 1.0
OPERATIONS: dict[str, Callable[[S3Attachments], Any]] = {
    "get": lambda attachments: attachments.get("procedures/p/state.json"),
    "etag": lambda attachments: attachments.etag("procedures/p/state.json"),
    "put": lambda attachments: attachments.put("procedures/p/state.json", b"{}"),
    "delete": lambda attachments: attachments.delete(["procedures/p/state.json"]),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


@pytest.fixture
def attachments(s3: S3Server) -> S3Attachments:
    return S3Attachments(BUCKET, timeout=TIMEOUT)


def failure_of(operation: Callable[[S3Attachments], Any], attachments: S3Attachments) -> Failure:
    with pytest.raises(RequestFailed) as raised:
        operation(attachments)
    return raised.value.failure


def test_objects_come_back(attachments: S3Attachments, bucket: Bucket) -> None:
    etag = attachments.put("procedures/p/state-1.json", b'{"a": 1}')
    assert attachments.get("procedures/p/state-1.json") == (b'{"a": 1}', etag)
    assert attachments.etag("procedures/p/state-1.json") == etag
    found = bucket.client.get_object(Bucket=BUCKET, Key="procedures/p/state-1.json")
    assert found["Body"].read() == b'{"a": 1}'
    assert found["ContentType"] == "application/json"
    bucket.write("procedures/p/state-1.json", b"{}")
    assert attachments.etag("procedures/p/state-1.json") != etag
    attachments.delete(["procedures/p/state-1.json", "procedures/p/never.json"])
    assert bucket.all_keys() == set()
    attachments.delete([])


def test_many_are_deleted_in_few_requests(s3: S3Server, attachments: S3Attachments, bucket: Bucket) -> None:
    attachments.put("last", b"{}")
    s3.requests.clear()
    attachments.delete([*(f"never-{number}" for number in range(1500)), "last"])
    assert len(s3.requests) == 2
    assert bucket.all_keys() == set()


# --- failures ---------------------------------------------------------------------------------------------


@each_operation
@pytest.mark.parametrize(
    ("fault", "kind"),
    [("down", "unavailable"), ("refuse", "unavailable"), ("deny", "refused"), ("slow", "unavailable")],
)
def test_failures(
    s3: S3Server, attachments: S3Attachments, operation: Callable[[S3Attachments], Any], fault: str, kind: str
) -> None:
    attachments.put("warm", b"{}")
    s3.requests.clear()
    getattr(s3, fault)()
    started = time.monotonic()
    assert failure_of(operation, attachments).kind is FailureClass(kind)
    assert time.monotonic() - started < TIMEOUT + 8
    assert len(s3.requests) == (0 if fault == "refuse" else 1)  # nothing is tried twice
    s3.heal()
    attachments.put("k", b"{}")


def test_slow_is_not_down(s3: S3Server, attachments: S3Attachments) -> None:
    s3.slow(TIMEOUT / 4)
    attachments.put("k", b"{}")
    assert attachments.get("k")[0] == b"{}"


@pytest.mark.parametrize("operation", [OPERATIONS["put"], OPERATIONS["etag"]], ids=["put", "HEAD, without a body"])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("500 Internal Server Error", "InternalError", "unavailable"),
        ("502 Bad Gateway", "Whatever", "unavailable"),
        ("503 Service Unavailable", "ServiceUnavailable", "unavailable"),
        ("429 Too Many Requests", "Whatever", "unavailable"),
        ("408 Request Timeout", "Whatever", "unavailable"),
        ("302 Found", "Whatever", "unavailable"),
        ("403 Forbidden", "AccessDenied", "refused"),
        ("404 Not Found", "NoSuchBucket", "refused"),
        ("400 Bad Request", "ExpiredToken", "refused"),
        ("403 Forbidden", "InvalidAccessKeyId", "refused"),
        ("403 Forbidden", "SignatureDoesNotMatch", "refused"),
        ("405 Method Not Allowed", "NeverHeardOf", "refused"),
    ],
)
def test_what_s3_answers(
    s3: S3Server,
    attachments: S3Attachments,
    operation: Callable[[S3Attachments], Any],
    status: str,
    code: str,
    kind: str,
) -> None:
    s3.fail(status, code)
    failure = failure_of(operation, attachments)
    assert failure.kind is FailureClass(kind)
    if kind == "refused":
        assert "procedures/p/state.json" in failure.message
    assert BUCKET not in failure.message


@pytest.mark.parametrize("code", ["SlowDown", "RequestTimeout", "ThrottlingException", "RequestTimeTooSkewed"])
def test_an_answer_below_500_that_means_again_later(s3: S3Server, attachments: S3Attachments, code: str) -> None:
    s3.fail("400 Bad Request", code)
    assert failure_of(OPERATIONS["put"], attachments).kind is FailureClass.UNAVAILABLE


@each_operation
def test_an_answer_that_is_not_s3s(
    s3: S3Server, attachments: S3Attachments, operation: Callable[[S3Attachments], Any]
) -> None:
    s3.answer("200 OK", "<html>log in here</html>")
    assert failure_of(operation, attachments).kind is FailureClass.UNAVAILABLE


def test_a_body_that_is_cut_is_not_a_body(s3: S3Server, attachments: S3Attachments) -> None:
    s3.cut()
    assert failure_of(OPERATIONS["get"], attachments).kind is FailureClass.UNAVAILABLE


def test_one_object_that_is_not_deleted_is_a_failure(s3: S3Server, attachments: S3Attachments) -> None:
    for code, kind in (("AccessDenied", "refused"), ("InternalError", "unavailable")):
        problem = f"<Error><Key>b</Key><Code>{code}</Code><Message>no</Message></Error>"
        s3.answer("200 OK", f"<DeleteResult><Deleted><Key>a</Key></Deleted>{problem}</DeleteResult>")
        failure = failure_of(lambda some: some.delete(["a", "b"]), attachments)
        assert failure.kind is FailureClass(kind)


def test_a_missing_object_is_a_failure_that_names_it(attachments: S3Attachments) -> None:
    for name in ("get", "etag"):
        failure = failure_of(OPERATIONS[name], attachments)
        assert failure.kind is FailureClass.REFUSED
        assert "procedures/p/state.json: the object is not there" in failure.message


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_names_the_setting() -> None:
    failure = failure_of(OPERATIONS["get"], S3Attachments("no-such-bucket", TIMEOUT))
    assert failure.kind is FailureClass.REFUSED
    assert "attachments_bucket" in failure.message


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (dict.fromkeys(CREDENTIALS), "no AWS credentials"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "incomplete"),
        ({"AWS_PROFILE": "nobody"}, "no such AWS profile"),
        ({"AWS_ENDPOINT_URL_S3": "not a url"}, "not a valid URL"),
    ],
)
def test_what_is_mended_is_noticed(
    attachments: S3Attachments, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str | None], words: str
) -> None:
    with monkeypatch.context() as broken:
        for name, value in environment.items():
            if value is None:
                broken.delenv(name)
            else:
                broken.setenv(name, value)
        failure = failure_of(OPERATIONS["put"], attachments)
        assert failure.kind is FailureClass.REFUSED
        assert failure.by_s3
        assert words in failure.message
    attachments.put("k", b"{}")  # without a new process


def test_renewed_credentials_are_used(
    s3: S3Server, attachments: S3Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    attachments.put("k", b"{}")
    s3.fail("400 Bad Request", "ExpiredToken")
    failure_of(OPERATIONS["put"], attachments)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    used: list[str] = []

    def look(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        used.append(environ["HTTP_AUTHORIZATION"])
        start_response("200 OK", [("ETag", '"e"')])
        return []

    s3._application = look
    attachments.put("k", b"{}")
    assert "Credential=renewed/" in used[0]


def test_an_error_of_ours_is_not_an_outage() -> None:
    for error in (TypeError("x"), KeyError("x"), RuntimeError("x")):
        assert classify_s3(error, "k").kind is FailureClass.UNKNOWN
    assert classify_s3(ConnectionResetError(), "k").kind is FailureClass.UNAVAILABLE


# --- threads, processes, logs -----------------------------------------------------------------------------


def in_a_child(action: Callable[[], Any]) -> int:
    """The exit status of a forked child that does this."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_makes_its_own_connection(attachments: S3Attachments, bucket: Bucket) -> None:
    attachments.put("parent", b"{}")
    assert in_a_child(lambda: attachments.put("child", b"{}")) == 0
    attachments.put("parent again", b"{}")
    assert bucket.all_keys() == {"parent", "child", "parent again"}


def test_a_fork_while_another_thread_makes_its_client(
    attachments: S3Attachments, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()
    parent, session = os.getpid(), boto3.session.Session

    def slow_session() -> Any:
        if os.getpid() == parent:
            making.set()
            go_on.wait(30)
        return session()

    monkeypatch.setattr(boto3.session, "Session", slow_session)
    thread = threading.Thread(target=attachments.put, args=("parent", b"{}"))
    thread.start()
    assert making.wait(30)
    assert in_a_child(lambda: attachments.put("child", b"{}")) == 0
    go_on.set()
    thread.join(30)
    assert bucket.all_keys() == {"parent", "child"}


def test_one_client_serves_many_threads(attachments: S3Attachments, bucket: Bucket) -> None:
    together = threading.Barrier(8)

    def work(number: int) -> None:
        together.wait(30)
        for turn in range(5):
            etag = attachments.put(f"{number}-{turn}", str(number).encode())
            assert attachments.get(f"{number}-{turn}") == (str(number).encode(), etag)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(bucket.all_keys()) == 40


def test_neither_bucket_nor_credentials_nor_bodies_are_logged(
    s3: S3Server, attachments: S3Attachments, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    caplog.set_level(logging.DEBUG)
    attachments.put("k", b'{"body": "private"}')
    attachments.get("k")
    s3.down()
    failure_of(OPERATIONS["put"], attachments)
    text = "\n".join(one.getMessage() for one in caplog.records if one.name != "werkzeug")  # which is the server's
    for secret in (BUCKET, "the-key-id", "the-secret", "private", "Signature"):
        assert secret not in text
    assert BUCKET not in repr(attachments)


# --- names ------------------------------------------------------------------------------------------------


def test_keys() -> None:
    assert new_key("p1", "state", "u1") == "procedures/p1/state-u1.json"
    assert new_key("p1", "dashboard_state", "u1") == "reportblocks/procedures/p1/dashboard_state-u1.json"
    assert is_unique(new_key("p1", "lua_state", "0" * 32))
    assert is_unique(new_key("p1", "dashboard_state", "0" * 32))


@given(
    st.text(max_size=20) | st.sampled_from(["", ".", "..", "...", "../secret", "a/b", "%2E", "ä b?#", "p/state.json"])
)
def test_no_id_leaves_its_prefix_or_meets_a_key_of_plexuss(procedure_id: str) -> None:
    for part, folder in (("state", "procedures"), ("dashboard_state", "reportblocks/procedures")):
        key = new_key(procedure_id, part, "u")
        directory, _, name = key.removeprefix(f"{folder}/").rpartition("/")
        assert key.startswith(f"{folder}/")
        assert "/" not in directory
        assert directory not in (".", "..")
        assert name == f"{part}-u.json"
        assert os.path.normpath(f"/{key}").startswith(f"/{folder}/")


@given(st.lists(st.text(max_size=4) | st.sampled_from([".", "%2E", "..", "a/b", "a%2Fb"]), unique=True, max_size=6))
def test_no_two_ids_share_a_key(ids: list[str]) -> None:
    assert len({new_key(one, "state", "u") for one in ids}) == len(ids)


# --- where ------------------------------------------------------------------------------------------------


def test_which_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "AMPLIFY_STORAGE_REPORTBLOCKDETAILS_BUCKET_NAME"
    monkeypatch.delenv(name, raising=False)
    assert S3Attachments.from_environment(None, 1)._bucket == DEFAULT_BUCKET == "reportblockdetails-production"
    monkeypatch.setenv(name, "from-the-environment")
    assert S3Attachments.from_environment(None, 1)._bucket == "from-the-environment"
    assert S3Attachments.from_environment("mine", 1)._bucket == "mine"
    found = s3_or_none(None, 1)
    assert found is not None
    assert found._bucket == "from-the-environment"


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert importlib.util.find_spec("boto3") is None
    with pytest.raises(ImportError, match=r"with its extra `s3`"):
        S3Attachments.from_environment(None, 1)
    assert s3_or_none(None, 1) is None
