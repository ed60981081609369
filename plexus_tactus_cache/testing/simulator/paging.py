"""Pages of a scan or an index, as DynamoDB gives them out."""

import base64
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from plexus_tactus_cache.testing.simulator import awsjson, conditions
from plexus_tactus_cache.testing.simulator.errors import VALIDATION, PlexusError

Record = dict[str, Any]
Key = tuple[int | str, str]

_PAGE_BYTES = 1024 * 1024  # a page ends here, whatever the limit
_DEFAULT_LIMIT = 100


def page(
    records: Iterable[Record],
    key: Callable[[Record], Key],
    *,
    descending: bool = False,
    condition: conditions.Condition | None = None,
    limit: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    """Return one page in the order of `key`, and the token of the next.

    The limit counts what is looked at, not what passes the condition: a page may be empty and not the last.
    """
    if limit is not None and limit < 1:
        raise PlexusError(VALIDATION, "Limit must be greater than or equal to 1")
    ordered = sorted(records, key=key, reverse=descending)
    if next_token is not None:
        after = _decode(next_token)
        ordered = [record for record in ordered if (key(record) < after if descending else key(record) > after)]
    seen: list[Record] = []
    size = 0
    for record in ordered[: limit or _DEFAULT_LIMIT]:
        if size > _PAGE_BYTES:
            break
        seen.append(record)
        size += awsjson.item_size(record)
    more = len(seen) < len(ordered)
    return {
        "items": [record for record in seen if conditions.holds(condition, record)],
        "nextToken": _encode(key(seen[-1])) if more else None,
    }


def scan_key(record: Record) -> Key:
    """Order of a scan: by the hash of the id, which to a client is no order at all."""
    return zlib.crc32(record["id"].encode("utf-8", "replace")), record["id"]


def updated_at_key(record: Record) -> Key:
    """Order of the index by account and `updatedAt`."""
    return record["updatedAt"], record["id"]


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _decode(token: str) -> Key:
    try:
        position, record_id = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError):
        raise PlexusError(VALIDATION, "Invalid pagination token given.") from None
    return position, record_id
