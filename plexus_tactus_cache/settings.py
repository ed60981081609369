"""Settings: every one can be given in code or as an environment variable with the prefix `PLEXUS_CACHE_`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(le=1e9)]  # about 30 years; the operating system refuses to wait for much longer
DIRECTORY_VARIABLE = "PLEXUS_CACHE_DIR"
APP_NAME = "plexus-tactus-cache"


class CacheSettings(BaseSettings):
    """How one cache behaves. Times are in seconds, sizes in bytes.

    `CacheSettings(push_interval=5)` in code wins over `PLEXUS_CACHE_PUSH_INTERVAL=5` in the environment.
    """

    model_config = SettingsConfigDict(env_prefix="PLEXUS_CACHE_", frozen=True, extra="forbid")

    push_interval: Seconds = Field(default=1.0, gt=0, description="writes within this time travel in one push")
    load_timeout: Seconds = Field(default=2.0, ge=0, description="how long an adapter's first load waits for Plexus")
    request_timeout: Seconds = Field(default=10.0, gt=0, description="limit for one request to Plexus")
    allow_http: bool = Field(
        default=False, description="http:// URLs of other machines are used too; else only https:// ones"
    )
    close_timeout: Seconds = Field(default=5.0, ge=0, description="how long close() tries to push what is pending")
    max_backoff: Seconds = Field(default=60.0, gt=0, description="longest wait between two attempts")
    durability: Literal["full", "normal"] = Field(
        default="full", description="full: a write that returned survives a power cut; normal: it survives a crash"
    )
    on_unreachable: Literal["empty", "wait", "raise"] = Field(
        default="empty", description="first load of an unknown procedure while Plexus is out of reach"
    )
    on_fork: Literal["park", "local", "remote"] = Field(
        default="park",
        description="a log that went on here and in Plexus, differently: wait for a person, or keep a side",
    )
    attachments: Literal["auto", "always", "never"] = Field(
        default="auto", description="which parts of a record are kept in S3: those that do not fit, all, or none"
    )
    attachments_bucket: str | None = Field(default=None, description="the S3 bucket; default: Plexus's")
    attachments_retention: float = Field(
        default=7 * 86_400.0, ge=0, description="how long an object in S3 is kept after nothing refers to it any more"
    )
    max_inline_bytes: int = Field(
        default=300_000,
        ge=10_000,
        description="metadata above this leaves the record; DynamoDB's limit is 400 KB for all of it",
    )
    max_request_bytes: int = Field(default=900_000, ge=10_000, description="AppSync refuses requests over about 1 MB")
    retention: Seconds | None = Field(
        default=None,
        gt=0,
        description="procedures of which Plexus has everything are forgotten here when not written for so long",
    )
    max_store_bytes: int | None = Field(
        default=None, gt=0, description="what makes the store hold more than this is refused with StoreFull"
    )
    lock_timeout: Seconds = Field(default=60.0, gt=0, description="how long a write waits for another process's write")


def default_directory(endpoint: str | None) -> Path:
    """The directory where the cache of `endpoint` lives when nobody named one.

    `PLEXUS_CACHE_DIR` if it is set; else one directory per endpoint below the user's *data* directory:
    a cache directory may be purged by the system, and what is not pushed yet exists nowhere else.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser()
    root = platformdirs.user_data_path(APP_NAME, appauthor=False)
    if endpoint is None:
        return root / "offline"
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", urlsplit(endpoint).netloc) or "endpoint"
    return root / f"{host}-{hashlib.blake2b(endpoint.encode(), digest_size=4).hexdigest()}"
