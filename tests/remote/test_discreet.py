"""What goes to S3 and comes from there is in no log."""

from __future__ import annotations

import logging

import boto3
import pytest

from plexus_tactus_cache.remote.attachments import S3Attachments
from plexus_tactus_cache.remote.failures import RequestFailed
from remote.s3server import BUCKET, S3Server

LIBRARIES = ("boto3", "botocore", "urllib3", "s3transfer")


@pytest.mark.parametrize("by_name", [True, False])
def test_objects_are_not_logged(s3: S3Server, caplog: pytest.LogCaptureFixture, by_name: bool) -> None:
    caplog.set_level(logging.DEBUG)
    if by_name:
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in LIBRARIES:
                caplog.set_level(logging.DEBUG, logger=name)
    attachments = S3Attachments.from_environment(None, 5)
    attachments.put("name-of-a-key", b'"payload"')
    assert attachments.get("name-of-a-key")[0] == b'"payload"'
    attachments.etag("name-of-a-key")
    attachments.delete(["name-of-a-key"])
    s3.deny()
    with pytest.raises(RequestFailed):
        attachments.put("name-of-a-key", b'"payload"')
    ours = [record for record in caplog.records if record.name != "werkzeug"]  # the server's
    written = "\n".join(f"{record.getMessage()} {record.args!r}" for record in ours)
    assert "payload" not in written
    assert "name-of-a-key" not in written
    assert "Signature" not in written


def test_what_others_do_with_boto3_is_logged_as_they_want_it(s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    S3Attachments.from_environment(None, 5).put("key", b"{}")
    caplog.set_level(logging.DEBUG)
    boto3.session.Session().client("s3").put_object(Bucket=BUCKET, Key="theirs", Body=b"{}")
    assert "theirs" in caplog.text
    assert {"botocore.endpoint", "urllib3.connectionpool"} <= {record.name for record in caplog.records}


def test_frames_keep_no_locals(s3: S3Server) -> None:
    """boto3's have credentials in them."""
    attachments = S3Attachments.from_environment(None, 5)
    for break_ in (s3.deny, s3.cut, s3.refuse):
        s3.heal()
        break_()
        with pytest.raises(RequestFailed) as raised:
            attachments.get("key")
        frame = raised.value.__cause__.__traceback__ if raised.value.__cause__ else None
        names = []
        while frame is not None:
            module = str(frame.tb_frame.f_globals["__name__"])
            names.append(module)
            assert module.startswith(("plexus_tactus_cache", "contextlib")) or not frame.tb_frame.f_locals
            frame = frame.tb_next
        assert any(name.startswith("botocore") for name in names)
