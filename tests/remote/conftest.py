"""S3 for every test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from remote.s3server import BUCKET, Bucket, S3Server


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, with the environment of a machine that may use it."""
    server = S3Server()
    for name, value in {
        "AWS_ENDPOINT_URL_S3": server.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AMPLIFY_STORAGE_REPORTBLOCKDETAILS_BUCKET_NAME": BUCKET,
    }.items():
        monkeypatch.setenv(name, value)
    boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
    yield server
    server.close()
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()  # moto keeps its objects in this process


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    return Bucket(boto3.session.Session().client("s3"))
