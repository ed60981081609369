"""What tells a row that is as it was written from one that is not. Pure."""

from __future__ import annotations

import zlib
from typing import Any

MODE_RAW = 1  # how diskcache marks a value that is in its row, as it is
CHECKSUM_BYTES = 4


def intact(key: str, mode: int, filename: str | None, value: Any) -> bytes | None:
    """The payload of a row as the database has it; None for one that is not as it was written."""
    if mode == MODE_RAW and filename is None and isinstance(value, bytes):
        payload: bytes = value[CHECKSUM_BYTES:]
        if value[:CHECKSUM_BYTES] == checksum(key, payload).to_bytes(CHECKSUM_BYTES, "big"):
            return payload
    return None


def checksum(key: str, payload: bytes) -> int:
    """Over key and payload, so that a row that ended up under another key is noticed too."""
    return zlib.crc32(payload, zlib.crc32(key.encode()))
